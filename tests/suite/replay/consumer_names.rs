//! The consumers of replays are named after their subscriber: a consumer that one replay has left is not mistaken for
//! the next one's, and a consumer of another application is not changed.

use async_nats::jetstream;
use serde_json::{Value, json};
use tidings::{EventSubscriber, Rate, Worker, replays::ReplayState};

use crate::support::{Noted, Running, User, World, eventually, everything, note_replayed_id};

type Sqlite = sqlx::Sqlite;

const NAME: &str = "named";
const USERS: u32 = 20;

async fn start(world: &World<Sqlite>, noted: &Noted) -> Running<tidings::worker::WorkerError> {
    let subscriber = EventSubscriber::durable(NAME).on(note_replayed_id);
    let running = world.run(Worker::new(world.bus.clone(), noted.clone()).subscribe(subscriber));
    let users: Vec<User> = (0..USERS).map(|id| User::new(&id.to_string())).collect();
    world.publish(&users).await;
    running
}

/// Creates a consumer at the end of the stream: with the name of a replay, or without one.
async fn leave(world: &World<Sqlite>, name: &str, replay: Option<&str>) -> jetstream::Context {
    let context = jetstream::new(async_nats::connect(world.nats.url()).await.unwrap());
    let mut config = json!({
        "name": name, "durable_name": name, "ack_policy": "explicit", "deliver_policy": "new",
    });
    if let Some(replay) = replay {
        config["metadata"] = json!({ "tidings.replay": replay });
    }
    let request = json!({ "stream_name": "EVENTS", "config": config });
    let made: Value = context
        .request(format!("CONSUMER.CREATE.EVENTS.{name}"), &request)
        .await
        .unwrap();
    assert!(made["error"].is_null(), "{made}");
    context
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_of_an_earlier_replay_is_not_reused() {
    let (world, noted) = (World::<Sqlite>::start().await, Noted::default());
    let running = start(&world, &noted).await;
    let first = world.replay(NAME, &everything()).await;
    world.replay_is(first.id, ReplayState::Done).await;
    assert_eq!(noted.all().len(), USERS as usize);
    // As if the worker had died before it deleted the consumer.
    leave(&world, &first.consumer(), Some(&first.id.to_string())).await;
    let second = world.replay(NAME, &everything()).await;
    assert_eq!(second.consumer(), first.consumer());
    world.replay_is(second.id, ReplayState::Done).await;
    assert_eq!(noted.all().len(), 2 * USERS as usize);
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_of_another_application_is_named_and_not_changed() {
    let (world, noted) = (World::<Sqlite>::start().await, Noted::default());
    let running = start(&world, &noted).await;
    let name = format!("replay-{NAME}");
    let context = leave(&world, &name, None).await;
    let replay = world.replay(NAME, &everything()).await;
    assert_eq!(replay.consumer(), name);
    eventually("it says what is in its way", || async {
        let issue = world.replay_status(replay.id).await.issue;
        issue.is_some_and(|issue| {
            issue
                .why
                .contains(&format!("has the consumer {name} of EVENTS"))
        })
    })
    .await;
    let stream = context.get_stream("EVENTS").await.unwrap();
    assert!(stream.consumer_info(&name).await.is_ok());
    stream.delete_consumer(&name).await.unwrap();
    world.replay_is(replay.id, ReplayState::Done).await;
    assert_eq!(noted.all().len(), USERS as usize);
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_replays_have_separate_consumers() {
    let (world, noted) = (World::<Sqlite>::start().await, Noted::default());
    let running = start(&world, &noted).await;
    let slowly = everything().rate_limit(Rate::per_second(10));
    let first = world.replay(NAME, &slowly).await;
    let second = world.replay(NAME, &everything().force()).await;
    assert_eq!(
        [first.consumer(), second.consumer()],
        [format!("replay-{NAME}"), format!("replay-{NAME}-2")]
    );
    world.replay_is(second.id, ReplayState::Done).await;
    world.replay_is(first.id, ReplayState::Done).await;
    assert_eq!(noted.all().len(), 2 * USERS as usize);
    running.stop().await.unwrap();
}
