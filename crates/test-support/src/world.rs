//! A nats-server, a database with an outbox, and the streams, for one test.

use std::{sync::Arc, time::Duration};

use async_nats::jetstream;
use sqlx::{Pool, Postgres, Sqlite, postgres::PgPoolOptions};
use tidings::{
    Bus, Outbox, Relay, StreamSpec, Worker,
    event::{IntoEnvelope, Pattern},
    outbox::Store,
    worker::WorkerError,
};
use tidings_test_servers::{NatsServer, PostgresServer};
use tokio::{sync::OnceCell, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use super::Stream;

pub struct World<DB: Database> {
    pub nats: Arc<NatsServer>,
    pub bus: Bus,
    pub outbox: Outbox<DB>,
    _home: Arc<dyn std::any::Any + Send + Sync>,
}

/// A relay or a worker that runs beside the test.
pub struct Running<E> {
    stop: CancellationToken,
    task: JoinHandle<Result<(), E>>,
}

/// What a test needs from a database in addition to the outbox: a table whose rows serialise the writers of a key.
pub trait Database: Store + Sized {
    type Home: Send + Sync + 'static;

    fn open() -> impl Future<Output = (Outbox<Self>, Self::Home)> + Send;
    /// Counts up the row of a key in the transaction, which holds the lock of the row from then on; returns the count.
    fn count_up(
        connection: &mut Self::Connection,
        key: &str,
    ) -> impl Future<Output = Result<i64, sqlx::Error>> + Send;
    fn execute(pool: &Pool<Self>, sql: &str) -> impl Future<Output = ()> + Send;
    fn number(pool: &Pool<Self>, sql: &str) -> impl Future<Output = i64> + Send;
    fn word(pool: &Pool<Self>, sql: &str) -> impl Future<Output = String> + Send;
    /// The name of a table of the outbox in SQL.
    fn table(name: &str) -> String;
}

const COUNTERS: &str = "create table counter (key text primary key, count bigint not null)";
const COUNT_UP: &str = "insert into counter (key, count) values ($1, 1)
    on conflict (key) do update set count = counter.count + 1 returning count";

impl Database for Postgres {
    type Home = ();

    async fn open() -> (Outbox<Self>, ()) {
        static SERVER: OnceCell<PostgresServer> = OnceCell::const_new();
        let start = || async {
            let options = PostgresServer::options().fsync(false).from_template(true);
            options.start().await.expect("Postgres starts")
        };
        let server = SERVER.get_or_init(start).await;
        let name = format!("t{}", uuid::Uuid::now_v7().simple());
        server.create_database(&name).await.expect("a database");
        let pool = PgPoolOptions::new()
            .max_connections(40)
            .connect(&server.url_of(&name))
            .await
            .expect("a pool");
        (Outbox::new(pool), ())
    }

    async fn count_up(connection: &mut Self::Connection, key: &str) -> Result<i64, sqlx::Error> {
        // An unnamed statement: a pooler may be in between.
        sqlx::query_scalar(COUNT_UP)
            .persistent(false)
            .bind(key)
            .fetch_one(connection)
            .await
    }

    async fn execute(pool: &Pool<Self>, sql: &str) {
        sqlx::raw_sql(sqlx::AssertSqlSafe(sql.to_owned()))
            .execute(pool)
            .await
            .expect(sql);
    }

    async fn number(pool: &Pool<Self>, sql: &str) -> i64 {
        sqlx::query_scalar(sqlx::AssertSqlSafe(sql.to_owned()))
            .fetch_one(pool)
            .await
            .expect(sql)
    }

    async fn word(pool: &Pool<Self>, sql: &str) -> String {
        sqlx::query_scalar(sqlx::AssertSqlSafe(sql.to_owned()))
            .fetch_one(pool)
            .await
            .expect(sql)
    }

    fn table(name: &str) -> String {
        format!("tidings.{name}")
    }
}

/// A folder that is deleted on drop.
pub struct Folder(std::path::PathBuf);

impl Folder {
    pub fn new() -> Self {
        let folder = std::env::temp_dir().join(format!("tidings-test-{}", uuid::Uuid::now_v7()));
        std::fs::create_dir(&folder).expect("a folder");
        Self(folder)
    }

    pub fn path(&self) -> &std::path::Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl Database for Sqlite {
    type Home = Folder;

    async fn open() -> (Outbox<Self>, Folder) {
        let folder = Folder::new();
        let outbox = Outbox::open(folder.path().join("test.db"))
            .await
            .expect("a database");
        (outbox, folder)
    }

    async fn count_up(connection: &mut Self::Connection, key: &str) -> Result<i64, sqlx::Error> {
        sqlx::query_scalar(COUNT_UP)
            .bind(key)
            .fetch_one(connection)
            .await
    }

    async fn execute(pool: &Pool<Self>, sql: &str) {
        sqlx::raw_sql(sqlx::AssertSqlSafe(sql.to_owned()))
            .execute(pool)
            .await
            .expect(sql);
    }

    async fn number(pool: &Pool<Self>, sql: &str) -> i64 {
        sqlx::query_scalar(sqlx::AssertSqlSafe(sql.to_owned()))
            .fetch_one(pool)
            .await
            .expect(sql)
    }

    async fn word(pool: &Pool<Self>, sql: &str) -> String {
        sqlx::query_scalar(sqlx::AssertSqlSafe(sql.to_owned()))
            .fetch_one(pool)
            .await
            .expect(sql)
    }

    fn table(name: &str) -> String {
        format!("tidings_{name}")
    }
}

/// The stream of a test's events: `user.>` and `count.>`.
pub fn events_stream() -> StreamSpec {
    let subjects = ["user.>", "count.>"].map(|s| Pattern::parse(s).expect("a pattern"));
    StreamSpec::new("EVENTS", subjects).expect("a name")
}

impl<DB: Database> World<DB> {
    pub async fn start() -> Self {
        let (outbox, home) = DB::open().await;
        Self::of(outbox, Arc::new(home)).await
    }

    /// A world with an empty database; `home` is dropped with the world.
    pub async fn of(outbox: Outbox<DB>, home: Arc<dyn std::any::Any + Send + Sync>) -> Self {
        let nats = NatsServer::start().await.expect("nats-server starts");
        Self::with((outbox, home), nats).await
    }

    /// A world with the servers of the test.
    pub async fn with(
        (outbox, home): (Outbox<DB>, impl Send + Sync + 'static),
        nats: NatsServer,
    ) -> Self {
        let bus = Bus::connect(nats.url()).await.expect("a connection");
        for stream in StreamSpec::internal().into_iter().chain([events_stream()]) {
            bus.apply_stream(&stream).await.expect("a stream");
        }
        Self::beside((outbox, home), Arc::new(nats), bus).await
    }

    /// A world on a server that other worlds use too; streams may exist already.
    pub async fn beside(
        (outbox, home): (Outbox<DB>, impl Send + Sync + 'static),
        nats: Arc<NatsServer>,
        bus: Bus,
    ) -> Self {
        outbox.migrate().await.expect("the outbox migrates");
        DB::execute(outbox.pool(), COUNTERS).await;
        Self {
            nats,
            bus,
            outbox,
            _home: Arc::new(home),
        }
    }

    /// A relay with a short lease, for a quick failover.
    pub fn relay(&self) -> Running<tidings::outbox::RelayError> {
        self.run_relay(self.new_relay())
    }

    pub fn new_relay(&self) -> Relay<DB> {
        Relay::new(self.outbox.clone())
            .lease(Duration::from_secs(1))
            .stall_timeout(Duration::from_millis(100))
    }

    pub fn run_relay(&self, relay: Relay<DB>) -> Running<tidings::outbox::RelayError> {
        self.run_relay_over(self.bus.clone(), relay)
    }

    /// Runs a relay on a connection of its own.
    pub fn run_relay_over(
        &self,
        bus: Bus,
        relay: Relay<DB>,
    ) -> Running<tidings::outbox::RelayError> {
        let stop = CancellationToken::new();
        let task = tokio::spawn(relay.run(bus, stop.clone()));
        Running { stop, task }
    }

    pub fn run<S: Send + Sync + 'static>(&self, worker: Worker<S>) -> Running<WorkerError> {
        let stop = CancellationToken::new();
        let task = tokio::spawn(worker.run(stop.clone().cancelled_owned()));
        Running { stop, task }
    }

    /// Creates a stream FULL with the subjects `full.>` that stores nothing more: its limit is one message, and it has
    /// one.
    pub async fn full_stream(&self) -> jetstream::Context {
        let context = self.jetstream().await;
        let config = jetstream::stream::Config {
            name: "FULL".to_owned(),
            subjects: vec!["full.>".to_owned()],
            max_messages: 1,
            discard: jetstream::stream::DiscardPolicy::New,
            allow_atomic_publish: true,
            ..Default::default()
        };
        context.create_stream(config).await.expect("a stream");
        let publishing = context.publish("full.of_this", "{}".into()).await;
        let publishing = publishing.expect("it is sent");
        publishing.await.expect("it is stored");
        context
    }

    /// Moves the events to two streams, EVENTS with `user.>` and COUNTS with `count.>`. Applying a stream only adds
    /// subjects, so EVENTS is recreated.
    pub async fn two_streams(&self) {
        let context = self.jetstream().await;
        let deleted = context.delete_stream("EVENTS").await;
        deleted.expect("it is deleted");
        for (name, subjects) in [("EVENTS", "user.>"), ("COUNTS", "count.>")] {
            let subjects = Pattern::parse(subjects).expect("a pattern");
            let stream = StreamSpec::new(name, [subjects]).expect("a name");
            let applied = self.bus.apply_stream(&stream).await;
            applied.expect("it is applied");
        }
    }

    /// JetStream on a connection of its own.
    pub async fn jetstream(&self) -> jetstream::Context {
        let client = async_nats::connect(self.nats.url()).await;
        jetstream::new(client.expect("a connection"))
    }

    /// The stream of events recognises ids for this long only, so that it cannot hide duplicates of the relay.
    pub async fn forget_ids_after(&self, window: Duration) {
        let mut stream = events_stream();
        stream.duplicate_window = window;
        self.bus.apply_stream(&stream).await.expect("a stream");
    }

    /// Commits these events in one transaction.
    pub async fn commit_all(&self, events: impl IntoIterator<Item = impl IntoEnvelope>) {
        let mut tx = self.outbox.begin().await.expect("a transaction");
        tx.publish_all(events).expect("events");
        tx.commit().await.expect("a commit");
    }

    /// Waits until every row is published or parked. Parked rows that are restored automatically count until then.
    pub async fn is_settled(&self) {
        super::eventually("everything is stored or parked", || async {
            let status = self.outbox.status().await;
            status.is_ok_and(|status| status.backlog == status.returning)
        })
        .await;
    }

    /// Waits until the relay has nothing to do.
    pub async fn backlog_is_gone(&self) {
        super::eventually("the backlog is gone", || async {
            let status = self.outbox.status().await;
            status.is_ok_and(|status| status.backlog == 0)
        })
        .await;
    }

    /// The messages of the stream of events, read with the NATS client only.
    pub async fn stored(&self) -> Stream {
        Stream::read(&self.nats.url(), "EVENTS").await
    }

    pub async fn dead_letters(&self) -> Stream {
        Stream::read(&self.nats.url(), "DEAD_LETTERS").await
    }

    /// Waits until there are so many dead letters.
    pub async fn has_dead_letters(&self, count: usize) {
        super::eventually("the dead letters", || async {
            self.dead_letters().await.len() == count
        })
        .await;
    }

    pub async fn parked(&self) -> i64 {
        let sql = format!("select count(*) from {}", DB::table("parked"));
        DB::number(self.outbox.pool(), &sql).await
    }
}

impl<E: std::fmt::Debug + Send + 'static> Running<E> {
    /// Stops the task cleanly and returns its result.
    pub async fn stop(self) -> Result<(), E> {
        self.stop.cancel();
        super::within("a clean stop", self.task)
            .await
            .expect("no panic")
    }

    /// Aborts the task at any point, like a crash of the process.
    pub async fn kill(self) {
        self.task.abort();
        let _ = self.task.await;
    }

    /// Waits until the task ends by itself.
    pub async fn end(self) -> Result<(), E> {
        super::within("its end", self.task).await.expect("no panic")
    }
}
