//! A journal of committed events, written in the transaction that publishes them, and its comparison with a stream.
//! Never asks the outbox.

use std::collections::HashSet;

use sqlx::{Postgres, Sqlite};
use tidings::{EventId, EventPublisher, OutboxTransaction, event::IntoEnvelope};

use super::{Counted, Database, Stream, User, World};

/// A database that records each event in the transaction that publishes it.
pub trait Journal: Database {
    fn note(
        connection: &mut Self::Connection,
        id: EventId,
    ) -> impl Future<Output = Result<(), sqlx::Error>> + Send;
    /// Runs a statement in a transaction.
    fn run(
        connection: &mut Self::Connection,
        sql: &'static str,
    ) -> impl Future<Output = Result<(), sqlx::Error>> + Send;
    /// The ids in the journal.
    fn noted(pool: &sqlx::Pool<Self>) -> impl Future<Output = Vec<String>> + Send;
    /// The end of a lease that has expired, in SQL.
    const LEASE_OVER: &'static str;
    /// Whether only one transaction at a time may write.
    const ONE_WRITER: bool;
}

const JOURNAL: &str = "create table journal (id text primary key)";
const NOTE: &str = "insert into journal (id) values ($1)";
const NOTED: &str = "select id from journal";

macro_rules! journal {
    ($database:ty, $lease_over:literal, $one_writer:literal) => {
        impl Journal for $database {
            async fn note(
                connection: &mut Self::Connection,
                id: EventId,
            ) -> Result<(), sqlx::Error> {
                let note = sqlx::query(NOTE).bind(id.to_string());
                note.execute(connection).await.map(drop)
            }

            async fn run(
                connection: &mut Self::Connection,
                sql: &'static str,
            ) -> Result<(), sqlx::Error> {
                sqlx::query(sql).execute(connection).await.map(drop)
            }

            async fn noted(pool: &sqlx::Pool<Self>) -> Vec<String> {
                let noted = sqlx::query_scalar(NOTED).fetch_all(pool);
                noted.await.expect("the journal")
            }

            const LEASE_OVER: &'static str = $lease_over;
            const ONE_WRITER: bool = $one_writer;
        }
    };
}

journal!(Postgres, "'-infinity'", false);
journal!(Sqlite, "0", true);

/// The comparison of a stream with the committed events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Verdict {
    pub events: usize,
    /// Committed, and missing in the stream.
    pub lost: usize,
    /// In the stream, and never committed.
    pub phantom: usize,
    /// In the stream more than once.
    pub duplicated: usize,
    /// Stored behind a later event of its key.
    pub inverted: usize,
}

impl Verdict {
    pub fn of(noted: Vec<String>, stored: &Stream) -> Self {
        let noted: HashSet<String> = noted.into_iter().collect();
        let ids: HashSet<String> = stored.ids().into_iter().collect();
        Self {
            events: noted.len(),
            lost: noted.difference(&ids).count(),
            phantom: ids.difference(&noted).count(),
            duplicated: stored.duplicated(),
            inverted: stored.inverted(),
        }
    }

    /// The same number of events, without any error.
    pub fn flawless(self) -> Self {
        Self {
            events: self.events,
            ..Self::default()
        }
    }
}

impl<DB: Journal> World<DB> {
    pub async fn keep_a_journal(&self) {
        DB::execute(self.outbox.pool(), JOURNAL).await;
    }

    /// Counts a key up, publishes the event and records it; the transaction is still open.
    pub async fn count(
        &self,
        tx: &mut OutboxTransaction<DB>,
        key: &str,
    ) -> Result<(), sqlx::Error> {
        let count = DB::count_up(tx, key).await?;
        let key = key.to_owned();
        let id = tx.publish(&Counted { key, count }).expect("an event");
        DB::note(tx, id).await
    }

    /// Commits a transaction for each key.
    pub async fn commit_each(&self, keys: impl IntoIterator<Item = String>) {
        for key in keys {
            let mut tx = self.outbox.begin().await.expect("a transaction");
            self.count(&mut tx, &key).await.expect("a count");
            tx.commit().await.expect("a commit");
        }
    }

    pub async fn verdict(&self) -> Verdict {
        let noted = DB::noted(self.outbox.pool()).await;
        Verdict::of(noted, &self.stored().await)
    }

    /// Waits until the stream has stored what a relay had sent when it died, by sending an event on the same path.
    /// Messages that arrive later are left to the deduplication window; here, a busy server may take longer than the
    /// window.
    pub async fn is_taken(&self) {
        let behind = User::new(&uuid::Uuid::now_v7().to_string());
        let envelope = behind.into_envelope().expect("an event");
        let mut tx = self.outbox.begin().await.expect("a transaction");
        DB::note(&mut tx, envelope.id()).await.expect("a note");
        tx.commit().await.expect("a commit");
        let publisher = EventPublisher::new(&self.bus);
        publisher.publish(envelope).await.expect("a confirmation");
    }

    /// Lets the next relay begin at once: the owner of the lease is dead.
    pub async fn end_the_lease(&self) {
        let (relay, over) = (DB::table("relay"), DB::LEASE_OVER);
        let sql = format!("update {relay} set lease_until = {over}");
        DB::execute(self.outbox.pool(), &sql).await;
    }
}
