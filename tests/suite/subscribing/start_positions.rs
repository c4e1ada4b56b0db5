//! The start position of a new subscriber, which matters only when its durable is created.

use std::time::Duration;

use async_nats::jetstream;
use chrono::{DateTime, TimeDelta, Utc};
use futures::future::join_all;
use tidings::{
    Context, EventPublisher, EventSubscriber, Failure, StartFrom, Worker, event::Pattern,
    subscribers::Subscribers, worker::WorkerError,
};
use tokio::sync::watch;

use crate::support::{Counted, Noted, Running, World, eventually, log, note_id};

type Sqlite = sqlx::Sqlite;

const NAME: &str = "starting";

fn subscriber(start: StartFrom) -> EventSubscriber<Noted> {
    EventSubscriber::durable(NAME).on(note_id).start(start)
}

fn run(
    world: &World<Sqlite>,
    subscriber: EventSubscriber<Noted>,
    noted: &Noted,
) -> Running<WorkerError> {
    world.run(Worker::new(world.bus.clone(), noted.clone()).subscribe(subscriber))
}

async fn is_made(world: &World<Sqlite>, name: &str) {
    eventually("the consumers are there", || async {
        let found = Subscribers::new(&world.bus).find(name).await;
        found.is_ok_and(|found| found.consumers.iter().all(|one| one.pulls > 0))
    })
    .await;
}

/// The events that a subscriber with this start position gets, up to the last one published after its start.
async fn begins(world: &World<Sqlite>, durable: &str, start: StartFrom) -> Vec<String> {
    let noted = Noted::default();
    let subscriber = EventSubscriber::durable(durable).on(note_id).start(start);
    let running = run(world, subscriber.ordered_by_key(), &noted);
    is_made(world, durable).await;
    world.publish_users(["last"]).await;
    eventually("the last one", || async {
        noted.all().iter().any(|id| id == "last")
    })
    .await;
    running.stop().await.unwrap();
    let mut all = noted.all();
    all.retain(|id| id != "last");
    all.sort();
    all
}

