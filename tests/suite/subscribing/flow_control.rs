//! Flow control of a subscriber: during an outage of what its handlers need, by rate and by memory.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use async_nats::jetstream;
use tidings::{
    CircuitBreaker, Context, EventPublisher, EventSubscriber, Failure, Rate, Retry, Worker,
};
use tokio::sync::Semaphore;

use crate::support::{Noted, User, World, eventually, log};

type Sqlite = sqlx::Sqlite;

/// A downstream service, which may be down.
#[derive(Default)]
struct Downstream {
    is_down: AtomicBool,
    failed: AtomicUsize,
    noted: Noted,
}

async fn call(user: User, cx: Context<Arc<Downstream>>) -> Result<(), Failure> {
    let downstream = cx.state();
    if downstream.is_down.load(SeqCst) {
        downstream.failed.fetch_add(1, SeqCst);
        return Err(Failure::retry("down"));
    }
    downstream.noted.note(user.id);
    Ok(())
}

async fn publish(world: &World<Sqlite>, users: impl IntoIterator<Item = User>) {
    let publisher = EventPublisher::new(&world.bus);
    for user in users {
        publisher.publish(&user).await.unwrap();
    }
}

/// Four attempts per event, of which an outage costs only those that open the circuit.
fn impatient() -> EventSubscriber<Arc<Downstream>> {
    let retry = Retry::exponential(Duration::from_millis(20), Duration::from_millis(80));
    let breaker = CircuitBreaker::default()
        .within(Duration::from_secs(30), 3)
        .open_for(Duration::from_millis(50), Duration::from_millis(100));
    EventSubscriber::durable("flow")
        .on(call)
        .retry(retry.attempts(4))
        .circuit_breaker(breaker)
        .concurrency(CONCURRENCY)
}

const CONCURRENCY: usize = 4;

