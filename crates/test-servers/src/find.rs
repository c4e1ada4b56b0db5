//! Finds the servers' programs on this machine. Owns the search order: environment variable, the `.dev` folder of the
//! current directory and of its ancestors (`make servers` fills it), `PATH`, and for Postgres the folders that Debian
//! keeps off `PATH`. It never installs anything and never starts a server.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::server_error::ServerError;

/// The environment variable with the path of the nats-server program.
pub(super) const NATS_VARIABLE: &str = "TIDINGS_NATS_SERVER";
/// The environment variable with the folder of initdb, postgres and psql.
pub(super) const POSTGRES_VARIABLE: &str = "TIDINGS_POSTGRES_BIN";

const POSTGRES_PROGRAMS: [&str; 3] = ["initdb", "postgres", "psql"];
const DEBIAN_POSTGRES: &str = "/usr/lib/postgresql";

/// The folder with the programs of one Postgres, and its version.
#[derive(Debug, Clone)]
pub(super) struct PostgresPrograms {
    /// The folder of initdb, postgres and psql.
    pub(super) folder: PathBuf,
    /// For example `18.4`.
    pub(super) version: String,
}

/// All inputs of the search.
#[derive(Debug, Default)]
pub(super) struct Surroundings {
    current_folder: PathBuf,
    nats_server: Option<PathBuf>,
    postgres_folder: Option<PathBuf>,
    path: Vec<PathBuf>,
    debian_postgres: PathBuf,
}

impl Surroundings {
    pub(super) fn of_this_process() -> Self {
        Self {
            current_folder: env::current_dir().unwrap_or_default(),
            nats_server: variable(NATS_VARIABLE).map(PathBuf::from),
            postgres_folder: variable(POSTGRES_VARIABLE).map(PathBuf::from),
            path: variable("PATH")
                .map(|path| env::split_paths(&path).collect())
                .unwrap_or_default(),
            debian_postgres: DEBIAN_POSTGRES.into(),
        }
    }

    /// The nats-server program.
    ///
    /// # Errors
    /// [`ServerError::NotFound`]; also when the environment variable names a file that is not there.
    pub(super) fn nats_server(&self) -> Result<PathBuf, ServerError> {
        let candidates = match &self.nats_server {
            Some(program) => vec![program.clone()],
            None => self
                .dev_folders()
                .map(|dev| dev.join("bin"))
                .chain(self.path.iter().cloned())
                .map(|folder| folder.join("nats-server"))
                .collect(),
        };
        candidates
            .into_iter()
            .find(|program| program.is_file())
            .ok_or_else(|| ServerError::NotFound {
                programs: "nats-server".into(),
                variable: NATS_VARIABLE,
                places: self.places(self.nats_server.as_deref(), ".dev/bin"),
            })
    }

    /// The programs of Postgres: of version `major` when it is given, else the first ones in the search order.
    ///
    /// # Errors
    /// [`ServerError::NotFound`]; also when the environment variable names a folder without these programs.
    pub(super) fn postgres(&self, major: Option<u16>) -> Result<PostgresPrograms, ServerError> {
        let candidates = match (&self.postgres_folder, major) {
            (Some(folder), None) => vec![folder.clone()],
            (named, _) => {
                let dev = self.dev_folders().flat_map(|dev| {
                    let asked_for = major.map(|major| dev.join(format!("postgres{major}/bin")));
                    asked_for.into_iter().chain([dev.join("postgres/bin")])
                });
                let system = self.debian_postgres_newest_first();
                let named = named.iter().cloned();
                named
                    .chain(dev)
                    .chain(self.path.iter().cloned())
                    .chain(system)
                    .collect()
            }
        };
        candidates
            .into_iter()
            .filter_map(postgres_in)
            .find(|found| major.is_none_or(|major| found.is_of(major)))
            .ok_or_else(|| ServerError::NotFound {
                programs: match major {
                    Some(major) => format!("initdb, postgres and psql of Postgres {major}"),
                    None => "initdb, postgres and psql".into(),
                },
                variable: POSTGRES_VARIABLE,
                places: {
                    let named = self.postgres_folder.as_deref();
                    let mut places = self.places(named, ".dev/postgres*/bin");
                    if named.is_none() || major.is_some() {
                        places.push(format!("{}/*/bin", self.debian_postgres.display()));
                    }
                    places
                },
            })
    }