async fn stored_at(world: &World<Sqlite>, sequence: u64) -> DateTime<Utc> {
    let start = StartFrom::Sequence(sequence);
    let mut reader = world.bus.read("EVENTS", &[], start).await.unwrap();
    reader.next().await.unwrap().stored_at
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_subscriber_starts_at_its_start_position() {
    let world = World::<Sqlite>::start().await;
    world.publish_users(["1", "2", "3", "4"]).await;
    let third = StartFrom::Time(stored_at(&world, 3).await);
    assert_eq!(
        begins(&world, "all", StartFrom::Beginning).await,
        ["1", "2", "3", "4"]
    );
    assert_eq!(
        begins(&world, "sequence", StartFrom::Sequence(2)).await,
        ["2", "3", "4"]
    );
    assert_eq!(begins(&world, "time", third).await, ["3", "4"]);
    assert_eq!(begins(&world, "new", StartFrom::New).await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_time_holds_for_several_names() {
    async fn count(counted: Counted, cx: Context<Noted>) -> Result<(), Failure> {
        cx.state().note(counted.key);
        Ok(())
    }
    let world = World::<Sqlite>::start().await;
    world.publish_users(["1", "2", "3"]).await;
    let key = "4".to_owned();
    let counted = Counted { key, count: 1 };
    let publisher = EventPublisher::new(&world.bus);
    publisher.publish(&counted).await.unwrap();
    let second = StartFrom::Time(stored_at(&world, 2).await);
    let names = ["user.created", "count.raised"].map(|name| Pattern::parse(name).unwrap());
    let mut reader = world.bus.read("EVENTS", &names, second).await.unwrap();
    assert_eq!(reader.next().await.unwrap().sequence, 2);
    let noted = Noted::default();
    let running = run(&world, subscriber(second).on(count), &noted);
    noted.reach(3).await;
    running.stop().await.unwrap();
    let mut all = noted.all();
    all.sort();
    assert_eq!(all, ["2", "3", "4"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_behind_the_end_is_the_next_event() {
    let world = World::<Sqlite>::start().await;
    world.publish_users(["1", "2"]).await;
    let tomorrow = StartFrom::Time(Utc::now() + TimeDelta::days(1));
    assert_eq!(
        begins(&world, "far", StartFrom::Sequence(1000)).await,
        [""; 0]
    );
    assert_eq!(begins(&world, "future", tomorrow).await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_existing_durable_keeps_its_position() {
    log::listen();
    let world = World::<Sqlite>::start().await;
    let noted = Noted::default();
    world.publish_users(["1"]).await;
    let running = run(&world, subscriber(StartFrom::Beginning), &noted);
    noted.reach(1).await;
    running.stop().await.unwrap();
    world.publish_users(["2", "3"]).await;
    let running = run(&world, subscriber(StartFrom::New), &noted);
    noted.reach(3).await;
    let state = Subscribers::new(&world.bus).find(NAME).await.unwrap();
    assert!(state.consumers.iter().all(|one| one.drift.is_empty()));
    running.stop().await.unwrap();
    let mut all = noted.all();
    all.sort();
    assert_eq!(all, ["1", "2", "3"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_durable_continues_at_its_workers_position() {
    let world = World::<Sqlite>::start().await;
    let noted = Noted::default();
    world.publish_users(["before it"]).await;
    let running = run(&world, subscriber(StartFrom::New), &noted);
    is_made(&world, NAME).await;
    let client = async_nats::connect(world.nats.url()).await.unwrap();
    let stream = jetstream::new(client).get_stream("EVENTS").await.unwrap();
    stream.delete_consumer(NAME).await.unwrap();
    world.publish_users(["while it is gone"]).await;
    noted.reach(1).await;
    running.stop().await.unwrap();
    assert_eq!(noted.all(), ["while it is gone"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn instances_may_start_at_once_while_the_stream_grows() {
    let world = World::<Sqlite>::start().await;
    let noted = Noted::default();
    let (done, is_done) = watch::channel(false);
    let publishing = async {
        while !*is_done.borrow() {
            world.publish_users(["one of many"]).await;
        }
        world.publish_users(["last"]).await;
    };
    let instances = async {
        let instances = (0..8).map(|_| run(&world, subscriber(StartFrom::New), &noted));
        let instances: Vec<_> = instances.collect();
        eventually("all of them answer", || async {
            let found = Subscribers::new(&world.bus).find(NAME).await;
            found.is_ok_and(|found| found.instances.len() == 8)
        })
        .await;
        done.send(true).unwrap();
        instances
    };
    let (instances, ()) = tokio::join!(instances, publishing);
    eventually("the last one", || async {
        noted.all().iter().any(|id| id == "last")
    })
    .await;
    for ended in join_all(instances.into_iter().map(Running::stop)).await {
        ended.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sequence_is_a_position_in_one_stream() {
    async fn count(_: Counted, _: Context<Noted>) -> Result<(), Failure> {
        Ok(())
    }
    let world = World::<Sqlite>::start().await;
    world.two_streams().await;
    let both = |start| subscriber(start).on(count);
    let refused = run(&world, both(StartFrom::Sequence(7)), &Noted::default())
        .end()
        .await;
    let refused = refused.unwrap_err();
    assert!(matches!(&refused, WorkerError::StartOfStreams { .. }));
    assert!(
        refused.to_string().contains("reads COUNTS and EVENTS"),
        "{refused}"
    );
    let hour_ago = StartFrom::Time(Utc::now() - Duration::from_secs(3600));
    let running = run(&world, both(hour_ago), &Noted::default());
    is_made(&world, NAME).await;
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_backlog_of_a_new_subscriber_is_logged() {
    log::listen();
    let world = World::<Sqlite>::start().await;
    let noted = Noted::default();
    world
        .publish_users(["1", "2", "3", "4", "5", "6", "7"])
        .await;
    let running = run(&world, subscriber(StartFrom::Sequence(4)), &noted);
    noted.reach(4).await;
    Subscribers::new(&world.bus)
        .pause(NAME, None)
        .await
        .unwrap();
    world.publish_users(["8", "9"]).await;
    let found = Subscribers::new(&world.bus).find(NAME).await.unwrap();
    let of_events = found
        .consumers
        .iter()
        .find(|one| one.stream == "EVENTS")
        .unwrap();
    assert_eq!((of_events.delivered, of_events.pending), (7, 2));
    running.stop().await.unwrap();
    let said = log::said("consumer created");
    let is_told = |line: &String| line.contains("start=4 events=4") && line.contains(NAME);
    assert!(said.iter().any(is_told), "{said:?}");
}
