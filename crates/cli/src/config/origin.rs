//! How a configuration was read: with which flags, and from which file, so that it can be read again. Never reads a
//! value.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use super::{Config, ConfigError, Effective, Flags};

/// The file that is read when no other one is named.
const DEFAULT_FILE: &str = "tidings.toml";

/// How a configuration was read.
pub(crate) struct Origin {
    flags: Flags,
    path: PathBuf,
    /// The file that was read; `None` when there was none.
    identity: Option<Identity>,
}

/// Which file a path leads to, through symbolic links, and its last change. A Kubernetes ConfigMap is changed by a link
/// of a parent folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    file: (u64, u64),
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

/// A setting whose value differs, without its secrets.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) key: String,
    pub(crate) old: Option<String>,
    pub(crate) new: Option<String>,
}

impl Origin {
    pub(super) fn of(flags: Flags) -> Self {
        let path = PathBuf::from(DEFAULT_FILE);
        Self {
            flags,
            path,
            identity: None,
        }
    }

    /// Reads the named file, which must exist; else the default file, if it exists.
    pub(super) fn read(&mut self, named: Option<PathBuf>) -> Result<Option<String>, ConfigError> {
        let is_default = named.is_none();
        if let Some(named) = named {
            self.path = named;
        }
        // Before its text: a change meanwhile is noticed later.
        self.identity = Identity::of(&self.path);
        match fs::read_to_string(&self.path) {
            Ok(text) => Ok(Some(text)),
            Err(error) if is_default && error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(ConfigError::File {
                path: self.path.clone(),
                source,
            }),
        }
    }

    /// The file, which may not exist.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The file that was read.
    pub(super) fn file_read(&self) -> Option<&Path> {
        self.identity.as_ref().map(|_| &*self.path)
    }
}

impl Identity {
    /// `None` when there is no such file, or it cannot be seen.
    pub(crate) fn of(path: &Path) -> Option<Self> {
        let seen = fs::metadata(path).ok()?;
        Some(Self {
            file: (seen.dev(), seen.ino()),
            size: seen.size(),
            modified: (seen.mtime(), seen.mtime_nsec()),
            changed: (seen.ctime(), seen.ctime_nsec()),
        })
    }
}

impl Config {
    /// The file that it was read from, or would be read from if it existed.
    pub(crate) fn path(&self) -> &Path {
        &self.origin.path
    }

    /// The file as it was when it was read.
    pub(crate) fn identity(&self) -> Option<&Identity> {
        self.origin.identity.as_ref()
    }

    /// Reads it again. A file that was there and is gone is an error.
    ///
    /// # Errors
    /// [`ConfigError`] at the first value that cannot be used.
    pub(crate) fn again(&self) -> Result<Self, ConfigError> {
        let again = Self::load(self.origin.flags.clone())?;
        match (self.identity(), again.identity()) {
            (Some(_), None) => Err(ConfigError::File {
                path: self.path().to_owned(),
                source: io::ErrorKind::NotFound.into(),
            }),
            _ => Ok(again),
        }
    }

    /// The settings that another configuration gives other values.
    pub(crate) fn changes(&self, other: &Self) -> Vec<Change> {
        let of = |config: &Self, key: &str| {
            let mut all = config.effective.iter();
            all.find(|one| one.key == key)
                .map(|one| (one.text.clone(), one.value.clone()))
                .unwrap_or_default()
        };
        let here = self.effective.iter().map(|one| &one.key);
        let only_there = |one: &&Effective| self.effective.iter().all(|it| it.key != one.key);
        let there = other.effective.iter().filter(only_there);
        let keys = here.chain(there.map(|one| &one.key));
        let differs = |key: &String| {
            let ((old_text, old), (new_text, new)) = (of(self, key), of(other, key));
            (old_text != new_text).then(|| Change {
                key: key.clone(),
                old,
                new,
            })
        };
        keys.filter_map(differs).collect()
    }
}
