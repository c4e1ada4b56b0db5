//! P6: the order per key with several instances, through their starts, stops and deaths.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use tidings::{Context, EventPublisher, EventSubscriber, Failure, Worker};

use crate::support::{Counted, Noted, World, eventually};

type Sqlite = sqlx::Sqlite;

const KEYS: [&str; 3] = ["a", "b", "c"];

/// Records the events that a handler saw, and on which instance.
#[derive(Clone)]
struct Instance {
    number: usize,
    noted: Noted,
}

async fn note(event: Counted, cx: Context<Instance>) -> Result<(), Failure> {
    // A slow handler, so that other deliveries are in flight when its instance ends.
    tokio::time::sleep(Duration::from_millis(2)).await; // real time: the handler's work
    let Instance { number, noted } = cx.state();
    noted.note(format!("{number} {} {}", event.key, event.count));
    Ok(())
}

fn worker(world: &World<Sqlite>, number: usize, noted: &Noted) -> Worker<Instance> {
    let noted = noted.clone();
    Worker::new(world.bus.clone(), Instance { number, noted }).subscribe(
        EventSubscriber::durable("counter")
            .on(note)
            .concurrency(4)
            .ordered_by_key(),
    )
}

async fn publish(world: &World<Sqlite>, counts: std::ops::RangeInclusive<i64>) {
    let publisher = EventPublisher::new(&world.bus);
    for count in counts {
        for key in KEYS {
            let key = key.to_owned();
            publisher.publish(&Counted { key, count }).await.unwrap();
        }
    }
}

/// The events of a key that were handled, by instance and count.
fn seen(noted: &Noted, key: &str) -> Vec<(usize, i64)> {
    let notes = noted.all();
    let of_key = notes.iter().filter_map(|note| {
        let mut words = note.split(' ');
        let instance = words.next()?.parse().ok()?;
        (words.next()? == key).then_some(())?;
        Some((instance, words.next()?.parse().ok()?))
    });
    of_key.collect()
}

/// Checks that every count of a key was handled, none before an earlier one, and none twice by one instance.
fn assert_in_order(noted: &Noted, last: i64) {
    for key in KEYS {
        let seen = seen(noted, key);
        let mut highest = 0;
        for (instance, count) in &seen {
            assert!(
                *count <= highest + 1,
                "{key} {count} overtook after {highest} on {instance}: {seen:?}"
            );
            highest = highest.max(*count);
        }
        assert_eq!(highest, last, "{key}: {seen:?}");
        for instance in 0..9 {
            let counts: Vec<i64> = seen
                .iter()
                .filter_map(|(of, count)| (*of == instance).then_some(*count))
                .collect();
            assert!(counts.is_sorted(), "{key} on {instance}: {counts:?}");
        }
    }
}

