//! P5: events whose handlers cannot use their database are deferred, and take no concurrency slot from other events.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use sqlx::{Postgres, postgres::PgPoolOptions};
use tidings::{
    Context, EventPublisher, EventSubscriber, Failure, InboxTransaction, Outbox, Worker,
};
use tokio::{
    io::AsyncReadExt,
    net::{TcpListener, TcpStream},
};

use crate::{
    both,
    support::{Counted, Database, Noted, Running, User, World, eventually},
};

/// More events than concurrency slots.
const EVENTS: usize = 12;
const PLACES: usize = 3;

async fn book<DB: Database>(
    user: User,
    mut tx: InboxTransaction<DB>,
    _: Context<Noted>,
) -> Result<(), Failure> {
    DB::count_up(&mut tx, &user.id).await?;
    Ok(())
}

async fn note(counted: Counted, cx: Context<Noted>) -> Result<(), Failure> {
    cx.state().note(counted.key);
    Ok(())
}

/// One subscriber with a handler that uses a database and a handler that does not.
fn run<DB: Database>(
    world: &World<DB>,
    database: &Outbox<DB>,
    noted: &Noted,
) -> Running<tidings::worker::WorkerError> {
    let subscriber = EventSubscriber::durable("mixed")
        .on_transactional(database, book::<DB>)
        .on(note)
        .concurrency(PLACES);
    world.run(Worker::new(world.bus.clone(), noted.clone()).subscribe(subscriber))
}

/// Publishes events of both handlers alternately: the working handler keeps the circuit closed.
async fn publish<DB: Database>(world: &World<DB>) {
    let publisher = EventPublisher::new(&world.bus);
    for n in 0..EVENTS {
        let key = format!("key-{n}");
        let counted = Counted { key, count: 1 };
        publisher.publish(&counted).await.unwrap();
        let user = User::new(&format!("user-{n}"));
        publisher.publish(&user).await.unwrap();
    }
}

async fn are_booked<DB: Database>(world: &World<DB>) {
    eventually("all have their effect", || async {
        let booked = "select count(*) from counter where count = 1";
        let booked = DB::number(world.outbox.pool(), booked).await;
        booked == i64::try_from(EVENTS).unwrap()
    })
    .await;
    assert_eq!(world.dead_letters().await.len(), 0);
}

both!(a_database_without_tables_takes_no_slot_from_others);

async fn a_database_without_tables_takes_no_slot_from_others<DB: Database>(world: World<DB>) {
    let elsewhere = world.outbox.clone().in_schema("elsewhere").unwrap();
    let noted = Noted::default();
    let running = run(&world, &elsewhere, &noted);
    publish(&world).await;
    noted.reach(EVENTS).await;
    let client = async_nats::connect(world.nats.url()).await.unwrap();
    let retries = async_nats::jetstream::new(client);
    eventually("an event is put off for longer each time", || async {
        let retries = retries.get_stream("RETRIES").await.unwrap();
        let state = retries.cached_info().state.clone();
        let mut most = 0;
        for sequence in state.first_sequence..=state.last_sequence {
            let Ok(retry) = retries.get_raw_message(sequence).await else {
                continue;
            };
            let deferrals = retry.headers.get("tidings-retry-deferrals");
            let deferrals = deferrals.and_then(|deferrals| deferrals.as_str().parse().ok());
            most = most.max(deferrals.unwrap_or(0));
        }
        most >= 4
    })
    .await;
    elsewhere.migrate().await.unwrap();
    are_booked(&world).await;
    running.stop().await.unwrap();
    assert_eq!(noted.len(), EVENTS);
}

/// No handler gets a connection within the acquire timeout of the pool.
#[tokio::test(flavor = "multi_thread")]
async fn a_silent_postgres_takes_no_slot_from_other_handlers() {
    let world = World::<Postgres>::start().await;
    let options = (*world.outbox.pool().connect_options()).clone();
    let waits = Duration::from_secs(4);
    let pool = PgPoolOptions::new()
        .max_connections(1)
        .acquire_timeout(waits);
    let pool = pool.connect_lazy_with(options);
    let taken = pool.acquire().await.unwrap();
    let noted = Noted::default();
    let running = run(&world, &Outbox::new(pool), &noted);
    let began = Instant::now();
    publish(&world).await;
    noted.reach(EVENTS).await;
    // If each event waited, three times in flight, it would take twice as long.
    assert!(began.elapsed() < waits * 6, "{:?}", began.elapsed());
    drop(taken);
    are_booked(&world).await;
    running.stop().await.unwrap();
}

/// A server that accepts connections and never answers; records how long each of them lasted.
struct Mute {
    port: u16,
    connections: Arc<Mutex<Vec<(Instant, Instant)>>>,
}

impl Mute {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let connections: Arc<Mutex<Vec<_>>> = Arc::default();
        let ended = Arc::clone(&connections);
        tokio::spawn(async move {
            while let Ok((connection, _)) = listener.accept().await {
                tokio::spawn(Self::wait(connection, Instant::now(), Arc::clone(&ended)));
            }
        });
        Self { port, connections }
    }

    async fn wait(
        mut connection: TcpStream,
        began: Instant,
        ended: Arc<Mutex<Vec<(Instant, Instant)>>>,
    ) {
        let mut said = [0; 1024];
        while connection.read(&mut said).await.is_ok_and(|read| read > 0) {}
        ended.lock().unwrap().push((began, Instant::now()));
    }

    /// The connections that have ended, in the order in which they began.
    fn ended(&self) -> Vec<(Instant, Instant)> {
        let mut ended = self.connections.lock().unwrap().clone();
        ended.sort();
        ended
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_event_probes_a_database_outage_and_others_are_deferred() {
    let world = World::<Postgres>::start().await;
    let mute = Mute::start().await;
    let options = (*world.outbox.pool().connect_options()).clone();
    let pool = PgPoolOptions::new()
        .max_connections(10)
        .acquire_timeout(Duration::from_secs(1));
    let pool = pool.connect_lazy_with(options.host("127.0.0.1").port(mute.port));
    let noted = Noted::default();
    let running = run(&world, &Outbox::new(pool), &noted);
    publish(&world).await;
    eventually("it is asked for again and again", || async {
        mute.ended().len() >= PLACES + 5
    })
    .await;
    running.kill().await;
    assert_eq!(noted.len(), EVENTS);
    let mut asked = mute.ended();
    // Other statements of the inbox have a connection of their own, with a longer timeout.
    asked.retain(|(began, ended)| *ended - *began < Duration::from_secs(3));
    // Until the database was known to be unavailable, as many events asked as there are slots.
    let later = &asked[PLACES..];
    for two in later.windows(2) {
        // Each connection attempt lasts one second, its timeout; the end is noticed a moment later.
        let beside = two[0].1.saturating_duration_since(two[1].0);
        let is_chance = beside < Duration::from_millis(500);
        assert!(is_chance, "two asked at once: {later:?}");
    }
}
