//! A folder, a NATS server and a database for each test, and the program connected to them.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    sync::atomic::{AtomicU32, Ordering},
};

use serde_json::Value;
use sqlx::{Connection, PgConnection, SqliteConnection};
use tidings_test_servers::{NatsServer, NatsServerOptions, PostgresServer};
use tidings_test_support::within;
pub use tidings_test_support::{eventually, signal};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdout, Command},
    sync::OnceCell,
};

/// The database that a test runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Store {
    Postgres,
    Sqlite,
}

/// The folder and servers of one test.
pub struct World {
    pub nats: NatsServer,
    pub store: Store,
    pub database_url: String,
    folder: Folder,
}

/// A folder that is deleted with the test.
pub struct Folder(PathBuf);

/// The exit code and output of a command.
#[derive(Debug)]
pub struct Ended {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

/// A command that runs beside the test; it is killed when the test ends.
pub struct Running {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

/// One test for each database: `both!(name)` runs `async fn name(world: World)`.
macro_rules! both {
    ($($name:ident),+ $(,)?) => {
        mod on_postgres {
            $(#[tokio::test]
            async fn $name() {
                super::$name($crate::support::World::start($crate::support::Store::Postgres).await).await;
            })+
        }
        mod on_sqlite {
            $(#[tokio::test]
            async fn $name() {
                super::$name($crate::support::World::start($crate::support::Store::Sqlite).await).await;
            })+
        }
    };
}

/// The configuration of the stream for the events of these tests.
pub const EVENTS: &str = "[[stream]]\nname = \"EVENTS\"\nsubjects = [\"user.>\", \"payment.>\"]\n";

impl World {
    pub async fn start(store: Store) -> Self {
        let folder = Folder::new();
        let database_url = match store {
            Store::Postgres => fresh_database().await,
            Store::Sqlite => format!("sqlite:{}", folder.0.join("tidings.db").display()),
        };
        let world = Self {
            nats: NatsServer::start().await.expect("a NATS server"),
            store,
            database_url,
            folder,
        };
        world.write("tidings.toml", EVENTS);
        world
    }

    /// Creates the tables and the streams.
    pub async fn set_up(self) -> Self {
        self.ok(&["migrate"]).await;
        self.ok(&["streams", "apply"]).await;
        self
    }

    /// The program with these arguments, and with nothing but this world's servers in its environment.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = tidings(&self.folder, arguments);
        command
            .env("TIDINGS_NATS_URL", self.nats.url())
            .env("TIDINGS_DATABASE_URL", &self.database_url);
        command
    }

    pub async fn run(&self, arguments: &[&str]) -> Ended {
        ended(self.command(arguments)).await
    }

    /// Runs a statement on both databases, with `tidings.` or `tidings_` before a table.
    pub async fn execute(&self, statement: &str) {
        match self.store {
            Store::Postgres => {
                let mut connection = PgConnection::connect(&self.database_url).await.unwrap();
                let statement = sqlx::AssertSqlSafe(statement.replace("tidings_", "tidings."));
                let executing = sqlx::raw_sql(statement).execute(&mut connection);
                executing.await.unwrap();
            }
            Store::Sqlite => {
                let connecting = SqliteConnection::connect(&self.database_url);
                let mut connection = connecting.await.unwrap();
                let statement = sqlx::AssertSqlSafe(statement.to_owned());
                let executing = sqlx::raw_sql(statement).execute(&mut connection);
                executing.await.unwrap();
            }
        }
    }

    /// Writes a row into the outbox whose name cannot be that of an event: the relay parks it.
    pub async fn inserts_what_is_no_event(&self) {
        let (id, payload) = match self.store {
            Store::Postgres => ("gen_random_uuid()", "'1'"),
            Store::Sqlite => ("randomblob(16)", "x'31'"),
        };
        let row = format!(
            "insert into tidings_outbox (event, name, key, payload)
             values ({id}, 'Not a name', 'c', {payload})"
        );
        self.execute(&row).await;
    }

    /// Runs a command that must succeed; its output.
    pub async fn ok(&self, arguments: &[&str]) -> String {
        let ended = self.run(arguments).await;
        assert_eq!(ended.code, Some(0), "{arguments:?}: {ended:?}");
        ended.stdout
    }

    /// Runs a command that must succeed; the JSON of each line.
    pub async fn json(&self, arguments: &[&str]) -> Vec<Value> {
        let lines = self.ok(arguments).await;
        let value = |line| serde_json::from_str(line).expect("JSON");
        lines.lines().map(value).collect()
    }

    /// Runs a command that must fail with this code; its error output.
    pub async fn refused(&self, code: i32, arguments: &[&str]) -> String {
        let ended = self.run(arguments).await;
        assert_eq!(ended.code, Some(code), "{arguments:?}: {ended:?}");
        assert_eq!(ended.stdout, "", "a failure prints no result");
        assert!(ended.stderr.contains("error: "), "{ended:?}");
        ended.stderr
    }

    pub fn spawn(&self, arguments: &[&str]) -> Running {
        Running::of(self.command(arguments))
    }

