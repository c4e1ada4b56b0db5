//! Opens an outbox in a file, permanently or for one test. Never migrates an existing file.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use sqlx::{
    Sqlite,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};

use super::{DatabaseError, MigrateError, Outbox};

impl Outbox<Sqlite> {
    /// Opens a database file, creating it if it is missing, with the settings that an outbox needs: write-ahead log,
    /// `synchronous = full` (a relay must not publish what a power failure undoes), and a wait of 5 s for the lock. A
    /// new file can be read by its owner only; SQLite creates the files beside it with the same mode.
    ///
    /// # Errors
    /// The error of SQLite.
    pub async fn open(path: impl AsRef<Path>) -> Result<Self, DatabaseError> {
        create(path.as_ref())?;
        let options = options(path.as_ref()).synchronous(SqliteSynchronous::Full);
        Ok(Self::new(pool().connect_with(options).await?))
    }

    /// Creates a migrated outbox for one test, in its own file in the system's temporary folder, which is removed with
    /// the last clone of its [pool](Outbox::pool). Create your tables through the pool. It does not survive a power
    /// failure.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let outbox = tidings::Outbox::temporary().await?;
    /// sqlx::query("create table account (id text primary key)").execute(outbox.pool()).await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// The error of SQLite, or of the temporary folder.
    pub async fn temporary() -> Result<Self, MigrateError> {
        let name = format!("tidings-outbox-{}", uuid::Uuid::now_v7());
        let folder = Folder(std::env::temp_dir().join(name));
        std::fs::create_dir(&folder.0).map_err(sqlx::Error::Io)?;
        let options = options(&folder.0.join("outbox.db")).synchronous(SqliteSynchronous::Off);
        // The pool owns its callback, and so the folder.
        let folder = Arc::new(folder);
        let pool = pool()
            .after_connect(move |_, _| {
                let folder = Arc::clone(&folder);
                Box::pin(async move {
                    drop(folder);
                    Ok(())
                })
            })
            .connect_with(options)
            .await?;
        let outbox = Self::new(pool);
        outbox.migrate().await?;
        Ok(outbox)
    }
}

/// Creates the file, if it is missing, so that only its owner may read the events.
fn create(file: &Path) -> Result<(), sqlx::Error> {
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    match options.open(file) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            Err(sqlx::Error::Io(error))
        }
        _ => Ok(()),
    }
}

fn options(file: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(file)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .busy_timeout(Duration::from_secs(5))
        .foreign_keys(true)
}

fn pool() -> SqlitePoolOptions {
    SqlitePoolOptions::new().max_connections(8)
}

/// A folder that is removed on drop.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        // If removal fails, the system cleans its temporary folder.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(unix)]
    #[tokio::test]
    async fn a_created_file_is_private_to_its_owner() {
        use std::os::unix::fs::PermissionsExt;
        let folder = Outbox::temporary().await.unwrap();
        let file = folder
            .pool()
            .connect_options()
            .get_filename()
            .with_file_name("made.db");
        let outbox = Outbox::<Sqlite>::open(&file).await.unwrap();
        outbox.migrate().await.unwrap();
        for suffix in ["", "-wal", "-shm"] {
            let mut name = file.clone().into_os_string();
            name.push(suffix);
            let mode = std::fs::metadata(&name).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{}", name.display());
        }
        outbox.pool().close().await;
    }

    #[tokio::test]
    async fn its_folder_is_deleted_with_the_last_clone_of_the_pool() {
        let outbox = Outbox::temporary().await.unwrap();
        let file = outbox.pool().connect_options().get_filename().to_owned();
        assert!(file.exists());
        let pool = outbox.pool().clone();
        drop(outbox);
        assert!(file.exists(), "the pool is in use");
        drop(pool);
        // Its connections are being returned to the pool, and hold it until then.
        let deadline = std::time::Instant::now() + Duration::from_secs(30);
        while file.exists() && std::time::Instant::now() < deadline {
            tokio::task::yield_now().await;
        }
        assert!(!file.exists());
    }
}
