//! P8: a replay continues where it was after faults of its instance, its consumer, or the server.

use std::time::Duration;

use tidings::{
    EventSubscriber, Rate, Retry, Worker,
    replays::{Replay, ReplayState},
};

use crate::support::{
    Noted, Running, User, World, events_stream, eventually, everything, note_replayed_id,
};

type Sqlite = sqlx::Sqlite;

const NAME: &str = "again";
const USERS: usize = 300;

fn users() -> Vec<User> {
    (0..USERS).map(|id| User::new(&id.to_string())).collect()
}

fn worker(world: &World<Sqlite>, noted: &Noted) -> Worker<Noted> {
    let subscriber = EventSubscriber::durable(NAME)
        .on(note_replayed_id)
        .retry(Retry::exponential(
            Duration::from_millis(20),
            Duration::from_millis(80),
        ));
    Worker::new(world.bus.clone(), noted.clone()).subscribe(subscriber)
}

async fn start(world: &World<Sqlite>, noted: &Noted) -> Running<tidings::worker::WorkerError> {
    let running = world.run(worker(world, noted));
    world.publish(&users()).await;
    running
}

/// A replay that takes three seconds.
async fn replay(world: &World<Sqlite>) -> Replay {
    let request = everything().rate_limit(Rate::per_second(100));
    world.replay(NAME, &request).await
}

/// The number of handled events, and the number of events handled more than once.
fn handled(noted: &Noted) -> (usize, usize) {
    let mut all = noted.all();
    let times = all.len();
    all.sort();
    all.dedup();
    (all.len(), times - all.len())
}

fn consumer(replay: &Replay) -> String {
    replay.consumer()
}

#[tokio::test(flavor = "multi_thread")]
async fn another_worker_continues_a_replay_without_duplicates() {
    let world = World::<Sqlite>::start().await;
    let noted = Noted::default();
    let first = start(&world, &noted).await;
    let replay = replay(&world).await;
    noted.reach(50).await;
    first.stop().await.unwrap();
    let stopped = handled(&noted).0;
    assert!(stopped < USERS, "{stopped}");
    let status = world.replay_status(replay.id).await;
    assert_eq!(
        status.completed(),
        stopped as u64,
        "what was handled was written"
    );
    let second = world.run(worker(&world, &noted));
    let status = world.replay_is(replay.id, ReplayState::Done).await;
    assert_eq!(handled(&noted), (USERS, 0));
    assert_eq!(status.completed(), USERS as u64);
    second.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn another_instance_takes_over_a_replay_when_one_dies() {
    let world = World::<Sqlite>::start().await;
    let (one, two) = (Noted::default(), Noted::default());
    let first = start(&world, &one).await;
    let replay = replay(&world).await;
    one.reach(10).await;
    let second = world.run(worker(&world, &two));
    one.reach(100).await;
    assert_eq!(two.len(), 0, "the replay has one instance at a time");
    first.kill().await;
    two.reach(1).await;
    let status = world.replay_is(replay.id, ReplayState::Done).await;
    let uncounted = status.progress.as_ref().unwrap().uncounted;
    assert!(status.completed() + uncounted >= USERS as u64, "{status:?}");
    let both = [one.all(), two.all()].concat();
    let of_both = Noted::default();
    both.into_iter().for_each(|note| of_both.note(note));
    let (all, twice) = handled(&of_both);
    assert_eq!(all, USERS, "nothing is lost");
    assert!(twice <= 32, "more than was in hand: {twice}");
    second.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_consumer_is_recreated_after_the_handled_events() {
    let world = World::<Sqlite>::start().await;
    let noted = Noted::default();
    let running = start(&world, &noted).await;
    let replay = replay(&world).await;
    noted.reach(60).await;
    let stream = world.jetstream().await.get_stream("EVENTS").await.unwrap();
    stream.delete_consumer(&consumer(&replay)).await.unwrap();
    let status = world.replay_is(replay.id, ReplayState::Done).await;
    let (all, twice) = handled(&noted);
    // Events whose acks are lost while there is no consumer are redelivered.
    assert!(all == USERS && twice <= 16, "{all} {twice}");
    assert_eq!(status.completed(), USERS as u64);

    // The same without a running worker that knows the replay's position.
    let replay = self::replay(&world).await;
    let before = noted.len();
    noted.reach(before + 150).await;
    running.stop().await.unwrap();
    let stopped = noted.len();
    stream.delete_consumer(&consumer(&replay)).await.unwrap();
    let running = world.run(worker(&world, &noted));
    world.replay_is(replay.id, ReplayState::Done).await;
    assert!(stopped < before + USERS);
    let whole = before + USERS;
    assert_eq!(
        noted.len(),
        whole,
        "it begins behind the floor that was written"
    );
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_recreated_midway_ends_the_replay_with_a_reason() {
    let world = World::<Sqlite>::start().await;
    let noted = Noted::default();
    let running = start(&world, &noted).await;
    let replay = replay(&world).await;
    noted.reach(20).await;
    world
        .jetstream()
        .await
        .delete_stream("EVENTS")
        .await
        .unwrap();
    world.bus.apply_stream(&events_stream()).await.unwrap();
    let other = User::new("of the other stream");
    world.publish([&other]).await;
    eventually("it fails", || async {
        world.replay_status(replay.id).await.replay.state == ReplayState::Failed
    })
    .await;
    let reason = world.replay_status(replay.id).await.replay.reason.unwrap();
    assert!(
        reason.starts_with("the stream EVENTS is gone, or is not the one"),
        "{reason}"
    );
    assert!(!noted.all().contains(&other.id));
    world.nothing_is_left_of(replay.id).await;
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_continues_when_the_server_is_back() {
    let world = World::<Sqlite>::start().await;
    let noted = Noted::default();
    let running = start(&world, &noted).await;
    let replay = replay(&world).await;
    noted.reach(50).await;
    world.nats.kill().unwrap();
    world.nats.restart().await.unwrap();
    eventually("it is done", || async {
        let found = world.replays().find(replay.id).await;
        found.is_ok_and(|status| status.replay.state == ReplayState::Done)
    })
    .await;
    assert_eq!(handled(&noted).0, USERS);
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_cancelled_without_a_worker_leaves_nothing() {
    let world = World::<Sqlite>::start().await;
    let noted = Noted::default();
    let running = start(&world, &noted).await;
    let replay = replay(&world).await;
    noted.reach(20).await;
    running.stop().await.unwrap();
    let stopped = noted.len();
    assert_eq!(world.replay_status(replay.id).await.consumers.len(), 1);
    world.replays().cancel(replay.id).await.unwrap();
    assert_eq!(world.replay_status(replay.id).await.consumers, []);
    let running = world.run(worker(&world, &noted));
    let status = world.replayed(NAME, &everything()).await;
    assert_eq!(status.completed(), USERS as u64);
    assert_eq!(noted.len(), stopped + USERS);
    running.stop().await.unwrap();
}
