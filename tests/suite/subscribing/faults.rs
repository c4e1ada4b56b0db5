//! Faults that must not stop a worker or lose an event: panics outside a handler's await, instances of two versions,
//! dead letters that are too large, consumers and dead-letter streams that are gone for a while.

use std::time::Duration;

use tidings::{
    Context, Event, EventPublisher, EventSubscriber, Failure, Retry, StreamSpec, Worker,
};

use crate::support::{Counted, Noted, User, World, eventually, note_id};

type Sqlite = sqlx::Sqlite;

fn quick() -> Retry {
    Retry::exponential(Duration::from_millis(20), Duration::from_millis(80)).attempts(3)
}

async fn note_count(event: Counted, cx: Context<Noted>) -> Result<(), Failure> {
    cx.state().note(format!("{} {}", event.key, event.count));
    Ok(())
}

async fn publish(world: &World<Sqlite>, event: &impl Event) {
    EventPublisher::new(&world.bus)
        .publish(event)
        .await
        .unwrap();
}

/// Checks that a bad event becomes a dead letter, and that the same worker handles the good one behind it.
async fn a_bad_event_is_dead_lettered_and_a_good_one_handled(subscriber: EventSubscriber<Noted>) {
    let world = World::<Sqlite>::start().await;
    let noted = Noted::default();
    for id in ["bad", "ada"] {
        publish(&world, &User::new(id)).await;
    }
    let worker = Worker::new(world.bus.clone(), noted.clone()).subscribe(subscriber);
    let running = world.run(worker);
    noted.reach(1).await;
    eventually("the dead letter", || async {
        world.dead_letters().await.len() == 1
    })
    .await;
    running.stop().await.unwrap();
    assert_eq!(noted.all(), ["ada"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_before_the_first_await_is_a_failed_attempt() {
    let subscriber = EventSubscriber::durable("w").retry(quick());
    a_bad_event_is_dead_lettered_and_a_good_one_handled(subscriber.on(
        |user: User, cx: Context<Noted>| {
            assert!(user.id != "bad", "not this one");
            note_id(user, cx)
        },
    ))
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_while_decoding_is_a_failed_attempt() {
    #[derive(serde::Serialize, Event)]
    #[event(name = "user.created", version = 1, keyless)]
    struct Picky {
        id: String,
    }
    impl<'de> serde::Deserialize<'de> for Picky {
        fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
            let User { id, .. } = User::deserialize(from)?;
            assert!(id != "bad", "not this one");
            Ok(Self { id })
        }
    }
    async fn note(event: Picky, cx: Context<Noted>) -> Result<(), Failure> {
        cx.state().note(event.id);
        Ok(())
    }
    let subscriber = EventSubscriber::durable("w").retry(quick());
    a_bad_event_is_dead_lettered_and_a_good_one_handled(subscriber.on(note)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_in_the_text_of_an_error_is_a_failed_attempt() {
    #[derive(Debug)]
    struct Unspeakable;
    impl std::fmt::Display for Unspeakable {
        fn fmt(&self, _: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            panic!("no words")
        }
    }
    impl std::error::Error for Unspeakable {}
    async fn refuse(user: User, cx: Context<Noted>) -> Result<(), Failure> {
        match &*user.id {
            "bad" => Err(Failure::reject(Unspeakable)),
            _ => note_id(user, cx).await,
        }
    }
    let subscriber = EventSubscriber::durable("w").retry(quick());
    a_bad_event_is_dead_lettered_and_a_good_one_handled(subscriber.on(refuse)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_while_a_late_handler_is_dropped_is_a_failed_attempt() {
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("dropped")
        }
    }
    async fn hang(user: User, cx: Context<Noted>) -> Result<(), Failure> {
        if user.id == "bad" {
            let _bomb = Bomb;
            std::future::pending::<()>().await;
        }
        note_id(user, cx).await
    }
    let subscriber = EventSubscriber::durable("w").retry(quick());
    let subscriber = subscriber.timeout(Duration::from_millis(30));
    a_bad_event_is_dead_lettered_and_a_good_one_handled(subscriber.on(hang)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_leaves_new_events_to_a_newer_instance() {
    let world = World::<Sqlite>::start().await;
    let (old, new) = (Noted::default(), Noted::default());
    let durable = || EventSubscriber::durable("two-versions").on(note_id);
    let older = world.run(Worker::new(world.bus.clone(), old.clone()).subscribe(durable()));
    publish(&world, &User::new("ada")).await;
    old.reach(1).await;
    let newer = Worker::new(world.bus.clone(), new.clone()).subscribe(durable().on(note_count));
    let newer = world.run(newer);
    for count in 1..=20 {
        publish(
            &world,
            &Counted {
                key: "k".into(),
                count,
            },
        )
        .await;
    }
    new.reach(5).await;
    // As in a rolling deployment: what the older instance has left comes again after up to 30 s.
    older.stop().await.unwrap();
    new.reach(20).await;
    newer.stop().await.unwrap();
    assert_eq!((old.len(), world.dead_letters().await.len()), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_consumer_continues_where_it_was() {
    let world = World::<Sqlite>::start().await;
    let noted = Noted::default();
    let subscriber = EventSubscriber::durable("lost")
        .on(note_count)
        .ordered_by_key();
    let running = world.run(Worker::new(world.bus.clone(), noted.clone()).subscribe(subscriber));
    for count in 1..=10 {
        publish(
            &world,
            &Counted {
                key: "k".into(),
                count,
            },
        )
        .await;
    }
    noted.reach(10).await;
    let stream = world.jetstream().await.get_stream("EVENTS").await.unwrap();
    eventually("all are acknowledged", || async {
        let info = stream.consumer_info("lost").await.unwrap();
        info.num_ack_pending == 0
    })
    .await;
    stream.delete_consumer("lost").await.unwrap();
    publish(
        &world,
        &Counted {
            key: "k".into(),
            count: 11,
        },
    )
    .await;
    noted.reach(11).await;
    running.stop().await.unwrap();
    let expected: Vec<String> = (1..=11).map(|count| format!("k {count}")).collect();
    assert_eq!(noted.all(), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_oversized_dead_letter_is_stored_without_its_error() {
    async fn refuse(_: User, _: Context<Noted>) -> Result<(), Failure> {
        Err(Failure::reject("x".repeat(3000)))
    }
    let world = World::<Sqlite>::start().await;
    let worker = Worker::new(world.bus.clone(), Noted::default())
        .subscribe(EventSubscriber::durable("w").on(refuse));
    let running = world.run(worker);
    let room = world.bus.max_payload() - 1500;
    publish(
        &world,
        &User {
            id: "big".into(),
            email: "y".repeat(room),
        },
    )
    .await;
    eventually("the dead letter", || async {
        world.dead_letters().await.len() == 1
    })
    .await;
    running.stop().await.unwrap();
    let dead = world.dead_letters().await;
    assert_eq!(dead.0[0].header("tidings-dead-truncated"), "error");
    assert_eq!(dead.0[0].json()["id"], "big");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ordered_lane_waits_until_its_dead_letter_is_stored() {
    async fn refuse_two(event: Counted, cx: Context<Noted>) -> Result<(), Failure> {
        if event.count == 2 {
            cx.state().note("refused");
            return Err(Failure::reject("two"));
        }
        note_count(event, cx).await
    }
    let world = World::<Sqlite>::start().await;
    let noted = Noted::default();
    let subscriber = EventSubscriber::durable("w")
        .on(refuse_two)
        .ordered_by_key();
    let running = world.run(Worker::new(world.bus.clone(), noted.clone()).subscribe(subscriber));
    publish(
        &world,
        &Counted {
            key: "k".into(),
            count: 1,
        },
    )
    .await;
    noted.reach(1).await;
    let jetstream = world.jetstream().await;
    jetstream.delete_stream("DEAD_LETTERS").await.unwrap();
    for count in 2..=4 {
        publish(
            &world,
            &Counted {
                key: "k".into(),
                count,
            },
        )
        .await;
    }
    noted.reach(2).await;
    // real time: three attempts without a pause would have ended long before
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert_eq!(noted.all(), ["k 1", "refused"]);
    world
        .bus
        .apply_stream(&StreamSpec::dead_letters())
        .await
        .unwrap();
    noted.reach(4).await;
    running.stop().await.unwrap();
    assert_eq!(noted.all(), ["k 1", "refused", "k 3", "k 4"]);
    assert_eq!(world.dead_letters().await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endless_delay_is_not_a_delay_of_zero() {
    async fn for_ever(_: User, cx: Context<Noted>) -> Result<(), Failure> {
        cx.state().note("called");
        Err(Failure::retry_after(Duration::MAX, "later"))
    }
    let world = World::<Sqlite>::start().await;
    let noted = Noted::default();
    let subscriber = EventSubscriber::durable("w")
        .on(for_ever)
        .concurrency(usize::MAX);
    let worker = Worker::new(world.bus.clone(), noted.clone()).subscribe(subscriber);
    let running = world.run(worker);
    publish(&world, &User::new("ada")).await;
    publish(&world, &User::new("bob")).await;
    noted.reach(2).await;
    // real time: with a delay that the server cannot read, they would be redelivered at once
    tokio::time::sleep(Duration::from_millis(500)).await;
    running.stop().await.unwrap();
    assert_eq!(noted.len(), 2);
}
