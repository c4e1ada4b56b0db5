//! What every database has to do, trait by trait, on real tables: the checklist for a further one. Only for tests; the
//! suites of the relay and of the inbox test what follows from it.

mod inbox;
mod log;
mod parked;
mod relay;
mod republish;

use std::time::Duration;

use sqlx::{Connection, Pool, pool::PoolConnection};
use tidings_contract::Envelope;

use super::{
    Bound, Checkpoint, Claim, Names, Page, Positions, Row, Store, Tenure, Written,
    leased_connection::LeasedConnection,
};
use crate::task::ticks::Ticks;

const LEASE: Duration = Duration::from_secs(60);
const OWNER: &str = "host:1:a";
const OTHER: &str = "host:2:b";
const STREAM: &str = "EVENTS";
const INCARNATION: &str = "2026-11-21T09:30:00Z";
/// More than every row of these tests.
const ALL: Bound = Bound {
    rows: 100,
    bytes: 1024 * 1024,
    with_due: false,
};

/// Exercises each statement of a store. The pool leads to a database in which no outbox is; `is_pooled` as in [`Names`].
async fn exercise_store<DB: Store>(pool: &Pool<DB>, is_pooled: bool) -> Result<(), sqlx::Error> {
    let tables = |part: &str| Tables::new(pool, part, is_pooled);
    migrations(&tables("migrations")).await?;
    // Behind a pooler a connection has no lock timeout of its own: each transaction sets it.
    if !is_pooled {
        locks(&tables("locks").migrated().await?).await?;
    }
    log::writes_and_reads(&tables("log").migrated().await?).await?;
    log::delayed_events(&tables("delayed").migrated().await?).await?;
    log::traces(&tables("traces").migrated().await?).await?;
    relay::lease(&tables("lease").migrated().await?).await?;
    relay::pages_and_checkpoints(&tables("pages").migrated().await?).await?;
    relay::ledger(&tables("ledger").migrated().await?).await?;
    relay::housekeeping(&tables("housekeeping").migrated().await?).await?;
    parked::keys_and_reasons(&tables("parked").migrated().await?).await?;
    parked::lists_and_discards(&tables("lists").migrated().await?).await?;
    parked::rows_with_a_flaw(&tables("flaws").migrated().await?).await?;
    republish::lease(&tables("republisher").migrated().await?).await?;
    republish::rows_and_entries(&tables("republish").migrated().await?).await?;
    republish::losses_and_home(&tables("home").migrated().await?).await?;
    inbox::memory_of_events(&tables("inbox").migrated().await?).await?;
    inbox::notes(&tables("notes").migrated().await?).await
}

/// The tables of one part, in a schema of their own.
struct Tables<'a, DB: Store> {
    pool: &'a Pool<DB>,
    names: Names,
}

impl<'a, DB: Store> Tables<'a, DB> {
    fn new(pool: &'a Pool<DB>, part: &str, is_pooled: bool) -> Self {
        let schema = format!("conformance_{part}_{is_pooled}");
        let names = Names::new(&schema).unwrap().pooled(is_pooled);
        Self { pool, names }
    }

    async fn migrated(self) -> Result<Self, sqlx::Error> {
        for (version, migration) in (1..).zip(DB::MIGRATIONS) {
            let mut tx =
                LeasedConnection::begin(self.pool, &Ticks::default(), DB::BEGIN_OWN).await?;
            assert_eq!(
                DB::begin_migration(&mut tx, &self.names).await?,
                version - 1
            );
            DB::apply_migration(&mut tx, &self.names, version, migration).await?;
            tx.commit().await?;
        }
        Ok(self)
    }

    async fn connection(&self) -> Result<PoolConnection<DB>, sqlx::Error> {
        self.pool.acquire().await
    }

    /// Writes events into the log, and returns its rows.
    async fn written(&self, events: &[Envelope]) -> Result<Vec<Row>, sqlx::Error> {
        let mut connection = self.connection().await?;
        let mut tx = LeasedConnection::begin(self.pool, &Ticks::default(), DB::BEGIN).await?;
        DB::insert(&mut tx, &self.names, events).await?;
        tx.commit().await?;
        DB::contents(&mut connection, &self.names).await
    }

    async fn claimed(&self, owner: &str) -> Result<(Tenure, Claim<DB::Cursor>), sqlx::Error> {
        let mut connection = self.connection().await?;
        let claim = DB::claim(&mut connection, &self.names, owner, LEASE).await?;
        let claim = claim.expect("the lease is free");
        let tenure = Tenure {
            owner: owner.to_owned(),
            epoch: claim.epoch,
            lease: LEASE,
        };
        Ok((tenure, claim))
    }

    async fn fetched(
        &self,
        cursor: &DB::Cursor,
        bound: Bound,
    ) -> Result<Page<DB::Cursor>, sqlx::Error> {
        let mut connection = self.connection().await?;
        DB::fetch(&mut connection, &self.names, cursor, bound).await
    }

