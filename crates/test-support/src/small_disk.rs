//! A disk of a few megabytes: a tmpfs, which only root may mount.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

/// A mounted disk. It is unmounted and deleted on drop.
pub struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Mounts a disk with this many MiB; `None`, with a message, when it cannot be mounted.
    pub fn mount(mib: u32) -> Option<Self> {
        let folder = std::env::temp_dir().join(format!("tidings-disk-{}", uuid::Uuid::now_v7()));
        std::fs::create_dir(&folder).expect("a folder");
        let size = format!("size={mib}m");
        let is_mounted = run("mount", &["-t", "tmpfs", "-o", &size, "tmpfs"], &folder);
        if !is_mounted {
            let _ = std::fs::remove_dir(&folder);
            println!("skipped: a tmpfs cannot be mounted here, which needs root");
            return None;
        }
        Some(Self(folder))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Enlarges the disk.
    pub fn grow(&self, mib: u32) {
        let size = format!("remount,size={mib}m");
        assert!(run("mount", &["-o", &size], &self.0), "it grows");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // A server that still runs keeps the disk until it ends.
        run("umount", &["-l"], &self.0);
        let _ = std::fs::remove_dir(&self.0);
    }
}

fn run(program: &str, arguments: &[&str], folder: &Path) -> bool {
    let mut command = Command::new(program);
    let ended = command.args(arguments).arg(folder).output();
    ended.is_ok_and(|ended| ended.status.success())
}
