//! P5 and P8: a replay deliberately handles events again, once each; the events that it publishes are only counted.

use std::time::Duration;

use chrono::{TimeDelta, Utc};
use tidings::{
    BatchResult, Batching, Context, EventId, EventPublisher, EventSubscriber, Failure,
    InboxTransaction, Retry, Worker,
    handler::{BatchContext, Item},
    replays::{Replay, ReplayState},
};

use crate::{
    both,
    support::{Counted, Database, Noted, User, World, eventually, everything},
};

const NAME: &str = "counter";
const USERS: usize = 40;

both!(
    a_replay_has_each_effect_again_once,
    a_crash_or_consumer_reset_in_a_replay_duplicates_nothing,
    follow_ups_of_a_replay_are_suppressed_unless_wanted,
    cancels_of_a_replay_are_suppressed_unless_wanted,
    a_replay_has_each_effect_of_batches_again_once,
);

fn users() -> Vec<User> {
    (0..USERS).map(|id| User::new(&format!("u{id}"))).collect()
}

/// Counts the user up and publishes a follow-up.
async fn count<DB: Database>(
    user: User,
    mut tx: InboxTransaction<DB>,
    cx: Context<Noted>,
) -> Result<(), Failure> {
    let count = DB::count_up(&mut tx, &user.id).await?;
    let key = user.id.clone();
    tx.publish(&Counted { key, count })?;
    cx.state().note(user.id);
    Ok(())
}

fn subscriber<DB: Database>(world: &World<DB>) -> EventSubscriber<Noted> {
    let retry = Retry::exponential(Duration::from_millis(20), Duration::from_millis(80));
    EventSubscriber::durable(NAME)
        .on_transactional(&world.outbox, count::<DB>)
        .retry(retry.attempts(4))
}

fn worker<DB: Database>(world: &World<DB>, noted: &Noted) -> Worker<Noted> {
    Worker::new(world.bus.clone(), noted.clone()).subscribe(subscriber(world))
}

/// How often users were counted up: the lowest and the highest count.
async fn counts<DB: Database>(world: &World<DB>) -> (i64, i64) {
    let of = async |what: &str| {
        let sql = format!("select coalesce({what}(count), 0) from counter where key like 'u%'");
        DB::number(world.outbox.pool(), &sql).await
    };
    (of("min").await, of("max").await)
}

async fn in_outbox<DB: Database>(world: &World<DB>) -> i64 {
    let sql = format!("select count(*) from {}", DB::table("outbox"));
    DB::number(world.outbox.pool(), &sql).await
}

async fn all_are_counted<DB: Database>(world: &World<DB>, times: i64) {
    eventually("all are counted", || async {
        let sql = format!("select count(*) from counter where count >= {times}");
        DB::number(world.outbox.pool(), &sql).await == USERS as i64
    })
    .await;
}

async fn a_replay_has_each_effect_again_once<DB: Database>(world: World<DB>) {
    let running = world.run(worker(&world, &Noted::default()));
    world.publish(&users()).await;
    all_are_counted(&world, 1).await;
    for times in [2, 3] {
        let status = world.replayed(NAME, &everything()).await;
        assert_eq!(status.progress.unwrap().handled, USERS as u64);
        assert_eq!(counts(&world).await, (times, times), "each replay counts");
    }
    running.stop().await.unwrap();
}

async fn a_crash_or_consumer_reset_in_a_replay_duplicates_nothing<DB: Database>(world: World<DB>) {
    let noted = Noted::default();
    let running = world.run(worker(&world, &noted));
    world.publish(&users()).await;
    all_are_counted(&world, 1).await;
    let slowly = everything().rate_limit(tidings::Rate::per_second(40));
    let replay = world.replay(NAME, &slowly).await;
    noted.reach(USERS + 5).await;
    running.kill().await;
    let client = async_nats::connect(world.nats.url()).await.unwrap();
    let consumer = replay.consumer();
    let reset = format!("$JS.API.CONSUMER.RESET.EVENTS.{consumer}");
    let running = world.run(worker(&world, &noted));
    noted.reach(USERS + 10).await;
    client.request(reset, "{\"seq\":1}".into()).await.unwrap();
    let status = world.replay_is(replay.id, ReplayState::Done).await;
    assert_eq!(counts(&world).await, (2, 2));
    let progress = status.progress.unwrap();
    assert!(
        progress.duplicates > 0,
        "what came again was known: {progress:?}"
    );
    running.stop().await.unwrap();
}

async fn follow_ups_of_a_replay_are_suppressed_unless_wanted<DB: Database>(world: World<DB>) {
    let running = world.run(worker(&world, &Noted::default()));
    world.publish(&users()).await;
    all_are_counted(&world, 1).await;
    let before = in_outbox(&world).await;
    assert_eq!(before, USERS as i64);
    let progress = world.replayed(NAME, &everything()).await.progress.unwrap();
    assert_eq!(progress.suppressed, USERS as u64);
    assert_eq!(in_outbox(&world).await, before);
    let progress = world
        .replayed(NAME, &everything().follow_ups())
        .await
        .progress
        .unwrap();
    assert_eq!(progress.suppressed, 0);
    assert_eq!(in_outbox(&world).await, 2 * before);
    running.stop().await.unwrap();
}