    /// Writes a checkpoint that moves the cursor, and nothing else unless `change` does.
    async fn checkpointed(
        &self,
        tenure: &Tenure,
        cursor: Option<DB::Cursor>,
        change: impl FnOnce(&mut Checkpoint<DB::Cursor>),
    ) -> Result<Option<Written>, sqlx::Error> {
        let mut checkpoint = Checkpoint {
            cursor,
            streams: Positions::new(),
            ledger: Vec::new(),
            returned: Vec::new(),
            issues: "{}".to_owned(),
        };
        change(&mut checkpoint);
        let mut connection = self.connection().await?;
        DB::checkpoint(&mut connection, &self.names, tenure, &checkpoint).await
    }
}

fn event(name: &str, key: Option<&str>) -> Envelope {
    Envelope::raw(name, 1, key, r#"{"a":1}"#).unwrap()
}

fn ids(rows: &[Row]) -> Vec<i64> {
    rows.iter().map(|row| row.id).collect()
}

async fn migrations<DB: Store>(tables: &Tables<'_, DB>) -> Result<(), sqlx::Error> {
    let names = &tables.names;
    let mut connection = tables.connection().await?;
    let missing = DB::version(&mut connection, names).await.unwrap_err();
    assert!(DB::is_missing_table(&missing), "{missing}");
    let table = DB::text(names, DB::MIGRATION_TABLE);
    assert!(DB::migration_preamble(names).contains(&table));
    assert!(table.contains(names.schema()) && !DB::KIND.is_empty());

    let migrated = Tables::new(tables.pool, "migrations", names.is_pooled());
    migrated.migrated().await?;
    let newest = i32::try_from(DB::MIGRATIONS.len()).unwrap();
    assert_eq!(DB::version(&mut connection, names).await?, Some(newest));
    let mut tx = LeasedConnection::begin(tables.pool, &Ticks::default(), DB::BEGIN_OWN).await?;
    assert_eq!(DB::begin_migration(&mut tx, names).await?, newest);
    tx.roll_back().await
}

/// A statement that waits for a lock in vain is told from one that fails, and its holder is named.
async fn locks<DB: Store>(tables: &Tables<'_, DB>) -> Result<(), sqlx::Error> {
    let (pool, names) = (tables.pool, &tables.names);
    let options = pool.connect_options();
    assert!(!DB::is_pooled(&options));
    assert_eq!(DB::plain_link(&options), None);
    let mut other = tables.connection().await?;
    DB::sessions(&mut other, names).await?;
    let none = super::sessions::Backend { pid: 0, began: 0 };
    assert!(!DB::end_session(&mut other, none).await?);

    let mut holder = LeasedConnection::begin(pool, &Ticks::default(), DB::BEGIN).await?;
    DB::claim(&mut holder, names, OWNER, LEASE).await?;
    let mut waiter = DB::Connection::connect_with(&options).await?;
    DB::bound_waits(&mut waiter, names, Duration::from_millis(200)).await?;
    let refused = DB::claim(&mut waiter, names, OTHER, LEASE).await;
    assert!(DB::is_locked_out(&refused.unwrap_err()));
    assert_ne!(DB::locked_by(&mut other, names).await?, "");
    holder.roll_back().await?;
    assert!(
        DB::claim(&mut waiter, names, OTHER, LEASE).await?.is_some(),
        "what was rolled back is not there"
    );
    waiter.close().await
}

#[cfg(feature = "postgres")]
#[tokio::test]
async fn postgres_keeps_the_contract_of_a_store() {
    let options = tidings_test_servers::PostgresServer::options().fsync(false);
    let server = options.start().await.unwrap();
    server.create_database("conformance").await.unwrap();
    let options: sqlx::postgres::PgConnectOptions = server.url_of("conformance").parse().unwrap();
    let pool = sqlx::postgres::PgPoolOptions::new();
    let pool = pool.connect_with(options).await.unwrap();
    exercise_store::<sqlx::Postgres>(&pool, false)
        .await
        .unwrap();
    // As behind a pooler: each statement is unnamed, and in a transaction.
    exercise_store::<sqlx::Postgres>(&pool, true).await.unwrap();
}

#[cfg(feature = "sqlite")]
#[tokio::test]
async fn sqlite_keeps_the_contract_of_a_store() {
    let folder = std::env::temp_dir().join(format!("tidings-{}", uuid::Uuid::now_v7()));
    std::fs::create_dir(&folder).unwrap();
    let options = sqlx::sqlite::SqliteConnectOptions::new()
        .filename(folder.join("outbox.db"))
        .create_if_missing(true)
        .journal_mode(sqlx::sqlite::SqliteJournalMode::Wal);
    let pool = sqlx::sqlite::SqlitePoolOptions::new();
    let pool = pool.connect_with(options).await.unwrap();
    exercise_store::<sqlx::Sqlite>(&pool, false).await.unwrap();
    pool.close().await;
    std::fs::remove_dir_all(folder).unwrap();
}
