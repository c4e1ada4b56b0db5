//! Creates the data folder of a server: by initdb, or as a copy of one that initdb has made before. Never starts a
//! server.

use std::{
    fs::{self, DirBuilder, File},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt, chown},
    path::{Path, PathBuf},
};

use super::{
    command::{command_as, stdout_of},
    data_folder, installation,
};
use crate::{find::PostgresPrograms, home::Home, server_error::ServerError};

/// Creates the data folder in the home by initdb.
pub(super) async fn create(
    user: Option<u32>,
    programs: &PostgresPrograms,
    home: &Home,
) -> Result<(), ServerError> {
    initdb(user, programs, home, &data_folder(home)).await
}

/// A folder in the system's temporary folder with what servers of one version have in common: programs that the user can
/// run, and a data folder that no server has used. It stays, for later processes.
pub(super) struct Template {
    pub(super) programs: PostgresPrograms,
    data: PathBuf,
}

impl Template {
    /// Finds the template of this version and user, or makes it. Other processes wait meanwhile.
    pub(super) async fn of(
        user: Option<u32>,
        programs: PostgresPrograms,
        home: &Home,
    ) -> Result<Self, ServerError> {
        let owner = home
            .owner()
            .map_err(ServerError::path("read the owner of", home.path()))?;
        let name = format!("tidings-postgres-{}-{owner}", programs.version);
        let folder = std::env::temp_dir().join(name);
        let _lock = lock(folder.clone(), owner).await?;
        let programs = match user {
            Some(user) => installed(user, programs, home, &folder).await?,
            None => programs,
        };
        let data = folder.join("data");
        if !data.is_dir() {
            // Renamed when it is complete: this process may be killed at any time.
            let making = folder.join("data.new");
            if making.exists() {
                fs::remove_dir_all(&making).map_err(ServerError::path("remove", &making))?;
            }
            make_for(user, &making).map_err(ServerError::path("create", &making))?;
            initdb(user, &programs, home, &making).await?;
            fs::rename(&making, &data).map_err(ServerError::path("rename", &making))?;
        }
        Ok(Self { programs, data })
    }

    /// Creates the data folder in the home.
    pub(super) async fn copy(&self, user: Option<u32>, home: &Home) -> Result<(), ServerError> {
        let mut copy = command_as(user, Path::new("cp"), home);
        copy.args(["-R", "-p"])
            .arg(&self.data)
            .arg(data_folder(home));
        let copied = copy.output().await.and_then(stdout_of);
        copied
            .map(drop)
            .map_err(ServerError::path("copy", &self.data))
    }
}

/// The programs, or the template's copy of them when the user cannot reach them.
async fn installed(
    user: u32,
    programs: PostgresPrograms,
    home: &Home,
    folder: &Path,
) -> Result<PostgresPrograms, ServerError> {
    if installation::can_run(user, &programs, home).await {
        return Ok(programs);
    }
    let (to, making) = (folder.join("programs"), folder.join("programs.new"));
    let copying = || -> io::Result<PathBuf> {
        if !to.is_dir() {
            if making.exists() {
                fs::remove_dir_all(&making)?;
            }
            installation::copied(&programs.folder, &making, user)?;
            fs::rename(&making, &to)?;
        }
        installation::place(&programs.folder, &to)
    };
    let copied = copying().map_err(ServerError::path("copy Postgres to", &to))?;
    Ok(PostgresPrograms {
        folder: copied,
        ..programs
    })
}

/// Locks the template's folder, which only its owner may write.
async fn lock(folder: PathBuf, owner: u32) -> Result<File, ServerError> {
    let locking = {
        let folder = folder.clone();
        move || -> io::Result<File> {
            match DirBuilder::new().mode(0o755).create(&folder) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
            let found = fs::symlink_metadata(&folder)?;
            if !found.is_dir() || found.uid() != owner || found.mode() & 0o022 != 0 {
                return Err(io::Error::other(
                    "it belongs to another user, or others may write it: remove it",
                ));
            }
            let lock = File::create(folder.join("lock"))?;
            lock.lock()?;
            Ok(lock)
        }
    };
    let locked = tokio::task::spawn_blocking(locking).await;
    let locked = locked.map_err(io::Error::other).flatten();
    locked.map_err(ServerError::path("lock", &folder))
}

fn make_for(user: Option<u32>, folder: &Path) -> io::Result<()> {
    DirBuilder::new().mode(0o700).create(folder)?;
    chown(folder, user, user)
}

async fn initdb(
    user: Option<u32>,
    programs: &PostgresPrograms,
    home: &Home,
    data: &Path,
) -> Result<(), ServerError> {
    let mut initdb = command_as(user, &programs.program("initdb"), home);
    initdb
        .args(["--no-sync", "--no-locale", "-A", "trust", "-E", "UTF8"])
        .args(["-U", "postgres", "-D"])
        .arg(data);
    let made = initdb.output().await.and_then(stdout_of);
    made.map(drop).map_err(ServerError::path("create", data))
}
