//! A subscriber: it is ready while attempts end or nothing is due, and tells what stops it.

use std::time::Duration;

use serde_json::Value;
use tidings::{
    CircuitBreaker, Context, EventPublisher, EventSubscriber, Failure, Retry, StreamSpec, Worker,
    subscribers::Subscribers,
};

use super::{
    endpoints,
    handlers::{Gate, wait},
};
use crate::support::{Noted, User, World, eventually, note_id};

type Sqlite = sqlx::Sqlite;

#[tokio::test]
async fn a_paused_subscriber_is_ready_though_events_wait() {
    let world = World::<Sqlite>::start().await;
    let (ops, endpoints) = endpoints();
    let noted = Noted::default();
    let subscriber = EventSubscriber::durable("welcome").on(note_id);
    let worker = Worker::new(world.bus.clone(), noted.clone()).subscribe(subscriber);
    let running = world.run(worker.with(ops));
    let path = "/readyz/subscriber/welcome";
    endpoints.says(path, 200, "idle").await;
    let subscribers = Subscribers::new(&world.bus);
    subscribers.pause("welcome", None).await.unwrap();
    endpoints.says(path, 200, "paused").await;
    EventPublisher::new(&world.bus)
        .publish(&User::new("ada"))
        .await
        .unwrap();
    eventually("the event waits", || async {
        let component = endpoints.component("subscriber").await;
        assert_eq!(component["status"], "paused", "{component}");
        component["progress"]["pending"] == 1
    })
    .await;
    assert_eq!(noted.len(), 0);
    subscribers.resume("welcome").await.unwrap();
    noted.reach(1).await;
    endpoints.says(path, 200, "idle").await;
    running.stop().await.unwrap();
}

#[tokio::test]
async fn slots_that_are_all_taken_for_long_are_not_ready() {
    let world = World::<Sqlite>::start().await;
    let (ops, endpoints) = endpoints();
    let gate = Gate::closed();
    let subscriber = EventSubscriber::durable("waits").on(wait).concurrency(2);
    let subscriber = subscriber.stuck_after(Duration::from_millis(300));
    let worker = Worker::new(world.bus.clone(), gate.clone()).subscribe(subscriber);
    let running = world.run(worker.with(ops));
    let path = "/readyz/subscriber/waits";
    endpoints.says(path, 200, "idle").await;
    let publisher = EventPublisher::new(&world.bus);
    publisher.publish(&User::new("ada")).await.unwrap();
    gate.noted.reach(1).await;
    eventually("the attempt is old", || async {
        let component = endpoints.component("subscriber").await;
        assert_eq!(component["ready"], true, "a slot is free: {component}");
        component["progress"]["oldest_attempt_s"].as_u64() >= Some(1)
    })
    .await;
    publisher.publish(&User::new("bob")).await.unwrap();
    let stuck = endpoints.says(path, 503, "all 2 slots are taken").await;
    assert!(stuck.text.contains("(of user.created "), "{stuck:?}");
    assert!(stuck.text.contains("; try: "), "{stuck:?}");
    gate.open.add_permits(2);
    endpoints.says(path, 200, "idle").await;
    running.stop().await.unwrap();
}

#[tokio::test]
async fn a_subscriber_at_a_frozen_nats_is_not_ready_until_it_answers() {
    let world = World::<Sqlite>::start().await;
    let (ops, endpoints) = endpoints();
    let noted = Noted::default();
    let subscriber = EventSubscriber::durable("welcome").on(note_id);
    let worker = Worker::new(world.bus.clone(), noted.clone()).subscribe(subscriber);
    let running = world.run(worker.with(ops));
    let path = "/readyz/subscriber/welcome";
    endpoints.says(path, 200, "idle").await;
    world.nats.pause().unwrap();
    endpoints.says(path, 503, "stuck").await;
    assert_eq!(endpoints.ask("/livez").await.status, 200);
    let health = endpoints.health().await;
    assert_eq!(health["status"], "stuck", "{health}");
    world.nats.resume().unwrap();
    EventPublisher::new(&world.bus)
        .publish(&User::new("ada"))
        .await
        .unwrap();
    noted.reach(1).await;
    endpoints.says(path, 200, "idle").await;
    running.stop().await.unwrap();
}

