//! The folder and the port of one test server. Owns their reservation: a folder `tidings-server-<port>` in the system's
//! temporary folder, so that two processes never choose the same port, even while the server of that port is down. The
//! folder is removed on drop; the next process removes the folders of killed processes. This module never starts a
//! server and never touches a folder whose owner is alive.

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
/// The owning process holds a lock (flock) on this file for as long as it lives.
const OWNER: &str = "owner";
/// The range is below the kernel's ephemeral ports. In that range, a client that reconnects while its server is down
/// can get the server's port as its own local port. It then talks to itself and keeps the server from returning.
const PORTS: Range<u16> = 20_000..32_000;
/// A folder without an owner file is being created or removed. When it is older than this, its process has died
/// meanwhile.
const UNOWNED_FOR: Duration = Duration::from_secs(3600);

/// A reserved folder and port; both are released on drop.
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
    /// [`ServerError::Io`] when the port is taken or the temporary folder cannot be written.
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

    /// The user of this process, by the owner of a file that it has created.
    pub(super) fn owner(&self) -> io::Result<u32> {
        Ok(fs::metadata(self.path.join(OWNER))?.uid())
    }

    /// Whether this process is root.
    pub(super) fn is_of_root(&self) -> bool {
        self.owner().is_ok_and(|owner| owner == 0)
    }

    fn reserve_any(parent: &Path) -> io::Result<Self> {
        let count = PORTS.end - PORTS.start;
        let random = RandomState::new().build_hasher().finish();
        // Cannot truncate: it is a remainder of a u16.
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
        // The file is locked before it gets its final name.
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
        // Drop cannot report an error; the next process removes what is left.
        let _ = fs::remove_dir_all(&self.path);
    }
}

fn is_taken(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::AddrInUse | io::ErrorKind::AlreadyExists
    )
}

/// Removes the folders of processes that died without a drop, and ends servers that outlived their owners.
fn sweep(parent: &Path) {
    let Ok(entries) = fs::read_dir(parent) else {
        return;
    };
    for entry in entries.flatten() {
        if entry.file_name().to_string_lossy().starts_with(PREFIX) {
            // The folder belongs to another user, or another process is removing it: not an error here.
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
    fn the_sweep_removes_only_folders_of_dead_processes() {
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
