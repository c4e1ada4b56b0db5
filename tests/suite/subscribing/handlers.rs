//! P6 and P7: what handlers see, and what happens to events that they refuse.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tidings::{
    Context, Envelope, Event, EventPublisher, EventSubscriber, Failure, Retry, Worker,
    worker::WorkerError,
};
use tokio::sync::Semaphore;

use crate::support::{Counted, Noted, User, World, eventually, note_id, within};

type Sqlite = sqlx::Sqlite;

fn quick() -> Retry {
    Retry::exponential(Duration::from_millis(20), Duration::from_millis(80)).attempts(3)
}

/// Publishes with the NATS client alone, as a program in another language would.
async fn publish_foreign(world: &World<Sqlite>, headers: &[(&str, &str)], payload: &str) {
    let client = async_nats::connect(world.nats.url()).await.unwrap();
    let mut map = async_nats::HeaderMap::new();
    for (name, value) in headers {
        map.insert(*name, *value);
    }
    let context = async_nats::jetstream::new(client);
    let stored = context
        .publish_with_headers("user.created", map, payload.to_owned().into())
        .await
        .unwrap();
    stored.await.unwrap();
}

async fn until_dead(world: &World<Sqlite>, count: usize) {
    eventually("the dead letters", || async {
        world.dead_letters().await.len() >= count
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_event_is_retried_on_schedule_then_dead_lettered() {
    async fn fail(_: User, cx: Context<(Noted, Instant)>) -> Result<(), Failure> {
        let (noted, began) = cx.state();
        noted.note(format!("{} {}", cx.attempt(), began.elapsed().as_millis()));
        Err(Failure::retry("the mail server is down"))
    }
    let world = World::<Sqlite>::start().await;
    let noted = Noted::default();
    let retry = Retry::exponential(Duration::from_millis(200), Duration::from_secs(1)).attempts(3);
    let worker = Worker::new(world.bus.clone(), (noted.clone(), Instant::now()))
        .subscribe(EventSubscriber::durable("welcome").on(fail).retry(retry));
    let running = world.run(worker);
    world.publish_users(["ada"]).await;
    until_dead(&world, 1).await;
    running.stop().await.unwrap();

    let notes: Vec<(u32, u64)> = noted
        .all()
        .iter()
        .map(|note| note.split_once(' ').unwrap())
        .map(|(attempt, at)| (attempt.parse().unwrap(), at.parse().unwrap()))
        .collect();
    let [(1, first), (2, second), (3, third)] = notes[..] else {
        panic!("{notes:?}")
    };
    assert!(second - first >= 100 && third - second >= 200, "{notes:?}");
    let dead = world.dead_letters().await;
    let letter = &dead.0[0];
    assert_eq!(letter.subject, "dead-letter.welcome.user.created");
    assert_eq!(letter.header("tidings-dead-cause"), "exhausted");
    assert_eq!(
        letter.header("tidings-dead-error"),
        "the mail server is down"
    );
    assert_eq!(letter.header("tidings-dead-attempts"), "3");
    assert_eq!(letter.header("ce-type"), "user.created.v1");
    assert_eq!(letter.json()["id"], "ada");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rejected_event_is_dead_lettered_at_once_and_others_flow() {
    async fn refuse(user: User, cx: Context<Noted>) -> Result<(), Failure> {
        if user.id == "bad" {
            return Err(Failure::reject("no such mailbox"));
        }
        note_id(user, cx).await
    }
    let world = World::<Sqlite>::start().await;
    let noted = Noted::default();
    let worker = Worker::new(world.bus.clone(), noted.clone())
        .subscribe(EventSubscriber::durable("welcome").on(refuse));
    let running = world.run(worker);
    for id in ["bad", "ada"] {
        world.publish_users([id]).await;
    }
    noted.reach(1).await;
    until_dead(&world, 1).await;
    running.stop().await.unwrap();
    assert_eq!(noted.all(), ["ada"]);
    assert_eq!(
        world.dead_letters().await.0[0].header("tidings-dead-cause"),
        "rejected"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn undecodable_and_unknown_events_become_dead_letters() {
    let world = World::<Sqlite>::start().await;
    let noted = Noted::default();
    let worker = Worker::new(world.bus.clone(), noted.clone())
        .subscribe(EventSubscriber::durable("welcome").on(note_id));
    let running = world.run(worker);
    publish_foreign(&world, &[], "not json").await;
    publish_foreign(&world, &[], r#"{"id": 7}"#).await;
    publish_foreign(&world, &[("ce-type", "user.created.v9")], "{}").await;
    world.publish_users(["ada"]).await;
    noted.reach(1).await;
    until_dead(&world, 3).await;
    running.stop().await.unwrap();
    let dead = world.dead_letters().await;
    let mut causes: Vec<_> = dead
        .0
        .iter()
        .map(|m| m.header("tidings-dead-cause"))
        .collect();
    causes.sort_unstable();
    assert_eq!(causes, ["undecodable", "undecodable", "unknown"]);
    assert!(dead.0.iter().any(|m| m.payload == b"not json"));
    assert_eq!(noted.all(), ["ada"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_event_without_headers_is_delivered() {
    let world = World::<Sqlite>::start().await;
    let noted = Noted::default();
    let worker = Worker::new(world.bus.clone(), noted.clone())
        .subscribe(EventSubscriber::durable("welcome").on(note_id));
    let running = world.run(worker);
    publish_foreign(&world, &[], r#"{"id": "ada", "email": "a@x"}"#).await;
    publish_foreign(
        &world,
        &[("Nats-Msg-Id", "mine")],
        r#"{"id": "bob", "email": "b@x"}"#,
    )
    .await;
    noted.reach(2).await;
    running.stop().await.unwrap();
    assert_eq!(world.dead_letters().await.len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_is_a_failure_and_does_not_stop_the_worker() {
    async fn panic_once(user: User, cx: Context<Noted>) -> Result<(), Failure> {
        assert!(user.id != "bad" || cx.attempt() > 1, "not this time");
        note_id(user, cx).await
    }
    let world = World::<Sqlite>::start().await;
    let noted = Noted::default();
    let worker = Worker::new(world.bus.clone(), noted.clone()).subscribe(
        EventSubscriber::durable("welcome")
            .on(panic_once)
            .retry(quick()),
    );
    let running = world.run(worker);
    for id in ["bad", "ada"] {
        world.publish_users([id]).await;
    }
    noted.reach(2).await;
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_that_times_out_is_cancelled_and_counts_as_failed() {
    async fn hang(_: User, cx: Context<Noted>) -> Result<(), Failure> {
        cx.state().note(format!("attempt {}", cx.attempt()));
        std::future::pending().await
    }
    let world = World::<Sqlite>::start().await;
    let noted = Noted::default();
    let subscriber = EventSubscriber::durable("welcome")
        .on(hang)
        .retry(quick().attempts(2))
        .timeout(Duration::from_millis(50));
    let running = world.run(Worker::new(world.bus.clone(), noted.clone()).subscribe(subscriber));
    world.publish_users(["ada"]).await;
    until_dead(&world, 1).await;
    running.stop().await.unwrap();
    assert_eq!(noted.all(), ["attempt 1", "attempt 2"]);
    let dead = world.dead_letters().await;
    assert!(
        dead.0[0]
            .header("tidings-dead-error")
            .contains("longer than 50ms")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn one_durable_handles_several_names_and_versions() {
    #[derive(serde::Serialize, serde::Deserialize, Event)]
    #[event(name = "user.created", version = 2, key = id)]
    struct UserV2 {
        id: String,
    }
    async fn note_v2(user: UserV2, cx: Context<Noted>) -> Result<(), Failure> {
        cx.state().note(format!("v{} {}", cx.version(), user.id));
        Ok(())
    }
    async fn note_count(event: Counted, cx: Context<Noted>) -> Result<(), Failure> {
        cx.state().note(format!("count {}", event.count));
        Ok(())
    }
    let world = World::<Sqlite>::start().await;
    let noted = Noted::default();
    let subscriber = EventSubscriber::durable("all")
        .on(note_id)
        .on(note_v2)
        .on(note_count);
    let running = world.run(Worker::new(world.bus.clone(), noted.clone()).subscribe(subscriber));
    let publisher = EventPublisher::new(&world.bus);
    publisher.publish(&User::new("ada")).await.unwrap();
    publisher
        .publish(&UserV2 { id: "bob".into() })
        .await
        .unwrap();
    publisher
        .publish(&Counted {
            key: "k".into(),
            count: 3,
        })
        .await
        .unwrap();
    noted.reach(3).await;
    running.stop().await.unwrap();
    let mut notes = noted.all();
    notes.sort();
    assert_eq!(notes, ["ada", "count 3", "v2 bob"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn ordered_events_of_a_key_wait_for_the_one_that_fails() {
    async fn fail_at_three(event: Counted, cx: Context<Noted>) -> Result<(), Failure> {
        if event.count == 3 && event.key == "a" && cx.attempt() < 3 {
            return Err(Failure::retry("not yet"));
        }
        cx.state().note(format!("{} {}", event.key, event.count));
        Ok(())
    }
    let world = World::<Sqlite>::start().await;
    let noted = Noted::default();
    let subscriber = EventSubscriber::durable("counter")
        .on(fail_at_three)
        .retry(quick())
        .concurrency(8)
        .ordered_by_key();
    let publisher = EventPublisher::new(&world.bus);
    for count in 1..=50 {
        for key in ["a", "b", "c"] {
            publisher
                .publish(&Counted {
                    key: key.into(),
                    count,
                })
                .await
                .unwrap();
        }
    }
    let running = world.run(Worker::new(world.bus.clone(), noted.clone()).subscribe(subscriber));
    noted.reach(150).await;
    running.stop().await.unwrap();
    for key in ["a", "b", "c"] {
        let of_key: Vec<String> = noted
            .all()
            .into_iter()
            .filter(|note| note.starts_with(key))
            .collect();
        let expected: Vec<String> = (1..=50).map(|count| format!("{key} {count}")).collect();
        assert_eq!(of_key, expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_handlers_than_the_concurrency_run_at_once() {
    struct Gate {
        places: Semaphore,
        noted: Noted,
    }
    async fn count_in(user: User, cx: Context<Arc<Gate>>) -> Result<(), Failure> {
        let place = cx.state().places.try_acquire();
        assert!(place.is_ok(), "a fifth handler runs");
        tokio::task::yield_now().await;
        // real time: long enough for a fifth handler to begin meanwhile, if it was allowed to
        tokio::time::sleep(Duration::from_millis(2)).await;
        cx.state().noted.note(user.id);
        Ok(())
    }
    let world = World::<Sqlite>::start().await;
    let gate = Arc::new(Gate {
        places: Semaphore::new(4),
        noted: Noted::default(),
    });
    for n in 0..60 {
        world.publish_users([n.to_string()]).await;
    }
    let subscriber = EventSubscriber::durable("few")
        .on(count_in)
        .concurrency(4)
        .retry(Retry::never());
    let running =
        world.run(Worker::new(world.bus.clone(), Arc::clone(&gate)).subscribe(subscriber));
    gate.noted.reach(60).await;
    running.stop().await.unwrap();
    assert_eq!(world.dead_letters().await.len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_loses_nothing_and_repeats_no_acked_event() {
    async fn slow(user: User, cx: Context<Noted>) -> Result<(), Failure> {
        // real time: so that the shutdown begins while handlers run
        tokio::time::sleep(Duration::from_millis(3)).await;
        note_id(user, cx).await
    }
    let world = World::<Sqlite>::start().await;
    let noted = Noted::default();
    for n in 0..300 {
        world.publish_users([n.to_string()]).await;
    }
    let subscriber = || EventSubscriber::durable("slow").on(slow).concurrency(8);
    let mut restarts = 0;
    while noted.len() < 300 {
        let before = noted.len();
        let worker = Worker::new(world.bus.clone(), noted.clone()).subscribe(subscriber());
        let running = world.run(worker);
        noted.reach((before + 60).min(300)).await;
        running.stop().await.unwrap();
        restarts += 1;
    }
    assert!(restarts > 1);
    let mut ids = noted.all();
    ids.sort_by_key(|id| id.parse::<u32>().unwrap());
    let expected: Vec<String> = (0..300).map(|n| n.to_string()).collect();
    assert_eq!(ids, expected, "every event exactly once");
}

#[tokio::test(flavor = "multi_thread")]
async fn events_that_outlast_the_drain_go_to_the_next_worker() {
    async fn hang_first(user: User, cx: Context<(Noted, bool)>) -> Result<(), Failure> {
        let (noted, hangs) = cx.state();
        noted.note(format!("{} {hangs}", user.id));
        if *hangs {
            std::future::pending::<()>().await;
        }
        Ok(())
    }
    let world = World::<Sqlite>::start().await;
    let noted = Noted::default();
    world.publish_users(["ada"]).await;
    let worker = |hangs| {
        Worker::new(world.bus.clone(), (noted.clone(), hangs))
            .subscribe(EventSubscriber::durable("hang").on(hang_first))
            .shutdown_timeout(Duration::from_millis(100))
    };
    let first = world.run(worker(true));
    noted.reach(1).await;
    first.stop().await.unwrap();
    let second = world.run(worker(false));
    noted.reach(2).await;
    second.stop().await.unwrap();
    assert_eq!(noted.all(), ["ada true", "ada false"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn wiring_mistakes_are_errors_that_name_the_cure() {
    let world = World::<Sqlite>::start().await;
    let run = |subscribers: Vec<EventSubscriber<Noted>>| {
        let mut worker = Worker::new(world.bus.clone(), Noted::default());
        for subscriber in subscribers {
            worker = worker.subscribe(subscriber);
        }
        worker.run(std::future::pending())
    };
    #[derive(serde::Serialize, serde::Deserialize, Event)]
    #[event(name = "nobody.listens", version = 1, keyless)]
    struct Unbound {}
    async fn ignore(_: Unbound, _: Context<Noted>) -> Result<(), Failure> {
        Ok(())
    }
    let good = || EventSubscriber::durable("one").on(note_id);
    let cases = [
        (
            vec![EventSubscriber::durable("Bad Name").on(note_id)],
            "subscriber name",
        ),
        (vec![EventSubscriber::durable("none")], ".on("),
        (vec![good().on(note_id)], "two handlers"),
        (vec![good(), good()], "two subscribers"),
        (
            vec![EventSubscriber::durable("unbound").on(ignore)],
            "tidings streams apply",
        ),
    ];
    for (subscribers, expected) in cases {
        let error = within("the worker's refusal", run(subscribers))
            .await
            .unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
    }
    let _: fn(WorkerError) -> String = |error| error.to_string();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publisher_may_repeat_an_id_without_a_second_event() {
    let world = World::<Sqlite>::start().await;
    let publisher = EventPublisher::new(&world.bus).source("tests");
    let envelope = Envelope::of(&User::new("ada")).unwrap();
    let first = publisher.publish(envelope.clone()).await.unwrap();
    let again = publisher.publish(envelope).await.unwrap();
    assert_eq!(first, again);
    let stored = world.stored().await;
    assert_eq!(stored.len(), 1);
    assert_eq!(stored.0[0].header("ce-source"), "tests");
}
