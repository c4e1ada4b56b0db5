//! A failed attempt does not affect other events, and a delivery without an attempt does not count as one.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use tidings::{Context, EventPublisher, EventSubscriber, Failure, Retry, Worker};
use tokio::sync::Semaphore;

use crate::support::{Noted, User, World, eventually, within};

type Sqlite = sqlx::Sqlite;

/// Every event fails at first, with a retry far in the future; then comes one that succeeds.
#[tokio::test(flavor = "multi_thread")]
async fn delayed_retries_take_no_slot_of_new_events() {
    async fn fail_but_one(user: User, cx: Context<Noted>) -> Result<(), Failure> {
        if user.id.starts_with("bad") {
            return Err(Failure::retry_after(Duration::from_secs(3600), "not now"));
        }
        cx.state().note(user.id);
        Ok(())
    }
    let world = World::<Sqlite>::start().await;
    let noted = Noted::default();
    let worker = Worker::new(world.bus.clone(), noted.clone()).subscribe(
        EventSubscriber::durable("w")
            .on(fail_but_one)
            .concurrency(4)
            .retry(Retry::default()),
    );
    let running = world.run(worker);
    for number in 0..100 {
        world.publish_users([format!("bad{number}")]).await;
    }
    world.publish_users(["good"]).await;
    noted.reach(1).await;
    let client = async_nats::connect(world.nats.url()).await.unwrap();
    let context = async_nats::jetstream::new(client);
    let stream = context.get_stream("EVENTS").await.unwrap();
    eventually("nothing is ack_pending", || async {
        let info = stream.consumer_info("w").await.unwrap();
        info.num_ack_pending == 0 && info.num_pending == 0
    })
    .await;
    let retries = context.get_stream("RETRIES").await.unwrap();
    assert_eq!(retries.cached_info().state.messages, 100);
    running.stop().await.unwrap();
    assert_eq!(world.dead_letters().await.len(), 0);
}

/// An event is delivered, and its worker stops or dies, more often than the maximum number of attempts.
#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_and_a_crash_cost_no_attempt() {
    struct State {
        began: Semaphore,
        finish: AtomicBool,
        noted: Noted,
    }
    async fn hang(_: User, cx: Context<std::sync::Arc<State>>) -> Result<(), Failure> {
        let state = cx.state();
        if !state.finish.load(Ordering::SeqCst) {
            state.began.add_permits(1);
            std::future::pending::<()>().await;
        }
        state.noted.note(cx.attempt().to_string());
        Ok(())
    }
    let world = World::<Sqlite>::start().await;
    let state = std::sync::Arc::new(State {
        began: Semaphore::new(0),
        finish: AtomicBool::new(false),
        noted: Noted::default(),
    });
    let worker = || {
        Worker::new(world.bus.clone(), std::sync::Arc::clone(&state))
            .subscribe(
                EventSubscriber::durable("w")
                    .on(hang)
                    .retry(Retry::default().attempts(2)),
            )
            .shutdown_timeout(Duration::ZERO)
    };
    world.publish_users(["ada"]).await;
    for _ in 0..4 {
        let running = world.run(worker());
        within("the handler begins", state.began.acquire())
            .await
            .unwrap()
            .forget();
        running.stop().await.unwrap();
    }
    state.finish.store(true, Ordering::SeqCst);
    let running = world.run(worker());
    state.noted.reach(1).await;
    running.stop().await.unwrap();
    assert_eq!(state.noted.all(), ["1"]);
    assert_eq!(world.dead_letters().await.len(), 0);
}

