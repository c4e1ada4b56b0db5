//! Runs the Postgres programs: the user and the environment. Never decides what they do.

use std::{
    io,
    path::Path,
    process::{Output, Stdio},
};

use tokio::process::Command;

use crate::home::Home;

pub(super) fn command_as(user: Option<u32>, program: &Path, home: &Home) -> Command {
    let mut command = command(program);
    command.current_dir(home.path());
    if let Some(user) = user {
        command.uid(user).gid(user);
    }
    command
}

pub(super) fn command(program: &Path) -> Command {
    let mut command = Command::new(program);
    command
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .env("LC_ALL", "C");
    // PGOPTIONS, PGSSLMODE and similar variables are meant for the caller's other servers.
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("PG") {
            command.env_remove(name);
        }
    }
    command
}

pub(super) fn stdout_of(output: Output) -> io::Result<String> {
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let refusal = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(refusal.trim().to_owned()))
}
