//! A private Postgres for tests, demos and benchmarks. Owns its data folder and its settings. It never implements the
//! protocol: it runs psql, which is part of every Postgres, for queries and statements.

mod cluster;
mod command;
mod installation;
mod moves;

use std::os::unix::fs::chown;
use std::time::{Duration, Instant};
use std::{io, path::PathBuf};

use cluster::Template;
use command::{command, stdout_of};

use crate::find::{PostgresPrograms, Surroundings};
use crate::home::Home;
use crate::process::{Launch, ServerProcess, Signal};
use crate::server_error::ServerError;

/// Another process may take the port between the check and the server's start; that this many attempts fail so is
/// unlikely.
const ATTEMPTS: usize = 5;
/// The user id of `nobody`: Postgres refuses to run as root, and initdb requires a user with a name.
const NOBODY: u32 = 65_534;
const POLL: Duration = Duration::from_millis(20);
const RESTARTED_WITHIN: Duration = Duration::from_secs(60);

/// A running Postgres with its own port and data folder; ended and deleted on drop.
///
/// Every local user who can reach the port is trusted as the superuser `postgres`. When the caller is root, the server
/// runs as `nobody`. It also ends when this process is killed (Linux with util-linux' `setpriv`). All methods take
/// `&self`: the tests of a binary can share one server through a `static`, whichever runtime they run on.
///
/// ```no_run
/// # async fn example() -> Result<(), tidings_test_servers::ServerError> {
/// let postgres = tidings_test_servers::PostgresServer::start().await?;
/// postgres.create_database("orders").await?;
/// println!("listening on {}", postgres.url_of("orders"));
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct PostgresServer {
    // Fields are dropped in this order: the process ends before its folder is removed.
    process: ServerProcess,
    home: Home,
    programs: PostgresPrograms,
}

/// Options of a [`PostgresServer`], set before it starts.
#[derive(Debug, Clone)]
#[must_use]
pub struct PostgresServerOptions {
    major: Option<u16>,
    fsync: bool,
    from_template: bool,
    settings: Vec<(String, String)>,
}

impl PostgresServer {
    /// Starts a server with the default options and returns when it is ready.
    ///
    /// # Errors
    /// [`ServerError::NotFound`] without a Postgres on this machine, else as [`PostgresServerOptions::start`].
    pub async fn start() -> Result<Self, ServerError> {
        Self::options().start().await
    }

    /// The default options: the version that `make servers` installs first, fsync on, 200 connections.
    pub fn options() -> PostgresServerOptions {
        PostgresServerOptions {
            major: None,
            fsync: true,
            from_template: false,
            settings: Vec::new(),
        }
    }

    /// The address of the database `postgres`, for example `postgres://postgres@127.0.0.1:20123/postgres`. It stays the
    /// same across restarts.
    pub fn url(&self) -> String {
        self.url_of("postgres")
    }