async fn until_handled(noted: &Noted, last: i64) {
    eventually("the last event of each key", || async {
        KEYS.iter()
            .all(|key| seen(noted, key).iter().any(|(_, count)| *count == last))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clean_stop_hands_over_without_a_duplicate() {
    let world = World::<Sqlite>::start().await;
    let noted = Noted::default();
    let first = world.run(worker(&world, 0, &noted));
    publish(&world, 1..=20).await;
    noted.reach(10).await;
    let second = world.run(worker(&world, 1, &noted));
    publish(&world, 21..=40).await;
    noted.reach(80).await;
    first.stop().await.unwrap();
    publish(&world, 41..=60).await;
    until_handled(&noted, 60).await;
    second.stop().await.unwrap();
    assert_in_order(&noted, 60);
    let instances: Vec<usize> = seen(&noted, "a").iter().map(|(of, _)| *of).collect();
    assert!(
        instances.is_sorted() && instances.contains(&1),
        "{instances:?}"
    );
    assert_eq!(noted.len(), 180, "nothing twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn order_holds_when_the_active_instance_dies() {
    let world = World::<Sqlite>::start().await;
    let noted = Noted::default();
    let mut dying = world.run(worker(&world, 0, &noted));
    publish(&world, 1..=30).await;
    for number in 1..3 {
        noted.reach(30 * number).await;
        dying.kill().await;
        dying = world.run(worker(&world, number, &noted));
    }
    publish(&world, 31..=60).await;
    until_handled(&noted, 60).await;
    dying.stop().await.unwrap();
    assert_in_order(&noted, 60);
}

/// The connection ends repeatedly, and deliveries in transit are lost.
#[tokio::test(flavor = "multi_thread")]
async fn order_holds_when_the_connection_is_cut() {
    use crate::support::Proxy;
    let world = World::<Sqlite>::start().await;
    let noted = Noted::default();
    let proxy = Proxy::to(world.nats.port()).await;
    let through = format!("nats://127.0.0.1:{}", proxy.port);
    let bus = tidings::Bus::connect(&*through).await.unwrap();
    let number = 0;
    let cut = Worker::new(
        bus,
        Instance {
            number,
            noted: noted.clone(),
        },
    )
    .subscribe(
        EventSubscriber::durable("counter")
            .on(note)
            .concurrency(4)
            .ordered_by_key(),
    );
    let running = world.run(cut);
    for round in 0..4 {
        publish(&world, round * 20 + 1..=round * 20 + 20).await;
        noted.reach(usize::try_from(round).unwrap() * 60 + 20).await;
        proxy.cut();
        proxy.mend();
    }
    until_handled(&noted, 80).await;
    running.stop().await.unwrap();
    assert_in_order(&noted, 80);
}

/// Another client pulls deliveries from the consumer, like the pulls of a frozen instance, and never acks them.
#[tokio::test(flavor = "multi_thread")]
async fn order_holds_when_deliveries_are_lost() {
    let world = World::<Sqlite>::start().await;
    let noted = Noted::default();
    let running = world.run(worker(&world, 0, &noted));
    let thief = async_nats::connect(world.nats.url()).await.unwrap();
    for round in 0..5 {
        noted.reach(usize::try_from(round).unwrap() * 40).await;
        // The pulls are sent before there are events, so that they are served first.
        for _ in 0..3 {
            let pull = r#"{"batch":1,"expires":5000000000}"#;
            let next = "$JS.API.CONSUMER.MSG.NEXT.EVENTS.counter";
            let inbox = thief.new_inbox();
            thief
                .subscribe(inbox.clone())
                .await
                .map(std::mem::forget)
                .unwrap();
            thief
                .publish_with_reply(next, inbox, pull.into())
                .await
                .unwrap();
        }
        thief.flush().await.unwrap();
        publish(&world, round * 20 + 1..=round * 20 + 20).await;
    }
    until_handled(&noted, 100).await;
    running.stop().await.unwrap();
    assert_in_order(&noted, 100);
    assert_eq!(noted.len(), 300, "nothing twice");
}

/// A handler that hangs at its first attempt of the first event of the key `stuck`.
async fn note_unless_stuck(event: Counted, cx: Context<Stuck>) -> Result<(), Failure> {
    let Stuck { noted, times } = cx.state();
    if event.key == "stuck" && times.fetch_add(1, SeqCst) == 0 {
        std::future::pending::<()>().await;
    }
    noted.note(format!("0 {} {}", event.key, event.count));
    Ok(())
}

#[derive(Clone, Default)]
struct Stuck {
    noted: Noted,
    times: Arc<AtomicUsize>,
}

/// The number of events above the ack floor: more than an instance holds, so that it gets the rest only after the
/// first event has ended.
const AHEAD: i64 = 60;

impl Stuck {
    fn worker(&self, world: &World<Sqlite>) -> Worker<Self> {
        let subscriber = EventSubscriber::durable("counter")
            .on(note_unless_stuck)
            .concurrency(2)
            .ordered_by_key();
        Worker::new(world.bus.clone(), self.clone())
            .subscribe(subscriber)
            .shutdown_timeout(Duration::ZERO)
    }

    /// Waits until the first event hangs and all events behind it were handled.
    async fn hangs(&self, world: &World<Sqlite>) {
        let publisher = EventPublisher::new(&world.bus);
        let counted = |key: &str, count| Counted {
            key: key.to_owned(),
            count,
        };
        publisher.publish(&counted("stuck", 1)).await.unwrap();
        for count in 1..=AHEAD {
            publisher.publish(&counted("a", count)).await.unwrap();
        }
        self.noted.reach(usize::try_from(AHEAD).unwrap()).await;
    }

    /// Checks that the event that hung is handled, and no other was handled again.
    async fn is_over(&self, world: &World<Sqlite>) {
        let publisher = EventPublisher::new(&world.bus);
        for key in ["a", "stuck"] {
            let (key, count) = (key.to_owned(), AHEAD + 1);
            publisher.publish(&Counted { key, count }).await.unwrap();
        }
        let ended = |key, last| seen(&self.noted, key).last() == Some(&(0, last));
        eventually("the last of both keys", || async {
            ended("a", AHEAD + 1) && ended("stuck", AHEAD + 1)
        })
        .await;
        let counts: Vec<i64> = seen(&self.noted, "a").iter().map(|(_, n)| *n).collect();
        assert_eq!(counts, (1..=AHEAD + 1).collect::<Vec<_>>(), "nothing twice");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_takeover_repeats_nothing_that_was_handled_ahead() {
    let world = World::<Sqlite>::start().await;
    let stuck = Stuck::default();
    let first = world.run(stuck.worker(&world));
    stuck.hangs(&world).await;
    first.stop().await.unwrap();
    let second = world.run(stuck.worker(&world));
    stuck.is_over(&world).await;
    second.stop().await.unwrap();
}

/// When the answer to a stored renewal was lost, the lease can still be released.
#[tokio::test(flavor = "multi_thread")]
async fn a_clean_stop_hands_over_after_a_lost_renewal_answer() {
    let world = World::<Sqlite>::start().await;
    let stuck = Stuck::default();
    let first = world.run(stuck.worker(&world));
    stuck.hangs(&world).await;
    write_lease(&world, None).await;
    first.stop().await.unwrap();
    let second = world.run(stuck.worker(&world));
    stuck.is_over(&world).await;
    second.stop().await.unwrap();
}

/// An instance remembers what it has handled, even if another one had the lease meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_regains_its_lease_repeats_nothing() {
    let world = World::<Sqlite>::start().await;
    let stuck = Stuck::default();
    let running = world.run(stuck.worker(&world));
    stuck.hangs(&world).await;
    write_lease(&world, Some(r#"{"owner":"thief"}"#)).await;
    stuck.is_over(&world).await;
    running.stop().await.unwrap();
}

/// Overwrites the entry of the lease as another client; `None` writes the same value again.
async fn write_lease(world: &World<Sqlite>, value: Option<&'static str>) {
    const ENTRY: &str = "$KV.TIDINGS.lease.counter";
    let client = async_nats::connect(world.nats.url()).await.unwrap();
    let context = async_nats::jetstream::new(client);
    let bucket = context.get_stream("KV_TIDINGS").await.unwrap();
    let held = bucket.get_last_raw_message_by_subject(ENTRY).await.unwrap();
    let value = value.map_or(held.payload, Into::into);
    let written = context.publish(ENTRY, value).await.unwrap();
    written.await.unwrap();
}
