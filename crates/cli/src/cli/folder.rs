//! A temporary folder that is deleted on drop. Never holds data that must outlive a command.

use std::{
    io,
    path::{Path, PathBuf},
};

use tidings::EventId;

pub(crate) struct Folder(PathBuf);

impl Folder {
    /// Creates a folder in the system's temporary folder.
    ///
    /// # Errors
    /// The error of the file system.
    pub(crate) fn new(purpose: &str) -> io::Result<Self> {
        let path = std::env::temp_dir().join(format!("tidings-{purpose}-{}", EventId::now()));
        std::fs::create_dir(&path)?;
        Ok(Self(path))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            tracing::warn!(%error, folder = %self.0.display(), "temporary folder not removed");
        }
    }
}