/// The number of failures is stored with the event, and passed from one process to the next.
#[tokio::test(flavor = "multi_thread")]
async fn failures_are_counted_across_workers() {
    async fn fail(_: User, cx: Context<Noted>) -> Result<(), Failure> {
        cx.state()
            .note(format!("{} {:?}", cx.attempt(), cx.stream_position()));
        Err(Failure::retry("no"))
    }
    let world = World::<Sqlite>::start().await;
    let noted = Noted::default();
    let retry = Retry::exponential(Duration::from_secs(1), Duration::from_secs(1)).attempts(3);
    world.publish_users(["ada"]).await;
    for attempt in 1..=3 {
        let worker = Worker::new(world.bus.clone(), noted.clone())
            .subscribe(EventSubscriber::durable("w").on(fail).retry(retry));
        let running = world.run(worker);
        noted.reach(attempt).await;
        running.stop().await.unwrap();
    }
    let place = "(\"EVENTS\", 1)";
    let wanted: Vec<String> = (1..=3)
        .map(|attempt| format!("{attempt} {place}"))
        .collect();
    assert_eq!(noted.all(), wanted);
    let dead = world.dead_letters().await;
    assert_eq!(dead.0[0].header("tidings-dead-attempts"), "3");
    assert_eq!(dead.0[0].header("tidings-dead-sequence"), "1");
    assert!(dead.0[0].header("tidings-dead-handler").ends_with("fail"));
}

/// With the headers of a retry, the message would be larger than the server accepts.
#[tokio::test(flavor = "multi_thread")]
async fn an_event_too_large_for_the_retry_stream_has_its_attempts() {
    async fn fail(_: User, cx: Context<Noted>) -> Result<(), Failure> {
        cx.state().note(cx.attempt().to_string());
        Err(Failure::retry("no"))
    }
    let world = World::<Sqlite>::start().await;
    let publisher = EventPublisher::new(&world.bus);
    let mut user = User::new("ada");
    // The largest payload that can be published, to within a few bytes.
    user.email = "x".repeat(world.bus.max_payload());
    while publisher.publish(&user).await.is_err() {
        user.email.truncate(user.email.len() - 32);
    }
    let noted = Noted::default();
    let retry = Retry::exponential(Duration::from_millis(400), Duration::from_millis(400));
    let worker = Worker::new(world.bus.clone(), noted.clone()).subscribe(
        EventSubscriber::durable("w")
            .on(fail)
            .retry(retry.attempts(3)),
    );
    let running = world.run(worker);
    eventually("a dead letter", || async {
        world.dead_letters().await.len() == 1
    })
    .await;
    running.stop().await.unwrap();
    assert_eq!(noted.all(), ["1", "2", "3"]);
}

/// While a handler uses the shutdown timeout after the signal, its event is not redelivered to another instance.
#[tokio::test(flavor = "multi_thread")]
async fn progress_acks_are_sent_until_the_shutdown_ends() {
    use futures::StreamExt;
    async fn wait(_: User, cx: Context<std::sync::Arc<[Semaphore; 2]>>) -> Result<(), Failure> {
        let [began, end] = &**cx.state();
        began.add_permits(1);
        end.acquire().await?.forget();
        Ok(())
    }
    let world = World::<Sqlite>::start().await;
    let gates = std::sync::Arc::new([0, 0].map(Semaphore::new));
    let worker = Worker::new(world.bus.clone(), std::sync::Arc::clone(&gates))
        .subscribe(EventSubscriber::durable("w").on(wait))
        .shutdown_timeout(Duration::from_secs(600));
    let running = world.run(worker);
    world.publish_users(["ada"]).await;
    let began = within("the handler begins", gates[0].acquire()).await;
    began.unwrap().forget();
    let client = async_nats::connect(world.nats.url()).await.unwrap();
    let mut answers = client.subscribe("$JS.ACK.EVENTS.w.>").await.unwrap();
    client.flush().await.unwrap();
    let stopping = tokio::spawn(running.stop());
    let answer = within("a sign", answers.next()).await.unwrap();
    assert_eq!(&*answer.payload, b"+WPI");
    gates[1].add_permits(1);
    let answer = within("the answer", answers.next()).await.unwrap();
    assert_eq!(&*answer.payload, b"+ACK");
    stopping.await.unwrap().unwrap();
}
