//! The folder and the port of one test server. Owns their reservation: a folder `tidings-server-<port>` in the
//! system's temporary folder, so that two processes never choose the same port, not even while the server that
//! has it is down. It is removed on drop; what a killed process left behind, the next one sweeps. It never
//! starts a server and never touches a folder whose owner lives.

use std::collections::hash_map::RandomState;
use std::env;
use std::fs::{self, DirBuilder, File};
use std::hash::{BuildHasher, Hasher};
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::ops::Range;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::time::Duration;

use super::process;
use crate::server_error::ServerError;

const PREFIX: &str = "tidings-server-";
/// Locked (flock) by the process that owns the folder, for as long as it lives.
const OWNER: &str = "owner";
/// Below the kernel's ephemeral ports: there, a client that reconnects while its server is down can be given
/// the server's own port as its local one, and then talks to itself and keeps the server from returning.
const PORTS: Range<u16> = 20_000..32_000;
/// A folder without an owner file is being created or removed; after this long, its process died doing so.
const UNOWNED_FOR: Duration = Duration::from_secs(3600);

/// A reserved folder and port; both are given back on drop.
#[derive(Debug)]
pub(super) struct Home {
    path: PathBuf,
    port: u16,
    _owner: File,
}

impl Home {
    /// Reserves `port`, or any free one.
    ///
    /// # Errors
    /// [`ServerError::Io`] when the port is taken or the temporary folder can not be written.
    pub(super) async fn reserve(port: Option<u16>) -> Result<Self, ServerError> {
        tokio::task::spawn_blocking(move || {
            static SWEPT: Once = Once::new();
            let parent = env::temp_dir();
            SWEPT.call_once(|| sweep(&parent));
            match port {
                Some(port) => Self::reserve_one(&parent, port),
                None => Self::reserve_any(&parent),
            }
        })
        .await
        .map_err(io::Error::other)
        .flatten()
        .map_err(ServerError::io(match port {
            Some(port) => format!("reserve the port {port}"),
            None => "reserve a port".into(),
        }))
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }

    /// Whether this process is root: what it creates belongs to its effective user.
    pub(super) fn is_of_root(&self) -> bool {
        fs::metadata(self.path.join(OWNER)).is_ok_and(|owner| owner.uid() == 0)
    }

    fn reserve_any(parent: &Path) -> io::Result<Self> {
        let count = PORTS.end - PORTS.start;
        let random = RandomState::new().build_hasher().finish();
        // Fits: a remainder of a u16.
        let first = (random % u64::from(count)) as u16;
        for step in 0..count {
            let port = PORTS.start + (first + step) % count;
            match Self::reserve_one(parent, port) {
                Err(e) if is_taken(&e) => {}
                reserved_or_failed => return reserved_or_failed,
            }
        }
        Err(io::ErrorKind::AddrInUse.into())
    }

    fn reserve_one(parent: &Path, port: u16) -> io::Result<Self> {
        TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
        let path = parent.join(format!("{PREFIX}{port}"));
        DirBuilder::new().mode(0o700).create(&path)?;
        // Under its final name the file is locked from the first moment on.
        let unlocked = path.join("owner.new");
        let owner = File::create_new(&unlocked)?;
        owner.try_lock()?;
        fs::rename(&unlocked, path.join(OWNER))?;
        Ok(Self {
            path,
            port,
            _owner: owner,
        })
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        // What stays behind is swept later: a drop has nobody to tell.
        let _ = fs::remove_dir_all(&self.path);
    }
}

fn is_taken(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::AddrInUse | io::ErrorKind::AlreadyExists
    )
}

/// Removes the folders of processes that died without a drop, and ends servers that outlived them.
fn sweep(parent: &Path) {
    let Ok(entries) = fs::read_dir(parent) else {
        return;
    };
    for entry in entries.flatten() {
        if entry.file_name().to_string_lossy().starts_with(PREFIX) {
            // Somebody else's folder, or one that another process is removing just now: not ours to report.
            let _ = sweep_one(&entry.path());
        }
    }
}

fn sweep_one(path: &Path) -> io::Result<()> {
    let owner = path.join(OWNER);
    match fs::symlink_metadata(&owner) {
        Ok(file) if file.is_file() => {
            let lock = File::open(&owner)?;
            lock.try_lock()?;
            process::end_orphan(path);
            fs::remove_dir_all(path)
        }
        Ok(_) => Ok(()),
        Err(_) => {
            let age = fs::symlink_metadata(path)?.modified()?.elapsed();
            if age.is_ok_and(|age| age > UNOWNED_FOR) {
                fs::remove_dir_all(path)?;
            }
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parent(name: &str) -> PathBuf {
        let path = env::temp_dir().join(format!("tidings-home-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        path
    }

    #[test]
    fn the_sweep_spares_the_living_and_removes_the_dead() {
        let parent = parent("sweep");
        let living = Home::reserve_any(&parent).unwrap();
        let dead = parent.join("tidings-server-1");
        fs::create_dir_all(dead.join("store")).unwrap();
        fs::write(dead.join(OWNER), "").unwrap();

        sweep(&parent);

        let (living_is_there, dead_is_there) = (living.path().exists(), dead.exists());
        drop(living);
        fs::remove_dir_all(&parent).unwrap();
        assert!(living_is_there && !dead_is_there);
    }

    #[test]
    fn a_reserved_port_is_not_given_twice() {
        let parent = parent("twice");
        let first = Home::reserve_any(&parent).unwrap();

        let second = Home::reserve_one(&parent, first.port());

        let kind = second.unwrap_err().kind();
        drop(first);
        fs::remove_dir_all(&parent).unwrap();
        assert_eq!(kind, io::ErrorKind::AlreadyExists);
    }
}