#[tokio::test]
async fn a_draining_worker_is_alive_and_not_ready() {
    let world = World::<Sqlite>::start().await;
    let (ops, endpoints) = endpoints();
    let gate = Gate::closed();
    let worker = Worker::new(world.bus.clone(), gate.clone());
    let worker = worker.subscribe(EventSubscriber::durable("waits").on(wait));
    let running = world.run(worker.with(ops));
    endpoints.says("/readyz", 200, "idle").await;
    EventPublisher::new(&world.bus)
        .publish(&User::new("ada"))
        .await
        .unwrap();
    gate.noted.reach(1).await;
    let stopping = tokio::spawn(running.stop());
    let draining = endpoints
        .says("/readyz", 503, "subscriber waits: draining")
        .await;
    assert!(draining.text.contains("process: draining"), "{draining:?}");
    assert_eq!(endpoints.ask("/readyz?of=startup").await.status, 503);
    assert_eq!(endpoints.ask("/livez").await.status, 200);
    gate.open.add_permits(1);
    stopping.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_worker_that_waits_for_nats_at_its_start_is_starting() {
    let world = World::<Sqlite>::start().await;
    let (ops, endpoints) = endpoints();
    world.nats.pause().unwrap();
    let worker = Worker::new(world.bus.clone(), Noted::default());
    let worker = worker.subscribe(EventSubscriber::durable("welcome").on(note_id));
    let running = world.run(worker.with(ops));
    let starting = endpoints.says("/readyz", 503, "process: starting").await;
    assert_eq!(
        endpoints.ask("/readyz?of=startup").await.status,
        503,
        "{starting:?}"
    );
    let one = endpoints.ask("/readyz/subscriber/welcome").await;
    assert_eq!(one.status, 503, "it may still come: {one:?}");
    assert_eq!(endpoints.ask("/livez").await.status, 200);
    world.nats.resume().unwrap();
    endpoints
        .says("/readyz?of=startup", 200, "subscriber welcome: idle")
        .await;
    assert_eq!(endpoints.ask("/readyz/subscriber/other").await.status, 404);
    assert_eq!(endpoints.ask("/readyz/relay").await.status, 404);
    running.stop().await.unwrap();
}

async fn fails(user: User, _: Context<Noted>) -> Result<(), Failure> {
    match user.id.starts_with("fails") {
        true => Err(Failure::retry("the mail server says 503")),
        false => Ok(()),
    }
}

#[tokio::test]
async fn an_open_circuit_is_not_ready_and_says_the_last_error() {
    let world = World::<Sqlite>::start().await;
    let (ops, endpoints) = endpoints();
    let minute = Duration::from_secs(60);
    let breaker = CircuitBreaker::default().within(minute, 3);
    let subscriber = EventSubscriber::durable("mails").on(fails);
    let subscriber = subscriber.circuit_breaker(breaker.open_for(minute, minute));
    let worker = Worker::new(world.bus.clone(), Noted::default()).subscribe(subscriber);
    let running = world.run(worker.with(ops));
    world
        .publish_users(["fails-1", "fails-2", "fails-3", "fails-4"])
        .await;
    let path = "/readyz/subscriber/mails";
    let stuck = endpoints.says(path, 503, "the circuit is open").await;
    for part in [
        "the next one in ",
        "the last error: the mail server says 503",
    ] {
        assert!(stuck.text.contains(part), "{part}: {stuck:?}");
    }
    let component = endpoints.component("subscriber").await;
    assert_eq!(component["kind"], "circuit-open", "{component}");
    running.stop().await.unwrap();
}

#[tokio::test]
async fn a_key_that_waits_is_named_and_ready() {
    let world = World::<Sqlite>::start().await;
    let (ops, endpoints) = endpoints();
    let second = Duration::from_secs(1);
    let retry = Retry::exponential(second, second).attempts(u32::MAX);
    let subscriber = EventSubscriber::durable("mails").on(fails).retry(retry);
    let subscriber = subscriber.ordered_by_key();
    let worker = Worker::new(world.bus.clone(), Noted::default()).subscribe(subscriber);
    let running = world.run(worker.with(ops));
    world.publish_users(["fails-7", "fails-7", "ada"]).await;
    let path = "/readyz/subscriber/mails";
    let waits = endpoints.says(path, 200, "fails-7 (1 behind").await;
    assert!(waits.text.contains("; try: see why it fails"), "{waits:?}");
    let component = endpoints.component("subscriber").await;
    assert_eq!(component["kind"], "key-waits", "{component}");
    assert_eq!(component["runbook"], "stuck-key.md", "{component}");
    running.stop().await.unwrap();
}

#[tokio::test]
async fn a_stream_of_dead_letters_that_is_gone_is_named() {
    let world = World::<Sqlite>::start().await;
    let (ops, endpoints) = endpoints();
    let subscriber = EventSubscriber::durable("mails").on(note_id);
    let worker = Worker::new(world.bus.clone(), Noted::default()).subscribe(subscriber);
    let running = world.run(worker.with(ops));
    let path = "/readyz/subscriber/mails";
    endpoints.says(path, 200, "idle").await;
    let context = world.jetstream().await;
    context.delete_stream("DEAD_LETTERS").await.unwrap();
    let gone = endpoints.says(path, 200, "DEAD_LETTERS is gone").await;
    assert!(gone.text.contains("tidings streams apply"), "{gone:?}");
    let component = endpoints.component("subscriber").await;
    assert_eq!(component["kind"], "dead-letters-gone", "{component}");
    assert_eq!(component["status"], "degraded", "{component}");
    let letters = StreamSpec::dead_letters();
    world.bus.apply_stream(&letters).await.unwrap();
    endpoints.says(path, 200, "idle").await;
    running.stop().await.unwrap();
}

#[tokio::test]
async fn an_autoscaler_learns_what_waits() {
    let world = World::<Sqlite>::start().await;
    let (ops, endpoints) = endpoints();
    let gate = Gate::closed();
    let subscriber = EventSubscriber::durable("waits").on(wait).concurrency(1);
    let worker = Worker::new(world.bus.clone(), gate.clone()).subscribe(subscriber);
    let running = world.run(worker.with(ops));
    endpoints.says("/scale/waits", 200, r#""waiting":0"#).await;
    assert_eq!(endpoints.ask("/scale/other").await.status, 404);
    let users: Vec<_> = (0..200).map(|n| User::new(&n.to_string())).collect();
    world.publish(&users).await;
    let scale = async || -> Value {
        let answer = endpoints.ask("/scale/waits").await;
        assert_eq!(answer.status, 200, "{answer:?}");
        serde_json::from_str(&answer.text).expect("JSON")
    };
    eventually("what waits is told with its age", || async {
        let told = scale().await;
        assert_eq!(told["subscriber"], "waits");
        told["waiting"].as_u64() >= Some(100) && told["oldest_s"].as_f64() > Some(1.0)
    })
    .await;
    gate.open.add_permits(users.len());
    gate.noted.reach(users.len()).await;
    let told = endpoints.says("/scale/waits", 200, r#""waiting":0"#).await;
    assert!(told.text.contains(r#""oldest_s":0.0"#), "{told:?}");
    running.stop().await.unwrap();
}
