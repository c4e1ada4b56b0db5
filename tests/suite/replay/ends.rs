//! P8: the end of a replay, how it continues after a short pause, and how it reports removed events.

use std::time::{Duration, Instant};

use async_nats::jetstream::consumer;
use futures::StreamExt;
use tidings::{
    Context, EventPublisher, EventSubscriber, Failure, Rate, Retry, StartFrom, Worker,
    replays::{Replay, ReplayError, ReplayState, Replays},
    worker::WorkerError,
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    both,
    support::{
        Cluster, Counted, Database, Noted, Running, User, World, eventually, everything, within,
    },
};

type Sqlite = sqlx::Sqlite;
type State = (Noted, watch::Receiver<bool>);

both!(one_of_many_concurrent_requests_starts);

const NAME: &str = "ends";

/// In a replay, the event with this id waits.
const SLOW: &str = "20";

async fn note(user: User, cx: Context<State>) -> Result<(), Failure> {
    let (noted, is_open) = cx.state();
    if cx.is_replay() {
        if user.id == SLOW {
            is_open.clone().wait_for(|is_open| *is_open).await?;
        }
        noted.note(user.id);
    }
    Ok(())
}

fn users(ids: std::ops::RangeInclusive<u32>) -> Vec<User> {
    ids.map(|id| User::new(&id.to_string())).collect()
}

/// Starts a worker with events up to the slow one and more in its streams; sending true opens the gate.
async fn start(
    world: &World<Sqlite>,
    subscriber: EventSubscriber<State>,
) -> (Running<WorkerError>, Noted, watch::Sender<bool>) {
    let (noted, (open, is_open)) = (Noted::default(), watch::channel(false));
    let worker = Worker::new(world.bus.clone(), (noted.clone(), is_open));
    let running = world.run(worker.subscribe(subscriber.on(note)));
    world.publish(&users(1..=60)).await;
    (running, noted, open)
}

async fn consumer(world: &World<Sqlite>, replay: &Replay) -> consumer::Info {
    let stream = world.jetstream().await.get_stream("EVENTS").await.unwrap();
    let name = replay.consumer();
    stream.consumer_info(name).await.unwrap()
}