/// Handles 30 events that arrive during an outage, which lasts for a dozen probes.
async fn goes_through_an_outage(subscriber: EventSubscriber<Arc<Downstream>>, keys: usize) {
    log::listen();
    let world = World::<Sqlite>::start().await;
    let downstream = Arc::new(Downstream::default());
    downstream.is_down.store(true, SeqCst);
    let worker = Worker::new(world.bus.clone(), Arc::clone(&downstream)).subscribe(subscriber);
    let running = world.run(worker);
    let user = |n: usize| User {
        id: format!("key-{}", n % keys),
        email: n.to_string(),
    };
    publish(&world, (0..30).map(user)).await;
    let probes = || log::said("circuit probe failed").len();
    eventually("a dozen probes", || async { probes() >= 12 }).await;
    let (failed, probed) = (downstream.failed.load(SeqCst), probes());
    downstream.is_down.store(false, SeqCst);
    downstream.noted.reach(30).await;
    running.stop().await.unwrap();

    // Three attempts open the circuit, while others may be running; a probe may have just ended.
    let allowed = 3 + (CONCURRENCY - 1) + probed + 1;
    assert!(
        failed <= allowed,
        "{failed} attempts, {probed} of them probes"
    );
    assert_eq!(log::said("circuit opened").len(), 1);
    assert_eq!(log::said("circuit closed").len(), 1);
    assert_eq!(downstream.noted.len(), 30, "each once");
    assert_eq!(world.dead_letters().await.len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_opens_the_circuit_and_costs_no_event() {
    goes_through_an_outage(impatient(), 30).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_costs_no_event_of_an_ordered_subscriber() {
    goes_through_an_outage(impatient().ordered_by_key(), 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_circuit_pulls_nothing() {
    log::listen();
    let world = World::<Sqlite>::start().await;
    let downstream = Arc::new(Downstream::default());
    downstream.is_down.store(true, SeqCst);
    let hour = Duration::from_secs(3600);
    let breaker = CircuitBreaker::default()
        .within(hour, 3)
        .open_for(hour, hour);
    let subscriber = impatient().circuit_breaker(breaker);
    let worker = Worker::new(world.bus.clone(), Arc::clone(&downstream)).subscribe(subscriber);
    let running = world.run(worker);
    publish(&world, (0..30).map(|n| User::new(&n.to_string()))).await;
    let is_open = || async { !log::said("circuit opened").is_empty() };
    eventually("an open circuit", is_open).await;

    // Messages of an earlier pull may still arrive; then the server has no pull any more.
    let has_no_pull = || async { info(&world).await.num_waiting == 0 };
    eventually("the end of the pulls", has_no_pull).await;
    assert!(info(&world).await.num_ack_pending <= CONCURRENCY);
    assert!(downstream.failed.load(SeqCst) < 3 + CONCURRENCY);
    running.stop().await.unwrap();
    assert_eq!(world.dead_letters().await.len(), 0);
}

/// The server's state of the subscriber's consumer.
async fn info(world: &World<Sqlite>) -> jetstream::consumer::Info {
    let client = async_nats::connect(world.nats.url()).await.unwrap();
    let stream = jetstream::new(client).get_stream("EVENTS").await.unwrap();
    let is_there = || async { stream.consumer_info("flow").await.is_ok() };
    eventually("the consumer", is_there).await;
    stream.consumer_info("flow").await.unwrap()
}

async fn note_when(user: User, cx: Context<(Noted, Instant)>) -> Result<(), Failure> {
    let (noted, began) = cx.state();
    noted.note(format!("{} {}", began.elapsed().as_millis(), user.id));
    Ok(())
}

/// Handles 30 events at 50 a second: five at once, and then one every 20 ms.
async fn keeps_its_rate(subscriber: EventSubscriber<(Noted, Instant)>) {
    let world = World::<Sqlite>::start().await;
    let noted = Noted::default();
    publish(&world, (0..30).map(|n| User::new(&n.to_string()))).await;
    let worker = Worker::new(world.bus.clone(), (noted.clone(), Instant::now()))
        .subscribe(subscriber.rate_limit(Rate::per_second(50)));
    let running = world.run(worker);
    noted.reach(30).await;
    running.stop().await.unwrap();
    let when = |note: &String| -> u128 { note.split(' ').next().unwrap().parse().unwrap() };
    let times: Vec<u128> = noted.all().iter().map(when).collect();
    let took = times.iter().max().unwrap() - times.iter().min().unwrap();
    // Half of the expected time: a busy machine may record the first ones late.
    assert!(took >= 250, "30 events within {took} ms");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_events_begin_than_the_rate_limit_allows() {
    keeps_its_rate(EventSubscriber::durable("flow").on(note_when)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ordered_subscriber_keeps_its_rate_limit() {
    keeps_its_rate(
        EventSubscriber::durable("flow")
            .on(note_when)
            .ordered_by_key(),
    )
    .await;
}

/// Records handled events. The key `bad` fails once, and waits for the gate at its second attempt.
async fn note_but_the_bad(user: User, cx: Context<(Noted, Arc<Semaphore>)>) -> Result<(), Failure> {
    let (noted, gate) = cx.state();
    if user.id == "bad" {
        if cx.attempt() == 1 && gate.available_permits() == 0 {
            return Err(Failure::retry("not yet"));
        }
        let _open = gate.acquire().await?;
    }
    noted.note(user.email);
    Ok(())
}

fn ordered() -> EventSubscriber<(Noted, Arc<Semaphore>)> {
    let retry = Retry::exponential(Duration::from_millis(10), Duration::from_millis(10));
    EventSubscriber::durable("flow")
        .on(note_but_the_bad)
        .retry(retry)
        .concurrency(CONCURRENCY)
        .timeout(Duration::from_secs(3600))
        .ordered_by_key()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_key_blocks_no_other_key() {
    const BAD: usize = 300;
    let world = World::<Sqlite>::start().await;
    let (noted, gate) = (Noted::default(), Arc::new(Semaphore::new(0)));
    let bad = |n: usize| User {
        id: "bad".to_owned(),
        email: n.to_string(),
    };
    publish(&world, (0..BAD).map(bad)).await;
    let worker = Worker::new(world.bus.clone(), (noted.clone(), Arc::clone(&gate)));
    let running = world.run(worker.subscribe(ordered()));
    publish(&world, (0..50).map(|n| User::new(&n.to_string()))).await;

    noted.reach(50).await;
    assert_eq!(info(&world).await.num_ack_pending, BAD);
    gate.add_permits(1);
    noted.reach(50 + BAD).await;
    let in_order: Vec<_> = (0..BAD).map(|n| n.to_string()).collect();
    assert_eq!(noted.all()[50..], in_order);
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn events_behind_a_failing_key_stay_within_the_memory_limit() {
    const LARGE: usize = 200_000;
    const MEMORY: usize = 6_000_000;
    let world = World::<Sqlite>::start().await;
    let (noted, gate) = (Noted::default(), Arc::new(Semaphore::new(0)));
    let large = |_| User {
        id: "bad".to_owned(),
        email: "x".repeat(LARGE),
    };
    publish(&world, (0..60).map(large)).await;
    let worker = Worker::new(world.bus.clone(), (noted.clone(), gate));
    let running = world.run(worker.subscribe(ordered().max_in_flight_bytes(MEMORY)));
    let client = async_nats::connect(world.nats.url()).await.unwrap();
    let stream = jetstream::new(client).get_stream("EVENTS").await.unwrap();
    eventually("the consumer", || async {
        stream.consumer_info("flow").await.is_ok()
    })
    .await;
    // One stream has half of the memory, the retries have the other half. It is full when no message of 1 MiB fits.
    let held = || async { info(&world).await.num_ack_pending * LARGE };
    eventually("a full memory", || async {
        held().await > MEMORY / 2 - (1 << 20) - LARGE
    })
    .await;
    for _ in 0..50 {
        assert!(held().await <= MEMORY / 2, "{} bytes", held().await);
    }
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn large_events_stay_within_the_memory_limit() {
    async fn gated(_: User, cx: Context<(Noted, Arc<Semaphore>)>) -> Result<(), Failure> {
        let (noted, gate) = cx.state();
        gate.acquire().await?.forget();
        noted.note("");
        Ok(())
    }
    const LARGE: usize = 200_000;
    const MEMORY: usize = 6_000_000;
    let world = World::<Sqlite>::start().await;
    let large = |n: i32| User {
        id: n.to_string(),
        email: "x".repeat(LARGE),
    };
    publish(&world, (0..60).map(large)).await;
    let (noted, gate) = (Noted::default(), Arc::new(Semaphore::new(0)));
    let subscriber = EventSubscriber::durable("flow").on(gated).concurrency(60);
    let worker = Worker::new(world.bus.clone(), (noted.clone(), Arc::clone(&gate)))
        .subscribe(subscriber.max_in_flight_bytes(MEMORY));
    let running = world.run(worker);
    let mut most = 0;
    for handled in 1..=60 {
        gate.add_permits(1);
        noted.reach(handled).await;
        most = most.max(info(&world).await.num_ack_pending);
    }
    running.stop().await.unwrap();
    assert!(
        most > 1 && most * LARGE <= MEMORY,
        "{most} of {LARGE} bytes"
    );
}

/// Events that always fail open the circuit and take all slots; the events behind them still get attempts.
#[tokio::test(flavor = "multi_thread")]
async fn events_that_always_fail_do_not_keep_the_circuit_open() {
    async fn fail_if_bad(user: User, cx: Context<Arc<Downstream>>) -> Result<(), Failure> {
        if user.id.starts_with("bad") {
            return Err(Failure::retry("bad"));
        }
        cx.state().noted.note(user.id);
        Ok(())
    }
    let world = World::<Sqlite>::start().await;
    let downstream = Arc::new(Downstream::default());
    let bad = (0..2 * CONCURRENCY).map(|n| User::new(&format!("bad{n}")));
    publish(&world, bad.chain([User::new("good")])).await;
    let breaker = CircuitBreaker::default()
        .within(Duration::from_secs(30), 3)
        .open_for(Duration::from_millis(50), Duration::from_millis(100));
    let subscriber = EventSubscriber::durable("flow")
        .on(fail_if_bad)
        .circuit_breaker(breaker)
        .concurrency(CONCURRENCY);
    let worker = Worker::new(world.bus.clone(), Arc::clone(&downstream)).subscribe(subscriber);
    let running = world.run(worker);
    downstream.noted.reach(1).await;
    running.stop().await.unwrap();
}

/// When events arrive faster than they are handled, none is dropped and redelivered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_stream_is_delivered_once() {
    const EVENTS: usize = 3_000;
    let world = World::<Sqlite>::start().await;
    publish(&world, (0..EVENTS).map(|n| User::new(&n.to_string()))).await;
    let downstream = Arc::new(Downstream::default());
    let subscriber = EventSubscriber::durable("flow").on(call).concurrency(512);
    let worker = Worker::new(world.bus.clone(), Arc::clone(&downstream)).subscribe(subscriber);
    let running = world.run(worker);
    downstream.noted.reach(EVENTS).await;
    running.stop().await.unwrap();
    let context = jetstream::new(async_nats::connect(world.nats.url()).await.unwrap());
    let stream = context.get_stream("EVENTS").await.unwrap();
    let info = stream.consumer_info("flow").await.unwrap();
    let deliveries = usize::try_from(info.delivered.consumer_sequence).unwrap();
    assert_eq!((deliveries, info.num_ack_pending), (EVENTS, 0));
    assert_eq!(downstream.noted.len(), EVENTS);
}