    /// The address of another database.
    pub fn url_of(&self, database: &str) -> String {
        let database = percent_encoded(database);
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.port())
    }

    /// The port for clients.
    pub fn port(&self) -> u16 {
        self.home.port()
    }

    /// The id of the running postmaster, or of the last one after it has ended.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// The version, for example `18.4`.
    pub fn version(&self) -> &str {
        &self.programs.version
    }

    /// Creates an empty database.
    ///
    /// # Errors
    /// [`ServerError::Io`] with the server's error, for example when the name is taken.
    pub async fn create_database(&self, name: &str) -> Result<(), ServerError> {
        let statement = format!("create database \"{}\"", name.replace('"', "\"\""));
        let created = self.ask(&statement).await;
        created
            .map(drop)
            .map_err(ServerError::io(format!("create the database {name}")))
    }

    /// Ends the postmaster and all its backends with SIGKILL; the data stays.
    ///
    /// # Errors
    /// [`ServerError::Io`] when the operating system refuses.
    pub fn kill(&self) -> Result<(), ServerError> {
        self.process.kill()
    }

    /// Shuts the server down in the mode `fast`: it rolls back open transactions and closes all connections.
    ///
    /// # Errors
    /// [`ServerError::Io`] when the operating system refuses.
    pub async fn stop(&self) -> Result<(), ServerError> {
        self.process.stop().await
    }

    /// Starts the server again with the same port and data and returns when it is ready. A running server is stopped
    /// first.
    ///
    /// # Errors
    /// [`ServerError::FailedToStart`] when it does not become ready.
    pub async fn restart(&self) -> Result<(), ServerError> {
        self.process.stop().await?;
        let deadline = Instant::now() + RESTARTED_WITHIN;
        loop {
            self.process.start_again().await?;
            match self.wait_until_ready().await {
                // Backends of a killed postmaster hold its shared memory until the kernel has released them.
                Err(ServerError::FailedToStart { log, .. })
                    if log.contains("pre-existing shared memory block")
                        && Instant::now() < deadline =>
                {
                    tokio::time::sleep(POLL).await;
                }
                ready_or_failed => return ready_or_failed,
            }
        }
    }

    /// Freezes the postmaster and all its backends with SIGSTOP: connections stay open, and the server does not answer.
    ///
    /// # Errors
    /// [`ServerError::Io`] when the server does not run.
    pub fn pause(&self) -> Result<(), ServerError> {
        self.process.signal_family(Signal::Pause)
    }

    /// Continues a paused server with SIGCONT.
    ///
    /// # Errors
    /// [`ServerError::Io`] when the server does not run.
    pub fn resume(&self) -> Result<(), ServerError> {
        self.process.signal_family(Signal::Resume)
    }

    async fn wait_until_ready(&self) -> Result<(), ServerError> {
        // Asks for the data directory: another server may listen on the port by now.
        let own = data_folder(&self.home).display().to_string();
        let answers = async || {
            let answer = self.ask("show data_directory").await;
            answer.is_ok_and(|folder| folder.trim() == own)
        };
        self.process.wait_until(answers).await
    }

    /// Runs one statement and returns the values that psql prints, without headers.
    async fn ask(&self, statement: &str) -> io::Result<String> {
        let mut psql = command(&self.programs.program("psql"));
        psql.args(["-X", "-A", "-t", "-q", "-w", "-v", "ON_ERROR_STOP=1"])
            .args(["-d", &self.url(), "-c", statement]);
        stdout_of(psql.output().await?)
    }
}

impl PostgresServerOptions {
    /// The major version, instead of the first one found; `make servers` installs 18 and 16.
    pub fn major(mut self, major: u16) -> Self {
        self.major = Some(major);
        self
    }

    /// Whether a commit is flushed to the disk. Off is faster, for tests that do not need it.
    pub fn fsync(mut self, fsync: bool) -> Self {
        self.fsync = fsync;
        self
    }

    /// Whether the data folder is copied from a template in the system's temporary folder, which the first server of
    /// its version makes: that takes 0.1 s instead of 1 s of a processor. Servers from one template have the same
    /// system identifier, so none of them takes another one's outbox for a copy.
    pub fn from_template(mut self, from_template: bool) -> Self {
        self.from_template = from_template;
        self
    }

    /// One server setting, for example `("max_connections", "20")`; overrides the default.
    pub fn setting(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.settings.push((name.into(), value.into()));
        self
    }

    /// Creates the data folder, starts the server and returns when it is ready, after about 500 ms.
    ///
    /// # Errors
    /// [`ServerError::NotFound`] without a Postgres of that version on this machine,
    /// [`ServerError::FailedToStart`] with the end of its log, [`ServerError::Io`] when initdb fails.
    ///
    /// # Cancel safety
    /// When the future is dropped, the server is ended.
    pub async fn start(self) -> Result<PostgresServer, ServerError> {
        let programs = Surroundings::of_this_process().postgres(self.major)?;
        let mut attempt = 1;
        loop {
            match self.start_once(programs.clone()).await {
                Err(ServerError::FailedToStart { log, .. })
                    if log.contains("Address already in use") && attempt < ATTEMPTS =>
                {
                    attempt += 1;
                }
                started_or_failed => return started_or_failed,
            }
        }
    }

