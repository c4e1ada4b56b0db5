//! P7: when a consumer is deleted, no event is lost, and no handled event is redelivered.

use std::{sync::Arc, time::Duration};

use async_nats::jetstream;
use tidings::{Bus, Context, EventSubscriber, Failure, Retry, Worker};
use tokio::sync::Semaphore;

use crate::support::{Noted, User, World, eventually};

type Sqlite = sqlx::Sqlite;

const DURABLE: &str = "deleted-consumer";

/// The records of the handlers, and whether a handler never ends.
#[derive(Clone, Default)]
struct App {
    noted: Noted,
    hangs: bool,
}

async fn note(event: User, cx: Context<App>) -> Result<(), Failure> {
    cx.state().noted.note(event.id.clone());
    if cx.state().hangs {
        std::future::pending::<()>().await;
    }
    if event.id.starts_with("failing") && cx.attempt() == 1 {
        return Err(Failure::retry("not yet"));
    }
    Ok(())
}

/// All its slots are taken, so it sends no pull and gets no error: its in-flight deliveries wait for the confirmation
/// of their acks.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_ordered_subscriber_notices_its_deleted_consumer() {
    async fn wait(event: User, cx: Context<(Noted, Arc<Semaphore>)>) -> Result<(), Failure> {
        let (noted, gate) = cx.state();
        noted.note(event.id);
        gate.acquire().await?.forget();
        Ok(())
    }
    let world = World::<Sqlite>::start().await;
    let (noted, gate) = (Noted::default(), Arc::new(Semaphore::new(0)));
    let subscriber = EventSubscriber::durable(DURABLE)
        .on(wait)
        .concurrency(2)
        .ordered_by_key();
    let state = (noted.clone(), Arc::clone(&gate));
    let running = world.run(Worker::new(world.bus.clone(), state).subscribe(subscriber));
    let users: Vec<String> = (0..60).map(|n| format!("user-{n}")).collect();
    let users: Vec<&str> = users.iter().map(|user| &**user).collect();
    world.publish_users(&users).await;
    noted.reach(2).await;
    let events = stream(&world, "EVENTS").await;
    eventually("its places are taken, and it pulls no more", || async {
        let info = events.consumer_info(DURABLE).await.unwrap();
        info.num_ack_pending == 16 && info.num_waiting == 0
    })
    .await;
    delete_the_consumer(&world, "EVENTS").await;
    gate.add_permits(1_000);
    noted.reach(60).await;
    is_acknowledged(&world, 60).await;
    running.stop().await.unwrap();
    assert_eq!(noted.len(), 60, "each once");
}

fn worker(bus: &Bus, app: &App) -> Worker<App> {
    let retry = Retry::exponential(Duration::from_millis(1500), Duration::from_millis(1500));
    let subscriber = EventSubscriber::durable(DURABLE).on(note).retry(retry);
    Worker::new(bus.clone(), app.clone()).subscribe(subscriber)
}

async fn stream(world: &World<Sqlite>, name: &str) -> jetstream::stream::Stream {
    let client = async_nats::connect(world.nats.url()).await.unwrap();
    jetstream::new(client).get_stream(name).await.unwrap()
}

async fn delete_the_consumer(world: &World<Sqlite>, of: &str) {
    stream(world, of)
        .await
        .delete_consumer(DURABLE)
        .await
        .unwrap();
}

async fn is_acknowledged(world: &World<Sqlite>, up_to: u64) {
    let stream = stream(world, "EVENTS").await;
    eventually("all is acknowledged", || async {
        let info = stream.consumer_info(DURABLE).await;
        info.is_ok_and(|info| info.ack_floor.stream_sequence >= up_to)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_worker_handles_what_a_dead_one_had_in_flight() {
    let world = World::<Sqlite>::start().await;
    let (dying, lives) = (
        App {
            hangs: true,
            ..App::default()
        },
        App::default(),
    );
    let bus = world.bus.another().await.unwrap();
    let worker_that_dies = world.run(worker(&bus, &dying));
    world.publish_users(["in-hand"]).await;
    dying.noted.reach(1).await;
    worker_that_dies.kill().await;
    bus.close().await.unwrap();
    let running = world.run(worker(&world.bus, &lives));
    world.publish_users(["later"]).await;
    lives.noted.reach(1).await;
    delete_the_consumer(&world, "EVENTS").await;
    world.publish_users(["last"]).await;
    lives.noted.reach(3).await;
    running.stop().await.unwrap();
    let mut handled = lives.noted.all();
    handled.sort();
    assert_eq!(handled, ["in-hand", "last", "later"], "all, and each once");
}

#[tokio::test(flavor = "multi_thread")]
async fn events_handled_before_the_worker_started_do_not_come_again() {
    let world = World::<Sqlite>::start().await;
    let (before, after) = (App::default(), App::default());
    let running = world.run(worker(&world.bus, &before));
    world.publish_users(["one", "two", "three"]).await;
    is_acknowledged(&world, 3).await;
    running.stop().await.unwrap();
    let running = world.run(worker(&world.bus, &after));
    eventually("it pulls", || async {
        let info = stream(&world, "EVENTS").await;
        let info = info.consumer_info(DURABLE).await;
        info.is_ok_and(|info| info.num_waiting > 0)
    })
    .await;
    delete_the_consumer(&world, "EVENTS").await;
    world.publish_users(["four"]).await;
    after.noted.reach(1).await;
    is_acknowledged(&world, 4).await;
    running.stop().await.unwrap();
    assert_eq!(after.noted.all(), ["four"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_waits_for_its_next_attempt_still_gets_it() {
    let world = World::<Sqlite>::start().await;
    let app = App::default();
    let running = world.run(worker(&world.bus, &app));
    // A retry was delivered, so that the instance has a position in the stream of retries.
    world.publish_users(["failing-1"]).await;
    app.noted.reach(2).await;
    world.publish_users(["failing-2"]).await;
    app.noted.reach(3).await;
    delete_the_consumer(&world, "RETRIES").await;
    app.noted.reach(4).await;
    running.stop().await.unwrap();
    assert_eq!(
        app.noted.all(),
        ["failing-1", "failing-1", "failing-2", "failing-2"]
    );
}
