//! Batch handlers: what a batch consists of, the outcome of each event, and that a failing event does not affect
//! others.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use async_nats::jetstream;
use sqlx::Sqlite;
use tidings::{
    BatchResult, Batching, CircuitBreaker, Context, EventPublisher, EventSubscriber, Failure,
    InboxTransaction, Rate, Retry, Worker,
    handler::{BatchContext, Item},
};
use tokio::sync::Semaphore;
use uuid::Uuid;

use crate::{
    both,
    support::{Counted, Database, Noted, User, World, deliver, eventually, log},
};

/// The state of the handlers.
#[derive(Clone, Default)]
struct App {
    /// The events and attempts of each call.
    calls: Noted,
    /// When set, a handler waits for a permit.
    gate: Option<Arc<Semaphore>>,
    is_down: Arc<AtomicBool>,
}

impl App {
    fn note(&self, users: &[Item<User>]) {
        let users = users
            .iter()
            .map(|user| format!("{} {}", user.id, user.attempt()));
        self.calls.note(users.collect::<Vec<_>>().join(", "));
    }

    /// All events that were passed to the handler, each with its attempt.
    fn events(&self) -> Vec<String> {
        let calls = self.calls.all();
        calls
            .iter()
            .flat_map(|call| call.split(", ").map(str::to_owned))
            .collect()
    }

    fn sizes(&self) -> Vec<usize> {
        let calls = self.calls.all();
        calls.iter().map(|call| call.split(", ").count()).collect()
    }
}

/// The result for a user, which its id determines.
fn verdict(user: &Item<User>) -> Option<Failure> {
    let first = user.attempt() == 1;
    match &*user.id {
        "declined" => Some(Failure::reject("the card was declined")),
        "later" if first => Some(Failure::retry("not yet")),
        "wait" if first => Some(Failure::retry_after(Duration::from_millis(300), "wait")),
        _ => None,
    }
}

/// Ends the whole call as the id of one of its users determines.
async fn spoil(users: &[Item<User>]) -> Result<(), Failure> {
    for user in users {
        match &*user.id {
            "failing" => return Err(Failure::retry("poison")),
            "rejecting" => return Err(Failure::reject("poison")),
            "panicking" => panic!("poison"),
            "slow" => std::future::pending().await,
            _ => {}
        }
    }
    Ok(())
}

/// Counts up the row of each user.
async fn count<DB: Database>(
    users: Vec<Item<User>>,
    mut tx: InboxTransaction<DB>,
    cx: BatchContext<App>,
) -> Result<BatchResult, Failure> {
    cx.state().note(&users);
    let mut verdicts = BatchResult::done();
    for user in &users {
        match verdict(user) {
            Some(failure) => verdicts.fail(user.id(), failure),
            None => drop(DB::count_up(&mut tx, &user.id).await?),
        }
    }
    spoil(&users).await?;
    Ok(verdicts)
}

async fn note(users: Vec<Item<User>>, cx: BatchContext<App>) -> Result<BatchResult, Failure> {
    cx.state().note(&users);
    if cx.state().is_down.load(SeqCst) {
        return Err(Failure::retry("down"));
    }
    if let Some(gate) = &cx.state().gate {
        gate.acquire().await?.forget();
    }
    spoil(&users).await?;
    let mut verdicts = BatchResult::done();
    for user in users {
        if let Some(failure) = verdict(&user) {
            verdicts.fail(user.id(), failure);
        }
    }
    Ok(verdicts)
}

const HOUR: Duration = Duration::from_secs(3_600);

fn counter<DB: Database>(world: &World<DB>, batching: Batching) -> EventSubscriber<App> {
    quick(EventSubscriber::durable("counter").on_batch_transactional(
        &world.outbox,
        batching,
        count::<DB>,
    ))
}

fn noter(batching: Batching) -> EventSubscriber<App> {
    quick(EventSubscriber::durable("counter").on_batch(batching, note))
}

fn quick(subscriber: EventSubscriber<App>) -> EventSubscriber<App> {
    let retry = Retry::exponential(Duration::from_millis(20), Duration::from_millis(80));
    subscriber.retry(retry.attempts(2)).concurrency(1)
}