    async fn start_once(&self, programs: PostgresPrograms) -> Result<PostgresServer, ServerError> {
        let home = Home::reserve(None).await?;
        let user = give_away_when_root(&home)?;
        let programs = if self.from_template {
            let template = Template::of(user, programs, &home).await?;
            template.copy(user, &home).await?;
            template.programs
        } else {
            let programs = installation::runnable_by(user, programs, &home).await?;
            cluster::create(user, &programs, &home).await?;
            programs
        };
        let process = ServerProcess::start(Launch {
            name: "postgres",
            program: programs.program("postgres"),
            arguments: self.arguments(&home),
            home: home.path().into(),
            user,
            last_signal: Signal::Quit,
        })
        .await?;
        let server = PostgresServer {
            process,
            home,
            programs,
        };
        server.wait_until_ready().await?;
        Ok(server)
    }

    fn arguments(&self, home: &Home) -> Vec<String> {
        let defaults = [
            ("port", home.port().to_string()),
            ("listen_addresses", "127.0.0.1".into()),
            ("unix_socket_directories", home.path().display().to_string()),
            ("shared_buffers", "128MB".into()),
            ("max_connections", "200".into()),
            ("fsync", if self.fsync { "on" } else { "off" }.into()),
            // In the data folder: a killed server would leave its segments in /dev/shm, which is small.
            ("dynamic_shared_memory_type", "mmap".into()),
        ];
        let defaults = defaults.map(|(name, value)| format!("{name}={value}"));
        let settings = self.settings.iter();
        let settings = settings.map(|(name, value)| format!("{name}={value}"));
        ["-D".into(), data_folder(home).display().to_string()]
            .into_iter()
            .chain(
                defaults
                    .into_iter()
                    .chain(settings)
                    .flat_map(|setting| ["-c".into(), setting]),
            )
            .collect()
    }
}

fn data_folder(home: &Home) -> PathBuf {
    home.path().join("data")
}

/// When the caller is root, gives the home to another user and returns that user; else `None`.
fn give_away_when_root(home: &Home) -> Result<Option<u32>, ServerError> {
    if !home.is_of_root() {
        return Ok(None);
    }
    chown(home.path(), Some(NOBODY), Some(NOBODY))
        .map_err(ServerError::path("change the owner of", home.path()))?;
    Ok(Some(NOBODY))
}

