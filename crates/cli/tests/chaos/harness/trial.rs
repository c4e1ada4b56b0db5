//! One fault: services write all the time, a fault happens, and in the end the stream is compared with the committed
//! events.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use async_nats::jetstream;
use sqlx::{Postgres, Sqlite};
use tidings::{
    Relay,
    testing::failpoint::{self, Armed, Point},
};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::{
    process::Process,
    support::{Journal, User, Verdict, World, eventually, within},
    table,
};

/// A database, with its name in the table and its URL for the program.
pub trait Chaos: Journal {
    const STORE: &'static str;
    /// How many services write at the same time.
    const WRITERS: usize;
    fn url(pool: &sqlx::Pool<Self>) -> String;
}

impl Chaos for Postgres {
    const STORE: &'static str = "postgres";
    const WRITERS: usize = 6;

    fn url(pool: &sqlx::Pool<Self>) -> String {
        let options = pool.connect_options();
        postgres_url(&options, options.get_port())
    }
}

/// The same database behind another port.
pub fn postgres_url(options: &sqlx::postgres::PgConnectOptions, port: u16) -> String {
    let database = options.get_database().unwrap_or_default();
    format!("postgres://postgres@127.0.0.1:{port}/{database}")
}

impl Chaos for Sqlite {
    const STORE: &'static str = "sqlite";
    const WRITERS: usize = 2;

    fn url(pool: &sqlx::Pool<Self>) -> String {
        format!("sqlite:{}", pool.connect_options().get_filename().display())
    }
}

pub struct Trial<DB: Chaos> {
    pub fault: &'static str,
    pub world: Arc<World<DB>>,
    jetstream: jetstream::Context,
    stop: CancellationToken,
    writers: JoinSet<()>,
    /// Services wait while this is true.
    pub wait: Arc<AtomicBool>,
    recovered: Duration,
}

impl<DB: Chaos> Trial<DB> {
    /// Starts a trial: services begin to write.
    pub async fn begin(fault: &'static str, world: World<DB>) -> Self {
        let urls = vec![world.nats.url()];
        Self::on(fault, world, urls).await
    }

    /// Starts a trial that looks for the stream at any of these servers.
    pub async fn on(fault: &'static str, world: World<DB>, urls: Vec<String>) -> Self {
        world.keep_a_journal().await;
        let client = async_nats::ConnectOptions::new()
            .ping_interval(Duration::from_secs(1))
            .connect(urls)
            .await
            .expect("a connection");
        let mut jetstream = jetstream::new(client);
        jetstream.set_timeout(Duration::from_secs(1));
        let mut trial = Self {
            fault,
            world: Arc::new(world),
            jetstream,
            stop: CancellationToken::new(),
            writers: JoinSet::new(),
            wait: Arc::default(),
            recovered: Duration::ZERO,
        };
        trial.write();
        trial
    }

    /// Makes the services write again.
    pub fn write(&mut self) {
        self.stop = CancellationToken::new();
        for writer in 0..DB::WRITERS {
            let (world, stop) = (Arc::clone(&self.world), self.stop.clone());
            let wait = Arc::clone(&self.wait);
            self.writers.spawn(async move {
                for n in 0.. {
                    let Some(()) = stop.run_until_cancelled(pause()).await else {
                        return;
                    };
                    if wait.load(Ordering::Relaxed) {
                        continue;
                    }
                    // An unavailable database is one of the faults; the journal records what was committed.
                    let _ = write(&world, writer, n).await;
                }
            });
        }
    }

    /// A relay, as a process of its own.
    pub fn relay(&self) -> Process {
        Process::relay(&self.world.nats.url(), &self.database_url())
    }

    pub fn database_url(&self) -> String {
        DB::url(self.world.outbox.pool())
    }

    /// Waits until a relay has the lease.
    pub async fn owns(&self, relay: &Process) {
        let name = format!(":{}:", relay.id());
        eventually("it has the lease", || async {
            let status = self.world.outbox.status().await;
            status.is_ok_and(|status| {
                status
                    .lease
                    .owner
                    .is_some_and(|owner| owner.contains(&name))
            })
        })
        .await;
    }

    /// Waits until an event that is committed now is in the stream.
    pub async fn flows(&self) {
        let id = self.marker().await;
        eventually("events flow", || async { self.last_marker().await == id }).await;
    }

