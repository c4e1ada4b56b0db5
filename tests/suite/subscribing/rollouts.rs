//! Two versions of a service side by side: events of the newer one are not lost to the older one.

use async_nats::jetstream;
use tidings::{
    Context, EventPublisher, EventSubscriber, Failure, Worker,
    subscribers::{Subscribers, SubscribersError},
};

use crate::support::{Counted, Noted, User, World, eventually, note_id};

type Sqlite = sqlx::Sqlite;

async fn count(event: Counted, cx: Context<Noted>) -> Result<(), Failure> {
    cx.state().note(event.key);
    Ok(())
}

fn worker(world: &World<Sqlite>, noted: &Noted, is_newer: bool) -> Worker<Noted> {
    let subscriber = EventSubscriber::durable("w").on(note_id);
    let subscriber = match is_newer {
        true => subscriber.on(count),
        false => subscriber,
    };
    Worker::new(world.bus.clone(), noted.clone()).subscribe(subscriber)
}

async fn publish(world: &World<Sqlite>, key: &str) {
    let publisher = EventPublisher::new(&world.bus);
    let key = key.to_owned();
    let counted = Counted { key, count: 1 };
    publisher.publish(&counted).await.unwrap();
}

async fn filters(world: &World<Sqlite>) -> Vec<String> {
    let client = async_nats::connect(world.nats.url()).await.unwrap();
    let stream = jetstream::new(client).get_stream("EVENTS").await.unwrap();
    let config = stream.consumer_info("w").await.unwrap().config;
    match config.filter_subjects.is_empty() {
        true => vec![config.filter_subject],
        false => config.filter_subjects,
    }
}

/// A rollback, or a pod of the older version that restarts during the rollout of the newer one.
#[tokio::test(flavor = "multi_thread")]
async fn an_older_instance_skips_no_events_of_a_newer_one() {
    let world = World::<Sqlite>::start().await;
    let noted = Noted::default();
    let newer = world.run(worker(&world, &noted, true));
    publish(&world, "first").await;
    noted.reach(1).await;
    newer.stop().await.unwrap();

    let older = world.run(worker(&world, &noted, false));
    publish(&world, "second").await;
    let publisher = EventPublisher::new(&world.bus);
    publisher.publish(&User::new("ada")).await.unwrap();
    noted.reach(2).await;
    older.stop().await.unwrap();

    let newer = world.run(worker(&world, &noted, true));
    noted.reach(3).await;
    newer.stop().await.unwrap();
    assert_eq!(noted.all(), ["first", "ada", "second"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unhandled_name_is_dropped_when_an_operator_prunes() {
    let world = World::<Sqlite>::start().await;
    let noted = Noted::default();
    let newer = world.run(worker(&world, &noted, true));
    publish(&world, "first").await;
    noted.reach(1).await;
    newer.stop().await.unwrap();
    let subscribers = Subscribers::new(&world.bus);
    let nobody = subscribers.prune("w").await;
    assert!(
        matches!(nobody, Err(SubscribersError::NoInstance { .. })),
        "{nobody:?}"
    );

    let older = world.run(worker(&world, &noted, false));
    eventually("an instance answers", || async {
        !subscribers.find("w").await.unwrap().instances.is_empty()
    })
    .await;
    assert_eq!(filters(&world).await.len(), 2);
    let ended = subscribers.prune("w").await.unwrap();
    assert_eq!(ended["EVENTS"], ["count.raised"]);
    assert_eq!(filters(&world).await, ["user.created"]);
    assert!(subscribers.prune("w").await.unwrap().is_empty());
    older.stop().await.unwrap();
}
