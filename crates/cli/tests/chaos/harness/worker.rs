//! The worker of the trials, as a process of its own: this test program again, which runs only the test that is the
//! worker. The effect of each handler is written in the transaction of the inbox.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    time::Duration,
};

use sqlx::{Postgres, Sqlite, postgres::PgPoolOptions};
use tidings::{
    Bus, Context, EventSubscriber, Failure, InboxTransaction, NatsOptions, Outbox, Retry, Worker,
    shutdown_signal,
};

use crate::{
    effects::{Effect, Effects},
    support::{Counted, User},
    table,
};

/// The environment variables with the settings of a worker.
pub const NATS: &str = "TIDINGS_CHAOS_NATS";
pub const DATABASE: &str = "TIDINGS_CHAOS_DATABASE";
pub const KIND: &str = "TIDINGS_CHAOS_KIND";
pub const NUMBER: &str = "TIDINGS_CHAOS_NUMBER";
/// The test that runs the worker.
pub const TEST: &str = "harness::worker::as_a_process";
/// The durable of all workers.
pub const DURABLE: &str = "effects";

/// How a worker handles events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Once,
    Ordered,
    /// Of the attempts with counted events, one in five fails, and the second attempt is the last. The event and the
    /// number of the attempt determine which ones fail.
    Failing,
    /// The same at random: another delivery of an event may end differently.
    Random,
    /// Without the inbox: a redelivered event has its effect again.
    Plain,
}

impl Kind {
    pub const ALL: [Self; 5] = [
        Self::Once,
        Self::Ordered,
        Self::Failing,
        Self::Random,
        Self::Plain,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Once => "once",
            Self::Ordered => "ordered",
            Self::Failing => "failing",
            Self::Random => "random",
            Self::Plain => "plain",
        }
    }
}

#[derive(Clone, Copy)]
struct App {
    kind: Kind,
    instance: i64,
}

/// Records the effect, and takes a while with the transaction open.
async fn note<DB: Effects>(
    tx: &mut DB::Connection,
    cx: &Context<App>,
    (key, count): (String, i64),
) -> Result<(), Failure> {
    let App { instance, .. } = *cx.state();
    // Each replay has effects of its own, in an order of its own.
    let of = |what: String| match cx.replay_id() {
        Some(replay) => format!("{replay}/{what}"),
        None => what,
    };
    let effect = Effect {
        event: of(cx.event_id().to_string()),
        key: of(key),
        count,
        instance,
    };
    DB::add(tx, effect).await?;
    // real time: the handler's work
    tokio::time::sleep(Duration::from_millis(2)).await;
    Ok(())
}

/// Fails one attempt in five, if the kind of the worker asks for it.
fn fail(cx: &Context<App>) -> Result<(), Failure> {
    let chance = match cx.state().kind {
        Kind::Once | Kind::Ordered | Kind::Plain => return Ok(()),
        Kind::Failing => {
            let mut chance = DefaultHasher::new();
            (cx.event_id().as_uuid(), cx.attempt()).hash(&mut chance);
            chance.finish()
        }
        Kind::Random => uuid::Uuid::now_v7().as_u64_pair().1,
    };
    if chance.is_multiple_of(5) {
        return Err(Failure::retry("one of five"));
    }
    Ok(())
}

async fn counted<DB: Effects>(
    event: Counted,
    mut tx: InboxTransaction<DB>,
    cx: Context<App>,
) -> Result<(), Failure> {
    note::<DB>(&mut tx, &cx, (event.key, event.count)).await?;
    fail(&cx)
}

async fn created<DB: Effects>(
    event: User,
    mut tx: InboxTransaction<DB>,
    cx: Context<App>,
) -> Result<(), Failure> {
    note::<DB>(&mut tx, &cx, (event.id, 1)).await
}

/// Records the effect without the inbox, in a transaction of its own.
async fn note_plainly<DB: Effects>(
    outbox: Outbox<DB>,
    cx: Context<App>,
    what: (String, i64),
) -> Result<(), Failure> {
    let mut tx = outbox.begin().await?;
    note::<DB>(&mut tx, &cx, what).await?;
    Ok(tx.commit().await?)
}

fn plain<DB: Effects>(outbox: &Outbox<DB>) -> EventSubscriber<App> {
    let (of_counts, of_users) = (outbox.clone(), outbox.clone());
    EventSubscriber::durable(DURABLE)
        .on(move |event: Counted, cx: Context<App>| {
            note_plainly(of_counts.clone(), cx, (event.key, event.count))
        })
        .on(move |event: User, cx: Context<App>| note_plainly(of_users.clone(), cx, (event.id, 1)))
}

async fn work<DB: Effects>(outbox: &Outbox<DB>, app: App) {
    let url = told(NATS);
    let mut options = NatsOptions::from(&*url);
    if !table::is_long() {
        options.ping_interval = Duration::from_millis(500);
    }
    let bus = Bus::connect(options).await.expect("a connection");
    let subscriber = EventSubscriber::durable(DURABLE)
        .on_transactional(outbox, counted::<DB>)
        .on_transactional(outbox, created::<DB>);
    let subscriber = match app.kind {
        Kind::Once => subscriber.concurrency(8),
        Kind::Plain => plain(outbox).concurrency(8),
        Kind::Ordered => subscriber
            .concurrency(4)
            .timeout(Duration::from_secs(5))
            .ordered_by_key(),
        Kind::Failing | Kind::Random => {
            let retry = Retry::exponential(Duration::from_millis(400), Duration::from_secs(1));
            subscriber.concurrency(8).retry(retry.attempts(2))
        }
    };
    let worker = Worker::new(bus, app).subscribe(subscriber);
    worker.run(shutdown_signal()).await.expect("a clean stop");
}

fn told(name: &str) -> String {
    std::env::var(name).expect(name)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn as_a_process() {
    let Ok(kind) = std::env::var(KIND) else {
        println!("skipped: it is a process that the trials start");
        return;
    };
    let log = tracing_subscriber::fmt().with_writer(std::io::stderr);
    log.with_env_filter("tidings=debug,warn").init();
    let kind = Kind::ALL.into_iter().find(|known| known.name() == kind);
    let app = App {
        kind: kind.expect("a kind"),
        instance: told(NUMBER).parse().expect("a number"),
    };
    let url = told(DATABASE);
    match url.strip_prefix("sqlite:") {
        Some(path) => {
            let outbox: Outbox<Sqlite> = Outbox::open(path).await.expect("a database");
            work(&outbox, app).await;
        }
        None => {
            let pool = PgPoolOptions::new().max_connections(10);
            let pool = pool
                .acquire_timeout(Duration::from_secs(5))
                .connect(&url)
                .await;
            let outbox: Outbox<Postgres> = Outbox::new(pool.expect("a pool"));
            work(&outbox, app).await;
        }
    }
}