    /// Whether the database accepts a commit within three seconds.
    pub async fn can_commit(&self) -> bool {
        let committing = self.marker();
        tokio::time::timeout(Duration::from_secs(3), committing)
            .await
            .is_ok()
    }

    /// The fault is over: measures how long it takes until events flow again.
    pub async fn recovers(&mut self) {
        let over = Instant::now();
        self.flows().await;
        self.recovered = over.elapsed();
    }

    /// Waits until the services have committed a number of further events.
    pub async fn goes_on(&self) {
        let more = if table::is_long() { 800 } else { 80 };
        let before = DB::noted(self.world.outbox.pool()).await.len();
        eventually("services go on", || async {
            DB::noted(self.world.outbox.pool()).await.len() >= before + more
        })
        .await;
    }

    /// A relay in this process, with small batches, and the point at which it stops.
    pub fn relay_until(&self, point: Point, nth: usize) -> (Relay<DB>, Armed) {
        let relay = self.world.new_relay().batch(20);
        let relay = relay.lease(Duration::from_secs(5));
        let armed = failpoint::arm(relay.owner(), point, nth);
        (relay, armed)
    }

    /// Stops the services, waits until everything is relayed, and judges the stream.
    pub async fn judge(mut self) {
        self.goes_on().await;
        self.still().await;
        let verdict = self.world.verdict().await;
        table::row(self.fault, DB::STORE, verdict, self.recovered);
        assert_eq!(verdict, verdict.flawless());
    }

    /// The same for a stream that was repaired while services wrote. A stream only grows, so a republished event may
    /// lie behind later events of its key: that is shown, and not judged.
    pub async fn judge_but_order(mut self) {
        self.goes_on().await;
        self.still().await;
        let verdict = self.world.verdict().await;
        table::row(self.fault, DB::STORE, verdict, self.recovered);
        let in_order = Verdict {
            inverted: 0,
            ..verdict
        };
        assert_eq!(in_order, verdict.flawless());
    }

    /// Runs a command of the program on the servers of this trial.
    pub fn command(&self, arguments: &[&str]) -> Process {
        Process::of(&self.world.nats.url(), &self.database_url(), arguments)
    }

    /// Stops the services, and waits until the backlog is relayed.
    pub async fn still(&mut self) {
        self.stop.cancel();
        let ended = async { while self.writers.join_next().await.is_some() {} };
        within("the writers end", ended).await;
        eventually("the backlog is gone", || async {
            let status = self.world.outbox.status().await;
            status.is_ok_and(|status| status.backlog == 0)
        })
        .await;
    }

    /// Commits an event of a kind of its own as soon as the database accepts it; its id.
    pub async fn marker(&self) -> String {
        let committed = async || {
            let mut tx = self.world.outbox.begin().await.ok()?;
            let marker = User::new(&uuid::Uuid::now_v7().to_string());
            let id = tx.publish(&marker).expect("an event");
            DB::note(&mut tx, id).await.ok()?;
            tx.commit().await.ok()?;
            Some(id.to_string())
        };
        let committing = async {
            loop {
                if let Some(id) = committed().await {
                    return id;
                }
                pause().await;
            }
        };
        within("a commit", committing).await
    }

    async fn last_marker(&self) -> String {
        let Ok(stream) = self.jetstream.get_stream("EVENTS").await else {
            return String::new();
        };
        let last = stream.get_last_raw_message_by_subject("user.created").await;
        let id = last
            .ok()
            .and_then(|last| last.headers.get("ce-id").map(ToString::to_string));
        id.unwrap_or_default()
    }
}

/// One transaction of a service; every seventh is rolled back.
async fn write<DB: Chaos>(
    world: &World<DB>,
    writer: usize,
    n: usize,
) -> Result<(), tidings::outbox::OutboxError> {
    let mut tx = world.outbox.begin().await?;
    let key = format!("key-{}", (writer * 7 + n * 3) % 5);
    let counting = world.count(&mut tx, &key).await;
    counting.map_err(tidings::outbox::DatabaseError::from)?;
    if (writer + n).is_multiple_of(7) {
        return tx.rollback().await;
    }
    tx.commit().await
}

async fn pause() {
    // real time: a service does other work between its events
    tokio::time::sleep(Duration::from_millis(8)).await;
}
