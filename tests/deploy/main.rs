//! What `deploy/` holds, without a cluster: the manifests fit the schemas of Kubernetes, the alerts name commands and
//! pages that exist, and every metric that is named anywhere is one that Tidings tells.

#![allow(unreachable_pub)] // one binary
#![allow(clippy::unwrap_used)] // helpers of tests are tests

mod alerts;
mod board;
mod kubernetes;
mod metrics;
mod schema;
mod systemd;
mod yaml;

use std::{
    fs,
    path::{Path, PathBuf},
};

/// A path from the root of the repository.
pub fn at(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// A text of the repository.
pub fn text(path: &str) -> String {
    fs::read_to_string(at(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The files of a folder with one of these ends, by their paths from the root, in order.
pub fn files(folder: &str, ends: &[&str]) -> Vec<String> {
    let entries = fs::read_dir(at(folder)).unwrap();
    let mut found: Vec<String> = entries
        .map(|entry| format!("{folder}/{}", entry.unwrap().file_name().to_str().unwrap()))
        .filter(|path| ends.iter().any(|end| path.ends_with(end)))
        .collect();
    found.sort();
    assert!(!found.is_empty(), "{folder} has no such files");
    found
}

/// Fails with all of them, if there are any.
pub fn no_more(broken: &[String]) {
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}