    /// A program on `PATH`.
    pub(super) fn on_path(&self, program: &str) -> Option<PathBuf> {
        let candidates = self.path.iter().map(|folder| folder.join(program));
        candidates.into_iter().find(|path| path.is_file())
    }

    fn dev_folders(&self) -> impl Iterator<Item = PathBuf> {
        self.current_folder.ancestors().map(|dir| dir.join(".dev"))
    }

    fn debian_postgres_newest_first(&self) -> Vec<PathBuf> {
        let Ok(entries) = fs::read_dir(&self.debian_postgres) else {
            return Vec::new();
        };
        let mut majors: Vec<u16> = entries
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .collect();
        majors.sort_unstable_by(|a, b| b.cmp(a));
        majors
            .into_iter()
            .map(|major| self.debian_postgres.join(format!("{major}/bin")))
            .collect()
    }

    fn places(&self, named: Option<&Path>, dev: &str) -> Vec<String> {
        match named {
            Some(named) => vec![named.display().to_string()],
            None => vec![
                format!("{dev} in {} and above", self.current_folder.display()),
                "PATH".into(),
            ],
        }
    }
}

impl PostgresPrograms {
    pub(super) fn program(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    fn is_of(&self, major: u16) -> bool {
        self.version.split('.').next() == Some(major.to_string().as_str())
    }
}

/// The Postgres programs in a folder; `None` when one is missing or does not run on this machine.
fn postgres_in(folder: PathBuf) -> Option<PostgresPrograms> {
    let complete = POSTGRES_PROGRAMS
        .iter()
        .all(|program| folder.join(program).is_file());
    if !complete {
        return None;
    }
    let answer = Command::new(folder.join("postgres"))
        .arg("--version")
        .output()
        .ok()?;
    // "postgres (PostgreSQL) 18.4"; Debian appends its package version in brackets.
    let text = String::from_utf8_lossy(&answer.stdout).into_owned();
    let version = text.split_whitespace().nth(2)?.to_owned();
    Some(PostgresPrograms { folder, version })
}

fn variable(name: &str) -> Option<OsString> {
    env::var_os(name).filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_nats_server_is_named_with_its_install_command() {
        let nowhere = Surroundings {
            current_folder: "/nowhere/here".into(),
            ..Surroundings::default()
        };

        let message = nowhere.nats_server().unwrap_err().to_string();

        assert_eq!(
            message,
            "nats-server not found: set TIDINGS_NATS_SERVER, extend PATH, or run `make servers` in a checkout of \
             Tidings, which fills .dev; searched .dev/bin in /nowhere/here and above, PATH"
        );
    }

    #[test]
    fn a_variable_that_names_nothing_is_an_error() {
        let wrong = Surroundings {
            postgres_folder: Some("/nowhere/bin".into()),
            ..Surroundings::of_this_process()
        };

        let message = wrong.postgres(None).unwrap_err().to_string();

        assert_eq!(
            message,
            "initdb, postgres and psql not found: set TIDINGS_POSTGRES_BIN, extend PATH, or run `make servers` in a \
             checkout of Tidings, which fills .dev; searched /nowhere/bin"
        );
    }

    #[test]
    fn a_missing_major_version_is_named() {
        let message = Surroundings::of_this_process()
            .postgres(Some(7))
            .unwrap_err()
            .to_string();

        assert!(
            message.contains("psql of Postgres 7 not found"),
            "{message}"
        );
    }

    #[test]
    fn the_dev_folder_of_an_ancestor_comes_before_path() {
        let root = env::temp_dir().join(format!("tidings-find-{}", std::process::id()));
        let (dev, path) = (root.join(".dev/bin"), root.join("path"));
        for folder in [&dev, &path] {
            fs::create_dir_all(folder).unwrap();
            fs::write(folder.join("nats-server"), "").unwrap();
        }
        let surroundings = Surroundings {
            current_folder: root.join("package/tests"),
            path: vec![path],
            ..Surroundings::default()
        };

        let found = surroundings.nats_server();

        fs::remove_dir_all(&root).unwrap();
        assert_eq!(found.unwrap(), dev.join("nats-server"));
    }
}
