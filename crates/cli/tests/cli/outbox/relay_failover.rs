//! Relays as processes that are killed, stopped and frozen: which relay publishes then, how soon, and that the
//! replaced relay changes nothing.

use std::{
    collections::{BTreeMap, HashMap},
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use async_nats::jetstream;
use futures::StreamExt;
use sqlx::{Postgres, Sqlite, postgres::PgPoolOptions};
use tidings::{Envelope, Outbox};

use crate::support::{Running, Store, World, eventually, signal, user};

both!(
    a_killed_owner_is_replaced_within_its_lease,
    a_stopped_owner_is_replaced_at_once,
    an_owner_that_was_frozen_beyond_its_lease_does_no_harm,
);

/// The delay that a busy machine may add to a lease.
const MARGIN: Duration = Duration::from_secs(2);

impl World {
    fn relay(&self, lease: &str) -> Running {
        let mut command = self.command(&["relay"]);
        command.env("TIDINGS_RELAY_LEASE", lease);
        command.env("TIDINGS_RELAY_BATCH", "50");
        command.env("TIDINGS_LOG", "warn");
        Running::of(command)
    }

    async fn epoch(&self) -> i64 {
        self.status().await["lease"]["epoch"].as_i64().unwrap()
    }

    async fn epoch_is(&self, epoch: i64) {
        let what = format!("epoch {epoch}");
        eventually(&what, || async { self.epoch().await == epoch }).await;
    }

    /// The process that has the lease.
    async fn owner(&self) -> u32 {
        let status = self.status().await;
        let owner = status["lease"]["owner"].as_str().expect("an owner");
        owner.split(':').nth(1).unwrap().parse().unwrap()
    }

    async fn publish(&self, id: &str) {
        let data = user(id, "ada@example.org");
        self.ok(&["publish", "user.created", "--key", id, "--data", &data])
            .await;
    }
}

const FIRST: &str = "0190e6e4-7a3e-7c3e-9d3e-3b1f0d8a6a11";
const SECOND: &str = "0190e6e4-7a3e-7c3e-9d3e-3b1f0d8a6a12";

async fn a_killed_owner_is_replaced_within_its_lease(world: World) {
    let world = world.set_up().await;
    let lease = Duration::from_secs(3);
    let first = world.relay("3s");
    world.epoch_is(1).await;
    let _second = stand_by(&world, "3s").await;
    world.publish(FIRST).await;
    world.backlog_is(0).await;
    let status = world.status().await;
    assert!(
        (status["lease"]["lasts_seconds"].as_f64().unwrap() - 3.0).abs() < 0.1,
        "{status}"
    );
    let text = world.ok(&["outbox", "status"]).await;
    assert!(
        text.contains("epoch 1, a lease of 3.0 s that lasts another "),
        "{text}"
    );

    signal("KILL", first.id()).await;
    let killed = Instant::now();
    world.publish(SECOND).await;
    eventually("it is stored", || async {
        messages(&world).await.len() == 2
    })
    .await;
    let took = killed.elapsed();
    // The standby looks four times within a lease.
    assert!(
        took < lease + lease / 4 + MARGIN,
        "the stand-by took {took:?}"
    );
    assert_eq!(world.epoch().await, 2);
}

async fn a_stopped_owner_is_replaced_at_once(world: World) {
    let world = world.set_up().await;
    // The standby looks only after many minutes, and no lease ends.
    let first = world.relay("1h");
    world.epoch_is(1).await;
    let _second = stand_by(&world, "1h").await;

    assert_eq!(first.signalled("TERM").await, Some(0));
    let stopped = Instant::now();
    world.epoch_is(2).await;
    let took = stopped.elapsed();
    assert!(took < MARGIN, "the stand-by took {took:?}");
    world.publish(FIRST).await;
    world.backlog_is(0).await;
}

async fn an_owner_that_was_frozen_beyond_its_lease_does_no_harm(world: World) {
    // Before the frozen relay continues, the server has forgotten ids, and incomplete batches (after 10 s).
    world.write(
        "tidings.toml",
        "[[stream]]\nname = \"EVENTS\"\nsubjects = [\"user.>\"]\nduplicate_window = \"11s\"\n",
    );
    let world = world.set_up().await;
    let (first, second) = (world.relay("1s"), world.relay("1s"));
    eventually("one has the lease", || async { world.epoch().await >= 1 }).await;
    let done = Arc::new(AtomicBool::new(false));
    let written = Arc::new(AtomicUsize::new(0));
    let writer = tokio::spawn(write_until(
        world.store,
        world.database_url.clone(),
        Arc::clone(&written),
        Arc::clone(&done),
    ));
    let patience = Duration::from_secs(if world.store == Store::Sqlite { 10 } else { 60 });
    let mut frozen_owners = 0;
    while frozen_owners < 2 {
        let before = written.load(Ordering::Relaxed);
        eventually("events are in flight", || async {
            written.load(Ordering::Relaxed) > before + 100
        })
        .await;
        let (owner, epoch) = (world.owner().await, world.epoch().await);
        signal("STOP", owner).await;
        let frozen = tokio::time::Instant::now();
        // A relay that is frozen while it holds the lock of an SQLite file blocks all others: it has to continue
        // first.
        let is_replaced = async {
            world.epoch_is(epoch + 1).await;
            let stored = stored(&world).await;
            eventually("the stand-by works", || async {
                self::stored(&world).await > stored + 50
            })
            .await;
        };
        let replaced = tokio::time::timeout(patience, is_replaced).await;
        if replaced.is_ok() {
            // real time: until the server has forgotten what the successor sent first
            tokio::time::sleep_until(frozen + Duration::from_secs(15)).await;
        }
        signal("CONT", owner).await;
        match replaced {
            Ok(()) => frozen_owners += 1,
            Err(_) => assert_eq!(world.store, Store::Sqlite, "nobody took over"),
        }
    }
    done.store(true, Ordering::Relaxed);
    writer.await.unwrap();
    world.backlog_is(0).await;

    // The relay that was frozen is the standby: it takes over from the other one.
    let (owner, epoch) = (world.owner().await, world.epoch().await);
    let other = [first.id(), second.id()]
        .into_iter()
        .find(|id| *id != owner)
        .unwrap();
    signal("KILL", owner).await;
    world.epoch_is(epoch + 1).await;
    assert_eq!(world.owner().await, other);

    let stored = messages(&world).await;
    let mut seen: HashMap<(String, i64), usize> = HashMap::new();
    let mut last: BTreeMap<String, i64> = BTreeMap::new();
    let mut inverted = 0;
    for (key, count) in stored {
        *seen.entry((key.clone(), count)).or_default() += 1;
        let before = last.insert(key, count);
        inverted += usize::from(before.is_some_and(|before| before > count));
    }
    let lost = written.load(Ordering::Relaxed) - seen.len();
    let duplicated = seen.values().filter(|times| **times > 1).count();
    assert_eq!(
        (lost, duplicated, inverted),
        (0, 0, 0),
        "lost, duplicated, inverted"
    );
}

/// Starts a standby relay, and waits until it has looked for the lease once.
async fn stand_by(world: &World, lease: &str) -> Running {
    let mut command = world.command(&["relay"]);
    command.env("TIDINGS_RELAY_LEASE", lease);
    command.env("TIDINGS_LOG", "tidings=debug");
    command.stderr(Stdio::piped());
    let mut relay = Running::of(command);
    relay.says("relay standby").await;
    relay
}

/// Commits events of four keys, a few in each transaction, with a count per key.
async fn write_until(store: Store, url: String, written: Arc<AtomicUsize>, done: Arc<AtomicBool>) {
    enum Either {
        Postgres(Outbox<Postgres>),
        Sqlite(Outbox<Sqlite>),
    }
    let outbox = match store {
        Store::Postgres => {
            let pool = PgPoolOptions::new().connect(&url).await.unwrap();
            Either::Postgres(Outbox::new(pool))
        }
        Store::Sqlite => {
            let path = url.trim_start_matches("sqlite:");
            Either::Sqlite(Outbox::open(path).await.unwrap())
        }
    };
    macro_rules! write {
        ($outbox:expr, $count:expr) => {{
            let Ok(mut tx) = $outbox.begin().await else {
                // The frozen relay holds the lock of the file.
                continue;
            };
            // The rows of one key are adjacent, so that they are published in batches.
            for (key, n) in ["a", "b", "c", "d"]
                .into_iter()
                .flat_map(|key| [0, 1, 2, 3].map(|n| (key, n)))
            {
                let data = format!(r#"{{"key":"{key}","count":{}}}"#, $count * 4 + n);
                tx.publish(Envelope::raw("user.counted", 1, Some(key), data).unwrap())
                    .unwrap();
            }
            tx.commit().await.unwrap();
        }};
    }
    let mut count = 0;
    while !done.load(Ordering::Relaxed) {
        match &outbox {
            Either::Postgres(outbox) => write!(outbox, count),
            Either::Sqlite(outbox) => write!(outbox, count),
        }
        // real time: a pace that the relays can follow
        tokio::time::sleep(Duration::from_millis(10)).await;
        count += 1;
        written.fetch_add(16, Ordering::Relaxed);
    }
}

/// Key and count of each event, in the order of the stream.
async fn messages(world: &World) -> Vec<(String, i64)> {
    let client = async_nats::connect(world.nats.url()).await.unwrap();
    let context = jetstream::new(client);
    let mut stream = context.get_stream("EVENTS").await.unwrap();
    let left = stream.info().await.unwrap().state.messages;
    let config = jetstream::consumer::pull::OrderedConfig::default();
    let consumer = stream.create_consumer(config).await.unwrap();
    let messages = consumer.messages().await.unwrap();
    let read = messages
        .take(usize::try_from(left).unwrap())
        .map(|message| {
            let json: serde_json::Value =
                serde_json::from_slice(&message.unwrap().payload).unwrap();
            let key = json["key"].as_str().unwrap_or_default().to_owned();
            (key, json["count"].as_i64().unwrap_or_default())
        });
    read.collect().await
}

/// The last sequence of the stream.
async fn stored(world: &World) -> u64 {
    let client = async_nats::connect(world.nats.url()).await.unwrap();
    let context = jetstream::new(client);
    let mut stream = context.get_stream("EVENTS").await.unwrap();
    stream.info().await.unwrap().state.last_sequence
}
