//! What happens to databases, apart from crashes: a server becomes a standby, a database is dumped and restored. Never
//! reads their content.

use std::{io, process::Stdio};

use super::{PostgresServer, command::command, command::stdout_of, data_folder};
use crate::server_error::ServerError;

impl PostgresServer {
    /// Stops the server and starts it on the same data as a standby without a primary. It can be read until
    /// `select pg_promote()` makes it a primary.
    ///
    /// # Errors
    /// As [`PostgresServer::restart`].
    pub async fn restart_as_standby(&self) -> Result<(), ServerError> {
        self.stop().await?;
        let signal = data_folder(&self.home).join("standby.signal");
        std::fs::write(&signal, "").map_err(ServerError::path("write", &signal))?;
        // The server removes this file when it is promoted, so the file belongs to the server's user.
        let owner = std::os::unix::fs::MetadataExt::uid(
            &std::fs::metadata(data_folder(&self.home))
                .map_err(ServerError::path("read", &signal))?,
        );
        std::os::unix::fs::chown(&signal, Some(owner), None)
            .map_err(ServerError::path("change the owner of", &signal))?;
        self.restart().await
    }

    /// Copies a database into an empty one, of this server or another, with the `pg_dump` and `psql` of the newer of
    /// the two servers. Statements in the dump that an older server does not know are skipped.
    ///
    /// # Errors
    /// [`ServerError::Io`] with the error output of a program.
    pub async fn copy_database(
        &self,
        name: &str,
        to: &PostgresServer,
        as_name: &str,
    ) -> Result<(), ServerError> {
        let copying = self.dump_into(name, to, as_name).await;
        copying.map_err(ServerError::io(format!("copy the database {name}")))
    }

    async fn dump_into(&self, name: &str, to: &PostgresServer, as_name: &str) -> io::Result<()> {
        let newer = std::cmp::max_by_key(self, to, |server| major(server.version()));
        let mut dump = command(&newer.programs.program("pg_dump"));
        let dump = dump.args(["-d", &self.url_of(name)]).output().await?;
        let script = stdout_of(dump)?;
        let mut restore = command(&newer.programs.program("psql"));
        let mut restore = restore
            .args(["-X", "-q", "-w", "-d", &to.url_of(as_name)])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        if let Some(mut stdin) = restore.stdin.take() {
            tokio::io::AsyncWriteExt::write_all(&mut stdin, script.as_bytes()).await?;
        }
        stdout_of(restore.wait_with_output().await?).map(drop)
    }
}

fn major(version: &str) -> u32 {
    let major = version.split('.').next();
    major.and_then(|major| major.parse().ok()).unwrap_or(0)
}