    /// The status of the outbox; the command ends with 1 when a stream has lost something.
    pub async fn status(&self) -> Value {
        let ended = self.run(&["outbox", "status", "--json"]).await;
        let status = ended.stdout.lines().next().map(serde_json::from_str);
        match status {
            Some(Ok(status)) => status,
            _ => panic!("no status: {ended:?}"),
        }
    }

    pub async fn backlog_is(&self, events: u64) {
        let what = format!("a backlog of {events}");
        eventually(&what, || async { self.status().await["backlog"] == events }).await;
    }

    /// Stops the NATS server and starts another one, which may have the same port.
    pub async fn replace_nats(&mut self, options: NatsServerOptions) {
        // The old server keeps its port until it is dropped.
        let meanwhile = NatsServer::start().await.expect("a NATS server");
        drop(std::mem::replace(&mut self.nats, meanwhile));
        self.nats = options.start().await.expect("another NATS server");
    }

    /// A path in the folder in which the program runs.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.0.join(name)
    }

    /// Whether a file is in the folder in which the program runs.
    pub fn has(&self, name: &str) -> bool {
        self.folder.0.join(name).exists()
    }

    /// Writes a file in the folder in which the program runs.
    pub fn write(&self, name: &str, text: &str) {
        std::fs::write(self.folder.0.join(name), text).expect("the file");
    }
}

impl Folder {
    pub fn new() -> Self {
        let path = format!("tidings-cli-{}-{}", std::process::id(), number());
        let path = std::env::temp_dir().join(path);
        std::fs::create_dir_all(&path).expect("a folder");
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // The operating system deletes the rest.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl Running {
    /// Starts a command. Unless its stderr was set, it is the stderr of the test, which is shown when the test fails.
    pub fn of(mut command: Command) -> Self {
        let command = command.stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().expect("the program");
        let stdout = child.stdout.take().expect("its stdout");
        Self {
            child,
            lines: BufReader::new(stdout).lines(),
        }
    }

    /// The id of the process.
    pub fn id(&self) -> u32 {
        self.child.id().expect("it runs")
    }

    /// Waits until a piped stderr has a line with this text, and continues to read beside the test; the line.
    pub async fn says(&mut self, expected: &str) -> String {
        let stderr = self.child.stderr.take().expect("a piped stderr");
        let mut lines = BufReader::new(stderr).lines();
        let said = async {
            while let Some(line) = lines.next_line().await.expect("text") {
                if line.contains(expected) {
                    return line;
                }
            }
            panic!("it ended and never said {expected:?}");
        };
        let line = within(expected, said).await;
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        line
    }

    /// The next line of the result.
    pub async fn line(&mut self) -> Option<String> {
        within("a line", self.lines.next_line())
            .await
            .expect("text")
    }

    /// Sends a signal, such as TERM, and waits for the end; the exit code.
    pub async fn signalled(mut self, name: &str) -> Option<i32> {
        signal(name, self.id()).await;
        self.code().await
    }

    /// Stops reading the output, and waits until the command ends; the exit code.
    pub async fn left(self) -> Option<i32> {
        let Self { mut child, lines } = self;
        drop(lines);
        within("the end", child.wait())
            .await
            .expect("a status")
            .code()
    }

    async fn code(&mut self) -> Option<i32> {
        within("the end", self.child.wait())
            .await
            .expect("a status")
            .code()
    }
}

/// The program, run in this folder with an empty environment.
pub fn tidings(folder: &Folder, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidings"));
    command
        .env_clear()
        .current_dir(folder.path())
        .args(arguments);
    command
}

pub async fn ended(command: Command) -> Ended {
    ended_after(command, b"").await
}

/// Runs a command with this stdin until it ends.
pub async fn ended_after(mut command: Command, stdin: &[u8]) -> Ended {
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.kill_on_drop(true).spawn().expect("the program");
    let mut input = child.stdin.take().expect("its stdin");
    // A program that does not read its stdin may have closed it.
    let _ = input.write_all(stdin).await;
    drop(input);
    let output = within("the end", child.wait_with_output())
        .await
        .expect("output");
    Ended {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).expect("text"),
        stderr: String::from_utf8(output.stderr).expect("text"),
    }
}

/// An empty database on the Postgres server that the tests of this binary share.
pub async fn fresh_database() -> String {
    static POSTGRES: OnceCell<PostgresServer> = OnceCell::const_new();
    let start = || async {
        let options = PostgresServer::options().fsync(false).from_template(true);
        options.start().await.expect("a Postgres server")
    };
    let postgres = POSTGRES.get_or_init(start).await;
    let name = format!("cli_{}", number());
    postgres.create_database(&name).await.expect("a database");
    postgres.url_of(&name)
}

fn number() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// The payload of a `user.created`.
pub fn user(id: &str, email: &str) -> String {
    format!(r#"{{"id":"{id}","email":"{email}","created_at":"2026-11-21T09:30:00Z"}}"#)
}

/// Checks that a text has all of these in it.
pub fn says(text: &str, expected: &[&str]) {
    for expected in expected {
        assert!(text.contains(expected), "{expected:?} is not in:\n{text}");
    }
}
