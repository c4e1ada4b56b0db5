//! A pgbouncer in transaction mode before a Postgres: each transaction gets any free connection. Never listens on a
//! TCP port, only on a socket in a folder of its own.

use std::{
    fs,
    os::unix::{
        fs::{MetadataExt, chown},
        process::CommandExt,
    },
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use sqlx::{Connection, PgConnection, Postgres, postgres::PgPoolOptions};
use tidings::Outbox;
use tidings_test_servers::PostgresServer;

use super::{World, eventually};

/// The number of connections to Postgres. The clients have more, so that they share these.
pub const POOL: usize = 3;
/// The user `nobody`: pgbouncer refuses to run as root.
const NOBODY: u32 = 65_534;

pub struct Pgbouncer {
    child: Child,
    folder: PathBuf,
    pub postgres: PostgresServer,
}

impl Drop for Pgbouncer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

impl Pgbouncer {
    /// Starts pgbouncer with its own Postgres; `None`, with a message, when pgbouncer is not installed.
    pub async fn start() -> Option<Self> {
        let Some(program) = program() else {
            eprintln!(
                "skipped: there is no pgbouncer on the PATH (Debian: apt-get install pgbouncer)"
            );
            return None;
        };
        let options = PostgresServer::options().fsync(false);
        let postgres = options.start().await.expect("Postgres starts");
        let folder = std::env::temp_dir().join(format!("tidings-pool-{}", uuid::Uuid::now_v7()));
        fs::create_dir(&folder).expect("a folder");
        let (here, port) = (folder.display(), postgres.port());
        // Round robin: each transaction of a client runs on another connection than the previous one.
        let settings = format!(
            "[databases]\n* = host=127.0.0.1 port={port} user=postgres\n\
             [pgbouncer]\nlisten_addr =\nlisten_port = 6432\nunix_socket_dir = {here}\n\
             logfile = {here}/log\npidfile = {here}/pid\nauth_type = any\npool_mode = transaction\n\
             default_pool_size = {POOL}\nmax_client_conn = 500\nserver_round_robin = 1\n\
             ignore_startup_parameters = extra_float_digits\n"
        );
        let file = folder.join("pgbouncer.ini");
        fs::write(&file, settings).expect("its settings");
        let mut command = Command::new(program);
        if fs::metadata(&folder).expect("the folder").uid() == 0 {
            chown(&folder, Some(NOBODY), Some(NOBODY)).expect("its owner");
            command.uid(NOBODY).gid(NOBODY);
        }
        command.arg("-q").arg(&file).stdin(Stdio::null());
        let child = command.spawn().expect("pgbouncer");
        let pgbouncer = Self {
            child,
            folder,
            postgres,
        };
        eventually("pgbouncer answers", || async {
            let connected = PgConnection::connect(&pgbouncer.url("postgres")).await;
            connected.is_ok()
        })
        .await;
        Some(pgbouncer)
    }

    /// The URL of a database through pgbouncer, in the format of sqlx.
    pub fn url(&self, database: &str) -> String {
        let folder = self.folder.display();
        format!(
            "postgres://postgres@localhost:6432/{database}?host={folder}&statement-cache-capacity=0"
        )
    }

    /// The number of connections from pgbouncer to Postgres.
    pub async fn connections(&self) -> i64 {
        let mut direct = PgConnection::connect(&self.postgres.url()).await.unwrap();
        sqlx::query_scalar(
            "select count(*) from pg_stat_activity where datname = 'pooled' and backend_type = 'client backend'",
        )
        .fetch_one(&mut direct)
        .await
        .unwrap()
    }
}

impl World<Postgres> {
    /// A world whose connections to the database all go through pgbouncer, the migration's too.
    pub async fn behind_pgbouncer() -> Option<(Self, std::sync::Arc<Pgbouncer>)> {
        let pgbouncer = std::sync::Arc::new(Pgbouncer::start().await?);
        let created = pgbouncer.postgres.create_database("pooled").await;
        created.expect("a database");
        let pool = PgPoolOptions::new()
            .max_connections(20)
            .connect(&pgbouncer.url("pooled"))
            .await
            .expect("a pool");
        let world = Self::of(Outbox::new(pool), pgbouncer.clone()).await;
        Some((world, pgbouncer))
    }
}

fn program() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain([PathBuf::from("/usr/sbin")]);
    let mut programs = folders.map(|folder| folder.join("pgbouncer"));
    programs.find(|program| program.is_file())
}