fn worker<DB: Database>(
    world: &World<DB>,
    app: &App,
    subscriber: EventSubscriber<App>,
) -> Worker<App> {
    Worker::new(world.bus.clone(), app.clone()).subscribe(subscriber)
}

fn users(count: usize) -> impl Iterator<Item = String> {
    (0..count).map(|nth| format!("user-{nth}"))
}

both!(
    each_event_of_a_batch_has_its_own_result,
    only_the_event_that_fails_a_batch_costs_an_attempt,
    a_redelivered_event_of_a_batch_has_its_effect_once,
    a_key_keeps_its_order_while_others_of_its_batch_fail,
);

async fn each_event_of_a_batch_has_its_own_result<DB: Database>(world: World<DB>) {
    let app = App::default();
    let client = jetstream::new(async_nats::connect(world.nats.url()).await.unwrap());
    let undecodable = client.publish("user.created", "{}".into());
    undecodable.await.unwrap().await.unwrap();
    let names = ["ada", "declined", "later", "wait", "bob"].map(str::to_owned);
    world.publish_users(names).await;
    let batching = Batching::of(6).linger(Duration::from_millis(200));
    let running = world.run(worker(&world, &app, counter(&world, batching)));
    world.is_handled(6).await;
    eventually("all have their effect", || async {
        world.remembered().await == 4
    })
    .await;
    running.stop().await.unwrap();
    assert_eq!(
        app.calls.all()[0],
        "ada 1, declined 1, later 1, wait 1, bob 1"
    );
    let mut again = app.events().split_off(5);
    again.sort();
    assert_eq!(again, ["later 2", "wait 2"]);
    for user in ["ada", "later", "wait", "bob"] {
        assert_eq!(world.counted(user).await, 1, "{user}");
    }
    assert_eq!(world.counted("declined").await, 0);
    let dead = world.dead_letters().await;
    let mut causes = dead
        .0
        .iter()
        .map(|letter| letter.header("tidings-dead-cause"));
    let causes = BTreeSet::from_iter(causes.by_ref());
    assert_eq!(causes, BTreeSet::from(["rejected", "undecodable"]));
}

async fn only_the_event_that_fails_a_batch_costs_an_attempt<DB: Database>(world: World<DB>) {
    let app = App::default();
    let poison = ["failing", "rejecting", "panicking", "slow"];
    for (nth, poison) in poison.into_iter().enumerate() {
        let mut names: Vec<String> = users(9).map(|user| format!("{poison}-{user}")).collect();
        names.insert(nth * 3, poison.to_owned());
        world.publish_users(names).await;
    }
    let subscriber = counter(&world, Batching::of(10)).timeout(Duration::from_secs(1));
    let running = world.run(worker(&world, &app, subscriber));
    world.is_handled(40).await;
    eventually("four are dead", || async {
        world.dead_letters().await.len() == 4
    })
    .await;
    running.stop().await.unwrap();
    assert_eq!(app.sizes()[0], 10);
    assert_eq!(world.remembered().await, 36);
    for poison in poison {
        for user in users(9) {
            assert_eq!(world.counted(&format!("{poison}-{user}")).await, 1);
        }
        assert_eq!(world.counted(poison).await, 0, "{poison}");
    }
    // Second attempts are in another batch, which is halved again.
    let mut second = app.events();
    second.retain(|event| !event.ends_with(" 1"));
    assert_eq!(
        BTreeSet::from_iter(second.iter().map(|event| &**event)),
        BTreeSet::from(["failing 2", "panicking 2", "slow 2"])
    );
}

