//! Makes the Postgres programs reachable for the user who runs them. Never starts a server.

use std::{
    fs, io,
    os::unix::fs::chown,
    path::{Path, PathBuf},
};

use super::command::command_as;
use crate::{find::PostgresPrograms, home::Home, server_error::ServerError};

/// Returns the programs, or a copy of them in the home when `user` cannot reach them, for example in a checkout below
/// root's home directory.
pub(super) async fn runnable_by(
    user: Option<u32>,
    programs: PostgresPrograms,
    home: &Home,
) -> Result<PostgresPrograms, ServerError> {
    let Some(user) = user else {
        return Ok(programs);
    };
    if can_run(user, &programs, home).await {
        return Ok(programs);
    }
    copied(&programs.folder, &home.path().join("postgres"), user)
        .map(|folder| PostgresPrograms { folder, ..programs })
        .map_err(ServerError::io(
            "copy Postgres to a directory where the user nobody can run it",
        ))
}

/// Whether the user can run the programs.
pub(super) async fn can_run(user: u32, programs: &PostgresPrograms, home: &Home) -> bool {
    let mut version = command_as(Some(user), &programs.program("postgres"), home);
    let answer = version.arg("--version").output().await;
    answer.is_ok_and(|answer| answer.status.success())
}

/// Copies an installation and returns the program folder of the copy. A wheel keeps the shared libraries next to its
/// package, as `<package>.libs`, and the programs find them by a relative path, so the copy has the same layout.
pub(super) fn copied(programs: &Path, to: &Path, user: u32) -> io::Result<PathBuf> {
    let programs = programs.canonicalize()?;
    let (installation, package, root) = layout(&programs)?;
    let parts = ["bin", "lib", "share"].map(|part| installation.join(part));
    for part in parts.iter().chain([&package.with_extension("libs")]) {
        if part.is_dir() {
            let below = part.strip_prefix(root).map_err(io::Error::other)?;
            copy_tree(part, &to.join(below))?;
        }
    }
    give_tree_away(to, user)?;
    place(&programs, to)
}

/// Where the program folder is in a copy.
pub(super) fn place(programs: &Path, copy: &Path) -> io::Result<PathBuf> {
    let programs = programs.canonicalize()?;
    let (_, _, root) = layout(&programs)?;
    let below = programs.strip_prefix(root).map_err(io::Error::other)?;
    Ok(copy.join(below))
}

/// The installation that a program folder is in, its package, and the folder of both.
fn layout(programs: &Path) -> io::Result<(&Path, &Path, &Path)> {
    let too_short = || io::Error::other("the programs are not in a directory of their own");
    let installation = programs.parent().ok_or_else(too_short)?;
    let package = installation.parent().ok_or_else(too_short)?;
    let root = package.parent().ok_or_else(too_short)?;
    Ok((installation, package, root))
}

fn copy_tree(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if from.is_dir() {
            copy_tree(&from, &to)?;
        } else {
            fs::copy(&from, &to)?;
        }
    }
    Ok(())
}

fn give_tree_away(path: &Path, user: u32) -> io::Result<()> {
    if path.is_dir() {
        for entry in fs::read_dir(path)? {
            give_tree_away(&entry?.path(), user)?;
        }
    }
    chown(path, Some(user), Some(user))
}