fn percent_encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' => {
                encoded.push(byte.into());
            }
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_started_server_answers_as_itself() {
        let postgres = PostgresServer::start().await.unwrap();

        let answer = postgres.ask("show fsync").await.unwrap();

        assert_eq!(answer.trim(), "on");
        assert!(postgres.version().starts_with(char::is_numeric));
    }

    #[tokio::test]
    async fn a_killed_server_comes_back_with_committed_data() {
        let postgres = PostgresServer::start().await.unwrap();
        let url = postgres.url();
        postgres.ask("create table kept (id int)").await.unwrap();
        postgres.kill().unwrap();
        let down = postgres.ask("select 1").await.is_err();

        postgres.restart().await.unwrap();

        assert!(down);
        assert_eq!(postgres.url(), url);
        let rows = postgres.ask("select count(*) from kept").await.unwrap();
        assert_eq!(rows.trim(), "0");
    }

    #[tokio::test]
    async fn a_server_killed_amid_a_statement_can_be_restarted() {
        let postgres = PostgresServer::start().await.unwrap();
        let busy = async { postgres.ask("select pg_sleep(60)").await };
        let killed = async {
            while postgres
                .ask("select count(*) from pg_stat_activity where query like '%pg_sleep(60)' and pid <> pg_backend_pid()")
                .await
                .is_ok_and(|count| count.trim() == "0")
            {}
            postgres.kill()
        };
        let (busy, killed) = tokio::join!(busy, killed);

        postgres.restart().await.unwrap();

        killed.unwrap();
        assert!(busy.is_err());
    }

    #[tokio::test]
    async fn a_paused_server_answers_after_it_was_resumed() {
        let postgres = PostgresServer::options()
            .fsync(false)
            .start()
            .await
            .unwrap();

        postgres.pause().unwrap();
        let paused = tokio::time::timeout(Duration::from_millis(300), postgres.ask("select 1"));
        let silent = paused.await.is_err();
        postgres.resume().unwrap();

        assert!(silent);
        assert!(postgres.ask("select 1").await.is_ok());
    }

    #[tokio::test]
    async fn servers_from_one_template_have_their_own_data() {
        let from_template = || PostgresServer::options().fsync(false).from_template(true);
        let (one, other) = tokio::join!(from_template().start(), from_template().start());
        let (one, other) = (one.unwrap(), other.unwrap());

        one.ask("create table mine (id int)").await.unwrap();

        assert!(other.ask("select from mine").await.is_err());
        let third = from_template().start().await.unwrap();
        assert!(third.ask("select from mine").await.is_err());
        let identifier = "select system_identifier from pg_control_system()";
        let known = one.ask(identifier).await.unwrap();
        assert_eq!(other.ask(identifier).await.unwrap(), known);
        assert_eq!(third.ask(identifier).await.unwrap(), known);
    }

    #[tokio::test]
    async fn an_older_major_version_can_be_chosen_and_settings_win() {
        let options = PostgresServer::options().major(16);
        let options = options.setting("max_connections", "20");

        let postgres = options.start().await.unwrap();

        assert!(postgres.version().starts_with("16."));
        let connections = postgres.ask("show max_connections").await.unwrap();
        assert_eq!(connections.trim(), "20");
    }

    #[tokio::test]
    async fn a_created_database_is_reached_by_its_url() {
        let postgres = PostgresServer::options()
            .fsync(false)
            .start()
            .await
            .unwrap();
        let name = "orders \"and\" more";

        postgres.create_database(name).await.unwrap();

        let mut psql = command(&postgres.programs.program("psql"));
        psql.args(["-At", "-c", "select current_database()", "-d"]);
        let answer = psql.arg(postgres.url_of(name)).output().await.unwrap();
        assert_eq!(stdout_of(answer).unwrap().trim(), name);
        let again = postgres.create_database(name).await;
        assert!(matches!(again, Err(ServerError::Io { .. })));
    }

    #[tokio::test]
    async fn a_drop_ends_the_process_and_wipes_the_folder() {
        let postgres = PostgresServer::start().await.unwrap();
        let (port, folder) = (postgres.port(), postgres.home.path().to_owned());

        drop(postgres);

        assert!(!folder.exists());
        assert!(std::net::TcpStream::connect(("127.0.0.1", port)).is_err());
    }

    #[tokio::test]
    async fn a_refused_setting_fails_with_the_servers_own_words() {
        let broken = PostgresServer::options().setting("no_such_setting", "1");

        let message = broken.start().await.unwrap_err().to_string();

        assert!(message.contains("no_such_setting"), "{message}");
    }

    #[test]
    fn starting_a_server_can_be_spawned() {
        fn is_send<T: Send>(_: T) {}

        is_send(PostgresServer::start());
        is_send(super::super::nats_server::NatsServer::start());
    }

    #[tokio::test]
    async fn a_copied_installation_runs() {
        let original = Surroundings::of_this_process().postgres(None).unwrap();
        let home = Home::reserve(None).await.unwrap();
        let user = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(home.path()).unwrap());

        let folder =
            installation::copied(&original.folder, &home.path().join("postgres"), user).unwrap();

        let copy = PostgresPrograms { folder, ..original };
        assert!(copy.folder.starts_with(home.path()));
        cluster::create(None, &copy, &home)
            .await
            .unwrap_or_else(|refusal| {
                // Only root gets an error, and the program itself reports it, so its libraries were found.
                let ServerError::Io { source, .. } = refusal else {
                    panic!("{refusal}");
                };
                assert!(source.to_string().contains("cannot be run as root"));
            });
    }
}