async fn a_redelivered_event_of_a_batch_has_its_effect_once<DB: Database>(world: World<DB>) {
    let app = App::default();
    let (url, [ada, bob, later]) = (world.nats.url(), [0; 3].map(|_| Uuid::now_v7()));
    let batch = [
        (ada, "ada"),
        (bob, "bob"),
        (ada, "ada"),
        (later, "later"),
        (later, "later"),
    ];
    for (id, user) in batch.into_iter().chain(batch) {
        deliver(&url, id, user).await;
    }
    let running = world.run(worker(&world, &app, counter(&world, Batching::of(5))));
    world.is_handled(10).await;
    for user in ["ada", "bob", "later"] {
        eventually("it is done", || async { world.counted(user).await > 0 }).await;
    }
    deliver(&url, ada, "ada").await;
    deliver(&url, Uuid::now_v7(), "eve").await;
    world.is_handled(12).await;
    running.stop().await.unwrap();
    for user in ["ada", "bob", "later", "eve"] {
        assert_eq!(world.counted(user).await, 1, "{user}");
    }
    let calls = app.calls.all();
    assert_eq!(calls[0], "ada 1, bob 1, later 1");
    let ended = app
        .events()
        .into_iter()
        .filter(|event| !event.starts_with("later"));
    assert_eq!(ended.collect::<Vec<_>>(), ["ada 1", "bob 1", "eve 1"]);
    assert_eq!(
        (world.remembered().await, world.dead_letters().await.len()),
        (4, 0)
    );
}

const KEYS: usize = 5;
const EVENTS_OF_A_KEY: i64 = 21;

/// Counts up, and fails for some of the events and in some of the calls.
async fn raise<DB: Database>(
    events: Vec<Item<Counted>>,
    mut tx: InboxTransaction<DB>,
    cx: BatchContext<App>,
) -> Result<BatchResult, Failure> {
    let keys: BTreeSet<&str> = events.iter().map(|event| &*event.key).collect();
    let mut notes = vec![format!("{} of {}", keys.len(), events.len())];
    let mut verdicts = BatchResult::done();
    for event in &events {
        let first = event.attempt() == 1;
        if first && event.count % 4 == 0 {
            verdicts.fail(event.id(), Failure::retry("on purpose"));
            continue;
        }
        if first && event.count % 7 == 0 {
            return Err(Failure::retry("all on purpose"));
        }
        let count = DB::count_up(&mut tx, &event.key).await?;
        if count != event.count {
            notes.push(format!(
                "{} is {count} and should be {}",
                event.key, event.count
            ));
        }
    }
    for note in notes {
        cx.state().calls.note(note);
    }
    Ok(verdicts)
}