async fn nothing_is_pulled_beyond_the_last_event_in_flight(subscriber: EventSubscriber<State>) {
    let world = World::<Sqlite>::start().await;
    let (running, noted, open) = start(&world, subscriber).await;
    let request = everything().to(StartFrom::Sequence(20));
    let replay = world.replay(NAME, &request).await;
    noted.reach(19).await;
    // A worker that continues to pull always has a pull waiting at the server.
    eventually("nothing is pulled", || async {
        consumer(&world, &replay).await.num_waiting == 0
    })
    .await;
    let before = consumer(&world, &replay).await.delivered.stream_sequence;
    world.publish(&users(61..=600)).await;
    // real time: it must not happen
    tokio::time::sleep(Duration::from_secs(2)).await;
    let after = consumer(&world, &replay).await.delivered.stream_sequence;
    assert_eq!(after, before, "events beyond the range are delivered");
    open.send(true).unwrap();
    let status = world.replay_is(replay.id, ReplayState::Done).await;
    assert_eq!((status.completed(), noted.len()), (20, 20));
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_pulled_from_beyond_the_end() {
    let subscriber = EventSubscriber::durable(NAME);
    nothing_is_pulled_beyond_the_last_event_in_flight(subscriber).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_pulled_from_beyond_the_end_in_order() {
    let subscriber = EventSubscriber::durable(NAME).ordered_by_key();
    nothing_is_pulled_beyond_the_last_event_in_flight(subscriber).await;
}

/// Another client pulls an event, and loses it.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_delivery_is_pulled_again_after_the_end() {
    let world = World::<Sqlite>::start().await;
    let (running, noted, open) = start(&world, EventSubscriber::durable(NAME).concurrency(4)).await;
    let slowly = everything()
        .to(StartFrom::Sequence(20))
        .rate_limit(Rate::per_second(10));
    let replay = world.replay(NAME, &slowly).await;
    noted.reach(1).await;
    // The client takes an event from the worker, and disconnects.
    let client = async_nats::connect(world.nats.url()).await.unwrap();
    let next = format!("$JS.API.CONSUMER.MSG.NEXT.EVENTS.{}", replay.consumer());
    let inbox = client.new_inbox();
    let mut stolen = client.subscribe(inbox.clone()).await.unwrap();
    let asking = client.publish_with_reply(next, inbox, "1".into()).await;
    asking.unwrap();
    assert!(stolen.next().await.unwrap().reply.is_some());
    drop((stolen, client));
    noted.reach(18).await;
    open.send(true).unwrap();
    let status = world.replay_is(replay.id, ReplayState::Done).await;
    assert_eq!((status.completed(), noted.len()), (20, 20));
    running.stop().await.unwrap();
}

async fn stands(noted: &Noted) -> bool {
    let before = noted.len();
    // real time: thirty events would be handled meanwhile
    tokio::time::sleep(Duration::from_secs(1)).await;
    noted.len() == before
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resumed_replay_continues_beside_an_event_in_flight() {
    let world = World::<Sqlite>::start().await;
    let patient = EventSubscriber::durable(NAME).timeout(Duration::from_secs(300));
    let (running, noted, open) = start(&world, patient).await;
    let slowly = everything().rate_limit(Rate::per_second(30));
    let replay = world.replay(NAME, &slowly).await;
    noted.reach(22).await;
    world.replays().pause(replay.id).await.unwrap();
    eventually("it stands still", || stands(&noted)).await;
    assert!(noted.len() < 50);
    world.replays().resume(replay.id).await.unwrap();
    noted.reach(59).await;
    open.send(true).unwrap();
    let status = world.replay_is(replay.id, ReplayState::Done).await;
    assert_eq!((status.completed(), noted.len()), (60, 60), "each once");
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resumed_ordered_replay_continues_beside_a_failing_key() {
    async fn fail(counted: Counted, cx: Context<State>) -> Result<(), Failure> {
        let (noted, may_end) = cx.state();
        let Counted { key, count } = counted;
        if cx.is_replay() && (&*key, count) == ("k0", 1) && !*may_end.borrow() {
            return Err(Failure::retry("not yet"));
        }
        if cx.is_replay() {
            noted.note(format!("{key} {count}"));
        }
        Ok(())
    }
    let world = World::<Sqlite>::start().await;
    let (noted, (end, may_end)) = (Noted::default(), watch::channel(false));
    let pause = Duration::from_millis(100);
    let subscriber = EventSubscriber::durable(NAME)
        .on(fail)
        .retry(Retry::exponential(pause, pause).attempts(1_000))
        .ordered_by_key();
    let worker = Worker::new(world.bus.clone(), (noted.clone(), may_end));
    let running = world.run(worker.subscribe(subscriber));
    let counted = |count, key| Counted {
        key: format!("k{key}"),
        count,
    };
    let counts = (1..=30).flat_map(|count| (0..3).map(move |key| counted(count, key)));
    world.publish(&counts.collect::<Vec<_>>()).await;
    let slowly = everything().rate_limit(Rate::per_second(30));
    let replay = world.replay(NAME, &slowly).await;
    noted.reach(20).await;
    world.replays().pause(replay.id).await.unwrap();
    eventually("it stands still", || stands(&noted)).await;
    world.replays().resume(replay.id).await.unwrap();
    noted.reach(60).await;
    end.send(true).unwrap();
    world.replay_is(replay.id, ReplayState::Done).await;
    for key in ["k0", "k1", "k2"] {
        let all = noted.all();
        let of_key = all.iter().filter_map(|note| note.strip_prefix(key));
        let counts: Vec<i64> = of_key.map(|count| count.trim().parse().unwrap()).collect();
        assert_eq!(counts, Vec::from_iter(1..=30), "{key}");
    }
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn events_removed_before_their_replay_are_reported() {
    let world = World::<Sqlite>::start().await;
    let (running, noted, open) = start(&world, EventSubscriber::durable(NAME).concurrency(2)).await;
    let slowly = everything().rate_limit(Rate::per_second(10));
    let replay = world.replay(NAME, &slowly).await;
    noted.reach(5).await;
    let stream = world.jetstream().await.get_stream("EVENTS").await.unwrap();
    stream.purge().sequence(51).await.unwrap();
    open.send(true).unwrap();
    let status = world.replay_is(replay.id, ReplayState::Done).await;
    let progress = status.progress.clone().unwrap();
    assert!((25..=45).contains(&progress.gone), "{progress:?}");
    assert_eq!(status.completed() + progress.gone, 60);
    assert_eq!(status.completed(), noted.len() as u64);

    // Events that are removed after the replay has passed them do not count as gone.
    let replay = world.replay(NAME, &slowly).await;
    noted.reach(noted.len() + 6).await;
    stream.purge().sequence(52).await.unwrap();
    let status = world.replay_is(replay.id, ReplayState::Done).await;
    assert_eq!((status.completed(), status.progress.unwrap().gone), (10, 0));
    running.stop().await.unwrap();
}

async fn one_of_many_concurrent_requests_starts<DB: Database>(world: World<DB>) {
    let (noted, (_open, is_open)) = (Noted::default(), watch::channel(true));
    let worker = Worker::new(world.bus.clone(), (noted, is_open));
    let running = world.run(worker.subscribe(EventSubscriber::durable(NAME).on(note)));
    world.publish(&users(1..=30)).await;
    let first = world.replay(NAME, &everything()).await;
    world.replays().cancel(first.id).await.unwrap();
    let replays = world.replays();
    let request = everything();
    let asked = (0..12).map(|_| replays.start(NAME, &request));
    let answers = futures::future::join_all(asked).await;
    let (begun, refused): (Vec<_>, Vec<_>) = answers.into_iter().partition(Result::is_ok);
    assert_eq!(begun.len(), 1, "{refused:?}");
    for refused in refused {
        let refused = refused.unwrap_err();
        assert!(
            matches!(refused, ReplayError::Unfinished { .. }),
            "{refused}"
        );
    }
    assert_eq!(replays.list(Some(NAME)).await.unwrap().len(), 2);
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_many_concurrent_requests_starts_on_three_servers() {
    let cluster = Cluster::start().await;
    let bus = cluster.bus().await;
    cluster.apply_all(&bus, Duration::from_secs(1)).await;
    let (noted, (_open, is_open)) = (Noted::default(), watch::channel(true));
    let worker = Worker::new(bus.clone(), (noted, is_open));
    let stop = CancellationToken::new();
    let worker = worker.subscribe(EventSubscriber::durable(NAME).on(note));
    let working = tokio::spawn(worker.run(stop.clone().cancelled_owned()));
    let publisher = EventPublisher::new(&bus);
    for user in users(1..=5) {
        publisher.publish(&user).await.unwrap();
    }
    let mut buses = Vec::new();
    for _ in 0..3 {
        buses.push(cluster.bus().await);
    }
    eventually("it can be replayed", || async {
        let first = Replays::new(&bus).start(NAME, &everything()).await;
        first.is_ok()
    })
    .await;
    for _ in 0..5 {
        let replays = Replays::new(&bus);
        for replay in replays.list(Some(NAME)).await.unwrap() {
            let _ = replays.cancel(replay.id).await;
        }
        // So slow that the replay does not end meanwhile.
        let slowly = everything().rate_limit(Rate::per_minute(1));
        let asked = (0..9).map(|n| {
            let (bus, slowly) = (buses[n % 3].clone(), slowly.clone());
            async move { Replays::new(&bus).start(NAME, &slowly).await }
        });
        let answers = futures::future::join_all(asked).await;
        let begun = answers.iter().filter(|answer| answer.is_ok());
        assert_eq!(begun.count(), 1, "{answers:?}");
    }
    stop.cancel();
    within("a clean stop", working).await.unwrap().unwrap();
}

/// Overwrites the entry of a replay.
async fn put(world: &World<Sqlite>, replay: &Replay) {
    let key = format!("$KV.TIDINGS.replay.{}.{}", replay.subscriber, replay.id);
    let entry = serde_json::to_vec(replay).unwrap();
    let context = world.jetstream().await;
    let publishing = context.publish(key, entry.into()).await;
    publishing.unwrap().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_that_ended_long_before_a_worker_leaves_nothing() {
    let world = World::<Sqlite>::start().await;
    let (running, noted, _open) = start(&world, EventSubscriber::durable(NAME)).await;
    let slowly = everything().rate_limit(Rate::per_second(10));
    let mut replay = world.replay(NAME, &slowly).await;
    noted.reach(5).await;
    running.kill().await;
    replay.state = ReplayState::Cancelled;
    replay.state_at = chrono::Utc::now() - chrono::TimeDelta::days(2);
    put(&world, &replay).await;
    assert_eq!(world.replay_status(replay.id).await.consumers.len(), 1);
    let (running, ..) = start(&world, EventSubscriber::durable(NAME)).await;
    world.nothing_is_left_of(replay.id).await;
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn early_redeliveries_of_a_cancelled_replay_are_dropped() {
    async fn fail(user: User, cx: Context<Noted>) -> Result<(), Failure> {
        cx.state().note(format!("{} {}", user.id, cx.is_replay()));
        match cx.is_replay() {
            true => Err(Failure::retry("among the retries")),
            false => Ok(()),
        }
    }
    let world = World::<Sqlite>::start().await;
    let noted = Noted::default();
    let run = || {
        let pause = Duration::from_secs(2);
        let subscriber = EventSubscriber::durable(NAME)
            .on(fail)
            .retry(Retry::exponential(pause, pause).attempts(9));
        world.run(Worker::new(world.bus.clone(), noted.clone()).subscribe(subscriber))
    };
    let running = run();
    world.publish(&users(1..=1)).await;
    noted.reach(1).await;
    let replay = world.replayed(NAME, &everything()).await.replay;
    running.stop().await.unwrap();
    let failed = noted.len();
    assert!(failed >= 2);
    // So many other replays that a worker needs a while to read them all.
    let mut other = replay.clone();
    for n in 0..400 {
        other.id = format!("0198c0ffee007000800000000000{n:04x}")
            .parse()
            .unwrap();
        put(&world, &other).await;
    }
    let mut cancelled = replay.clone();
    cancelled.state = ReplayState::Cancelled;
    put(&world, &cancelled).await;
    let due = Instant::now() + Duration::from_secs(3);
    // real time: the retry is due when the worker starts
    tokio::time::sleep_until(due.into()).await;
    let running = run();
    let context = world.jetstream().await;
    eventually("the retries are empty", || async {
        let retries = context.get_stream("RETRIES").await.unwrap();
        retries.get_info().await.unwrap().state.messages == 0
    })
    .await;
    assert_eq!(noted.len(), failed, "{:?}", noted.all());
    running.stop().await.unwrap();
}