async fn cancels_of_a_replay_are_suppressed_unless_wanted<DB: Database>(world: World<DB>) {
    type Wanted = std::sync::Arc<std::sync::Mutex<Option<EventId>>>;
    async fn take_back<DB: Database>(
        _: User,
        mut tx: InboxTransaction<DB>,
        cx: Context<Wanted>,
    ) -> Result<(), Failure> {
        let wanted = *cx.state().lock().expect("no panic");
        if let Some(id) = wanted {
            tx.cancel(id).await?;
        }
        Ok(())
    }
    let wanted = Wanted::default();
    let subscriber =
        EventSubscriber::durable(NAME).on_transactional(&world.outbox, take_back::<DB>);
    let worker = Worker::new(world.bus.clone(), wanted.clone()).subscribe(subscriber);
    let running = world.run(worker);
    let mut tx = world.outbox.begin().await.unwrap();
    let tomorrow = Utc::now() + TimeDelta::days(1);
    let delayed = tx.publish_at(&User::new("later"), tomorrow).unwrap();
    tx.commit().await.unwrap();
    *wanted.lock().unwrap() = Some(delayed);
    world.publish(&[User::new("a")]).await;
    let left = async || world.outbox.delayed(None, 10).await.unwrap().len();
    eventually("it is taken back", || async { left().await == 0 }).await;

    let mut tx = world.outbox.begin().await.unwrap();
    let delayed = tx.publish_at(&User::new("later"), tomorrow).unwrap();
    tx.commit().await.unwrap();
    *wanted.lock().unwrap() = Some(delayed);
    let progress = world.replayed(NAME, &everything()).await.progress.unwrap();
    assert_eq!((left().await, progress.suppressed), (1, 1));
    let request = everything().follow_ups();
    let progress = world.replayed(NAME, &request).await.progress.unwrap();
    assert_eq!((left().await, progress.suppressed), (0, 0));
    running.stop().await.unwrap();
}

async fn a_replay_has_each_effect_of_batches_again_once<DB: Database>(world: World<DB>) {
    async fn count_all<DB: Database>(
        users: Vec<Item<User>>,
        mut tx: InboxTransaction<DB>,
        cx: BatchContext<Noted>,
    ) -> Result<BatchResult, Failure> {
        for user in users {
            let count = DB::count_up(&mut tx, &user.id).await?;
            let key = user.id.clone();
            tx.publish(&Counted { key, count })?;
            cx.state().note(&*user.id);
        }
        Ok(BatchResult::done())
    }
    let subscriber = EventSubscriber::durable(NAME).on_batch_transactional(
        &world.outbox,
        Batching::of(10),
        count_all::<DB>,
    );
    let worker = Worker::new(world.bus.clone(), Noted::default()).subscribe(subscriber);
    let running = world.run(worker);
    world.publish(&users()).await;
    all_are_counted(&world, 1).await;
    let progress = world.replayed(NAME, &everything()).await.progress.unwrap();
    assert_eq!(
        (progress.handled, progress.suppressed),
        (USERS as u64, USERS as u64)
    );
    assert_eq!(
        (counts(&world).await, in_outbox(&world).await),
        ((2, 2), USERS as i64)
    );
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_without_a_database_publishes_no_follow_up() {
    type State = (Noted, EventPublisher);
    async fn follow(user: User, cx: Context<State>) -> Result<(), Failure> {
        let (noted, publisher) = cx.state();
        let key = user.id.clone();
        publisher.publish(&Counted { key, count: 1 }).await?;
        noted.note(user.id);
        Ok(())
    }
    let world = World::<sqlx::Sqlite>::start().await;
    let noted = Noted::default();
    let state = (noted.clone(), EventPublisher::new(&world.bus));
    let subscriber = EventSubscriber::durable(NAME).on(follow);
    let running = world.run(Worker::new(world.bus.clone(), state).subscribe(subscriber));
    world.publish(&users()).await;
    noted.reach(USERS).await;
    let progress = world.replayed(NAME, &everything()).await.progress.unwrap();
    assert_eq!(
        (noted.len(), progress.suppressed),
        (2 * USERS, USERS as u64)
    );
    assert_eq!(
        world.stored().await.len(),
        2 * USERS,
        "no follow-up of the replay"
    );
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_beyond_the_inbox_fails_without_dead_letters() {
    let world = World::<sqlx::Sqlite>::start().await;
    let running = world.run(worker(&world, &Noted::default()));
    world.publish(&users()).await;
    all_are_counted(&world, 1).await;
    let replay = world.replayed(NAME, &everything()).await.replay;
    // The same, as if it had been requested three weeks ago.
    let at = Utc::now() - TimeDelta::days(21);
    let seconds = at.timestamp().unsigned_abs();
    let made = uuid::Timestamp::from_unix_time(seconds, 0, 0, 0);
    let id = uuid::Uuid::new_v7(made).simple().to_string();
    let mut old = serde_json::to_value(&replay).unwrap();
    old["id"] = id.clone().into();
    old["state"] = "running".into();
    let client = async_nats::connect(world.nats.url()).await.unwrap();
    let entry = format!("$KV.TIDINGS.replay.{NAME}.{id}");
    let old: Replay = serde_json::from_value(old).unwrap();
    let entry = client.request(entry, serde_json::to_vec(&old).unwrap().into());
    entry.await.unwrap();
    eventually("it fails", || async {
        world.replay_status(old.id).await.replay.state == ReplayState::Failed
    })
    .await;
    let reason = world.replay_status(old.id).await.replay.reason.unwrap();
    assert!(reason.starts_with("the replay is too old"), "{reason}");
    assert_eq!(counts(&world).await, (2, 2));
    assert_eq!(world.dead_letters().await.len(), 0);
    world.nothing_is_left_of(old.id).await;
    running.stop().await.unwrap();
}