async fn a_key_keeps_its_order_while_others_of_its_batch_fail<DB: Database>(world: World<DB>) {
    let app = App::default();
    let publisher = EventPublisher::new(&world.bus);
    for count in 1..=EVENTS_OF_A_KEY {
        for key in 0..KEYS {
            let key = format!("key-{key}");
            publisher.publish(&Counted { key, count }).await.unwrap();
        }
    }
    let batching = Batching::of(4);
    let subscriber = EventSubscriber::durable("counter")
        .on_batch_transactional(&world.outbox, batching, raise::<DB>)
        .ordered_by_key();
    let running = world.run(worker(&world, &app, quick(subscriber).concurrency(3)));
    world
        .is_handled(u64::try_from(EVENTS_OF_A_KEY).unwrap() * 5)
        .await;
    running.stop().await.unwrap();
    for key in 0..KEYS {
        assert_eq!(world.counted(&format!("key-{key}")).await, EVENTS_OF_A_KEY);
    }
    let all = app.calls.all();
    let calls: BTreeSet<&str> = all.iter().map(|call| &**call).collect();
    let expected: BTreeSet<&str> = ["1 of 1", "2 of 2", "3 of 3", "4 of 4"].into();
    assert!(calls.is_subset(&expected), "{calls:?}");
    assert!(calls.len() > 1, "{calls:?}");
    assert_eq!(world.dead_letters().await.len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_batch_does_not_linger_and_a_partial_one_does() {
    let world = World::<Sqlite>::start().await;
    world.publish_users(users(10)).await;
    let full = App::default();
    let running = world.run(worker(&world, &full, noter(Batching::of(5).linger(HOUR))));
    world.is_handled(10).await;
    running.stop().await.unwrap();
    assert_eq!(full.sizes(), [5, 5]);

    world.publish_users(users(3)).await;
    let part = App::default();
    let batching = Batching::of(1_000).linger(Duration::from_secs(1));
    let began = Instant::now();
    let running = world.run(worker(&world, &part, noter(batching)));
    part.calls.reach(1).await;
    assert!(began.elapsed() >= Duration::from_secs(1));
    running.stop().await.unwrap();
    assert_eq!(part.calls.all(), ["user-0 1, user-1 1, user-2 1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_hands_batches_back_and_costs_no_attempt() {
    let world = World::<Sqlite>::start().await;
    world.publish_users(users(5)).await;
    let stuck = App {
        gate: Some(Arc::new(Semaphore::new(0))),
        ..App::default()
    };
    let subscriber = noter(Batching::of(3).linger(HOUR));
    let worker_that_stops =
        worker(&world, &stuck, subscriber).shutdown_timeout(Duration::from_millis(100));
    let running = world.run(worker_that_stops);
    let client = jetstream::new(async_nats::connect(world.nats.url()).await.unwrap());
    let in_flight = || async {
        let stream = client.get_stream("EVENTS").await.unwrap();
        let info = stream.consumer_info("counter").await;
        info.is_ok_and(|info| info.num_ack_pending == 5)
    };
    eventually("three are handled, and two wait for their batch", in_flight).await;
    stuck.calls.reach(1).await;
    running.stop().await.unwrap();
    assert_eq!(stuck.events(), ["user-0 1", "user-1 1", "user-2 1"]);

    let (app, began) = (App::default(), Instant::now());
    let running = world.run(worker(&world, &app, noter(Batching::of(5).linger(HOUR))));
    world.is_handled(5).await;
    // If the worker had not handed them back, they would have been redelivered after 30 s.
    assert!(began.elapsed() < Duration::from_secs(20));
    running.stop().await.unwrap();
    let mut events = app.events();
    events.sort();
    let expected: Vec<String> = users(5).map(|user| format!("{user} 1")).collect();
    assert_eq!(events, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_wait_for_an_open_circuit_and_one_event_probes_it() {
    log::listen();
    let world = World::<Sqlite>::start().await;
    let app = App::default();
    app.is_down.store(true, SeqCst);
    let breaker = CircuitBreaker::default()
        .within(Duration::from_secs(30), 3)
        .open_for(Duration::from_millis(50), Duration::from_millis(100));
    let batching = Batching::of(10).linger(Duration::from_millis(200));
    let subscriber = noter(batching).circuit_breaker(breaker);
    let running = world.run(worker(&world, &app, subscriber));
    world.publish_users(users(30)).await;
    eventually("a dozen probes", || async {
        log::said("circuit probe failed").len() >= 12
    })
    .await;
    let sizes = app.sizes();
    app.is_down.store(false, SeqCst);
    world.is_handled(30).await;
    running.stop().await.unwrap();
    assert_eq!(sizes[sizes.len() - 8..], [1; 8], "{sizes:?}");
    assert_eq!(log::said("circuit closed").len(), 1);
    assert!(app.sizes()[sizes.len()..].iter().any(|size| *size > 1));
    assert_eq!(world.dead_letters().await.len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rate_limit_counts_events_and_not_batches() {
    let world = World::<Sqlite>::start().await;
    world.publish_users(users(60)).await;
    let (app, began) = (App::default(), Instant::now());
    let subscriber = noter(Batching::of(30)).rate_limit(Rate::per_second(100));
    let running = world.run(worker(&world, &app, subscriber));
    world.is_handled(60).await;
    assert!(began.elapsed() >= Duration::from_millis(500));
    running.stop().await.unwrap();
    assert_eq!(app.events().len(), 60);
}

async fn one(_: Counted, _: Context<App>) -> Result<(), Failure> {
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscriber_does_not_handle_batches_and_single_events() {
    let world = World::<Sqlite>::start().await;
    let mixed = noter(Batching::of(2)).on(one);
    let ended = world
        .run(worker(&world, &App::default(), mixed))
        .end()
        .await;
    assert_eq!(
        ended.unwrap_err().to_string(),
        "subscriber counter has batch handlers and other handlers: use two subscribers"
    );
}
