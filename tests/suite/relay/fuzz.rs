//! P1 to P4 with everything at once: writers that lock, wait, begin early, write late, roll back fully or in part, and
//! write more than a page holds; other transactions beside them; and a relay that dies repeatedly.
//!
//! The choices come from a seed, which is printed; `TIDINGS_FUZZ_SEED` repeats them, as far as concurrency allows.
//! `TIDINGS_FUZZ_TRANSACTIONS` is the number of transactions per writer.

use std::{fmt::Debug, str::FromStr, sync::Arc, time::Duration};

use sqlx::{
    Postgres, Sqlite,
    postgres::{PgPool, PgPoolOptions},
};
use tidings::{
    Outbox, StreamSpec,
    error_text::error_texts,
    outbox::{DatabaseError, OutboxError},
    testing::failpoint::{self, Point},
};
use tidings_test_servers::PostgresServer;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::support::{Counted, Database, Journal, World, events_stream, eventually, within};

const TRANSACTIONS: u64 = 25;
/// A page has ten rows.
const BATCH: usize = 5;
/// The stream forgets ids after this time, so that only the check of its end prevents duplicates.
const WINDOW: Duration = Duration::from_millis(100);
const NOISE: &str = "create table noise (n bigint)";
const MAKE_NOISE: &str = "insert into noise (n) values (1)";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_event_is_lost_duplicated_or_reordered_on_postgres_18() {
    on_postgres(18).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_event_is_lost_duplicated_or_reordered_on_postgres_16() {
    on_postgres(16).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_event_is_lost_duplicated_or_reordered_on_sqlite() {
    let world = World::<Sqlite>::start().await;
    // Only one transaction writes at a time: with more writers, some would exceed their busy timeout.
    fuzz(world, Vec::new(), 4).await;
}

async fn on_postgres(major: u16) {
    let options = PostgresServer::options().major(major).fsync(false);
    let server = options.start().await.unwrap();
    let pool = async |database: &str| -> PgPool {
        server.create_database(database).await.unwrap();
        let options = PgPoolOptions::new().max_connections(40);
        options.connect(&server.url_of(database)).await.unwrap()
    };
    let (service, other) = (pool("service").await, pool("other").await);
    Postgres::execute(&other, NOISE).await;
    // Transaction ids are shared by all databases of the server.
    let others = vec![other.clone(), other];
    let world = World::of(Outbox::new(service), Arc::new(server)).await;
    fuzz(world, others, 16).await;
}

async fn fuzz<DB: Journal>(world: World<DB>, others: Vec<sqlx::Pool<DB>>, count: u64) {
    let fresh = uuid::Uuid::now_v7().as_u128() as u64;
    let seed: u64 = told("TIDINGS_FUZZ_SEED", fresh);
    println!("TIDINGS_FUZZ_SEED={seed}");
    let transactions = told("TIDINGS_FUZZ_TRANSACTIONS", TRANSACTIONS);
    let mut dice = Dice(seed);
    world.keep_a_journal().await;
    DB::execute(world.outbox.pool(), NOISE).await;
    let mut stream: StreamSpec = events_stream();
    stream.duplicate_window = WINDOW;
    world.bus.apply_stream(&stream).await.unwrap();
    let world = Arc::new(world);

    let quiet = CancellationToken::new();
    let mut noise = JoinSet::new();
    for pool in others.into_iter().chain([world.outbox.pool().clone()]) {
        noise.spawn(make_noise::<DB>(pool, quiet.clone(), dice.fork()));
    }
    let mut writers = JoinSet::new();
    for writer in 0..count {
        let (world, mut dice) = (Arc::clone(&world), dice.fork());
        writers.spawn(async move {
            for _ in 0..transactions {
                // On a busy machine SQLite's busy timeout may end. The journal knows what was committed.
                while let Err(error) = write(&world, writer, &mut dice).await {
                    assert!(is_busy(&error), "{error:?}");
                }
            }
        });
    }
    let (mut relays, mut deaths) = (0, 0);
    while !writers.is_empty() {
        let point = Point::ALL[dice.roll(6) as usize];
        let relay = world.new_relay().batch(BATCH);
        let armed = failpoint::arm(relay.owner(), point, 1 + dice.roll(12) as usize);
        let relay = world.run_relay(relay);
        tokio::select! {
            () = within("a death", armed.reached()) => deaths += 1,
            () = async { while let Some(written) = writers.join_next().await { written.unwrap() } } => {}
        }
        relay.kill().await;
        world.is_taken().await;
        relays += 1;
        // real time: until the server has forgotten the ids
        tokio::time::sleep(WINDOW + Duration::from_millis(20)).await;
        world.end_the_lease().await;
    }
    quiet.cancel();
    while let Some(ended) = noise.join_next().await {
        ended.unwrap();
    }
    let relay = world.run_relay(world.new_relay().batch(BATCH));
    eventually("the backlog is gone", || async {
        let status = world.outbox.status().await;
        status.is_ok_and(|status| status.backlog == 0)
    })
    .await;
    relay.stop().await.unwrap();

    let verdict = world.verdict().await;
    println!("{deaths} deaths, {verdict:?}");
    assert_eq!(verdict, verdict.flawless());
    let counted = "select cast(sum(count) as bigint) from counter";
    let counted = DB::number(world.outbox.pool(), counted).await;
    // And one event after each relay.
    assert_eq!(verdict.events as i64, counted + relays);
}

/// One transaction.
async fn write<DB: Journal>(
    world: &World<DB>,
    writer: u64,
    dice: &mut Dice,
) -> Result<(), DatabaseError> {
    let shared = |dice: &mut Dice| format!("key-{}", dice.roll(5));
    match dice.roll(10) {
        // Early: the transaction gets its id long before it writes an event.
        0 | 1 => {
            let mut tx = world.outbox.pool().begin_with(DB::BEGIN).await?;
            DB::run(&mut tx, MAKE_NOISE).await?;
            pause(dice.roll(30)).await;
            enqueue(world, &mut tx, &shared(dice)).await?;
            end(tx, dice).await
        }
        // Partly rolled back.
        2 | 3 => {
            let mut tx = world.outbox.pool().begin_with(DB::BEGIN).await?;
            let keys = [shared(dice), format!("own-{writer}")];
            enqueue(world, &mut tx, &keys[0]).await?;
            DB::run(&mut tx, "savepoint kept").await?;
            enqueue(world, &mut tx, &keys[1]).await?;
            DB::run(&mut tx, "savepoint dropped").await?;
            enqueue(world, &mut tx, &keys[0]).await?;
            enqueue(world, &mut tx, &keys[1]).await?;
            DB::run(&mut tx, "rollback to savepoint dropped").await?;
            DB::run(&mut tx, "release savepoint kept").await?;
            enqueue(world, &mut tx, &keys[dice.roll(2) as usize]).await?;
            end(tx, dice).await
        }
        // Long: its row has an id, and is not visible for a while.
        4 => {
            let mut tx = world.outbox.pool().begin_with(DB::BEGIN).await?;
            enqueue(world, &mut tx, &format!("own-{writer}")).await?;
            let longest = if DB::ONE_WRITER { 20 } else { 400 };
            pause(dice.roll(longest)).await;
            end(tx, dice).await
        }
        // More rows than a page holds.
        5 => {
            let mut tx = world.outbox.begin().await.map_err(database)?;
            world.count(&mut tx, &shared(dice)).await?;
            for n in 0..20 + dice.roll(40) {
                let key = format!("bulk-{writer}-{}", n % 3);
                world.count(&mut tx, &key).await?;
            }
            tx.commit().await.map_err(database)
        }
        // A usual transaction of a service.
        _ => {
            let mut tx = world.outbox.begin().await.map_err(database)?;
            world.count(&mut tx, &shared(dice)).await?;
            pause(dice.roll(3)).await;
            let ended = match dice.roll(5) {
                0 => tx.rollback().await,
                _ => tx.commit().await,
            };
            ended.map_err(database)
        }
    }
}

/// Counts a key up and enqueues the event, with one statement each.
async fn enqueue<DB: Journal>(
    world: &World<DB>,
    tx: &mut sqlx::Transaction<'_, DB>,
    key: &str,
) -> Result<(), DatabaseError> {
    let count = DB::count_up(tx, key).await?;
    let key = key.to_owned();
    let id = world.outbox.enqueue(tx, &Counted { key, count }).await;
    DB::note(tx, id.map_err(database)?).await?;
    Ok(())
}

/// Commits, or rolls back.
async fn end<DB: Journal>(
    tx: sqlx::Transaction<'_, DB>,
    dice: &mut Dice,
) -> Result<(), DatabaseError> {
    match dice.roll(5) {
        0 => tx.rollback().await?,
        _ => tx.commit().await?,
    }
    Ok(())
}

/// Transactions of another application, some of them long.
async fn make_noise<DB: Journal>(pool: sqlx::Pool<DB>, quiet: CancellationToken, mut dice: Dice) {
    while !quiet.is_cancelled() {
        let making = async {
            let mut tx = pool.begin_with(DB::BEGIN).await?;
            DB::run(&mut tx, MAKE_NOISE).await?;
            pause(dice.roll(10)).await;
            end(tx, &mut dice).await
        };
        if let Err(error) = making.await {
            assert!(is_busy(&error), "{error:?}");
        }
        pause(5 + dice.roll(10)).await;
    }
}

/// The events of this test are never refused.
fn database(error: OutboxError) -> DatabaseError {
    match error {
        OutboxError::Database(error) => error,
        error => panic!("{error:?}"),
    }
}

/// SQLite's error when the busy timeout has passed.
fn is_busy(error: &DatabaseError) -> bool {
    error_texts(error)
        .concat()
        .starts_with("database is locked")
}

async fn pause(milliseconds: u64) {
    // real time: so that transactions overlap
    tokio::time::sleep(Duration::from_millis(milliseconds)).await;
}

/// The value of an environment variable, or the default.
fn told<T: FromStr<Err: Debug>>(variable: &str, usual: T) -> T {
    match std::env::var(variable) {
        Ok(said) => said.parse().unwrap(),
        Err(_) => usual,
    }
}

/// Random numbers from a seed: SplitMix64.
struct Dice(u64);

impl Dice {
    /// From 0 to `sides - 1`.
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % sides
    }

    /// Dice for another task.
    fn fork(&mut self) -> Self {
        Self(self.roll(u64::MAX))
    }
}
