//! P6 and P8: a replay of an ordered subscriber keeps the order per key, across its instances.

use std::{collections::BTreeMap, time::Duration};

use tidings::{
    Context, EventSubscriber, Failure, Rate, Retry, Worker, handler::OnExhausted,
    replays::ReplayState, worker::WorkerError,
};

use tokio::sync::watch;

use crate::support::{Counted, Noted, Running, World, eventually, everything};

type Sqlite = sqlx::Sqlite;

const NAME: &str = "ordered";
const KEYS: i64 = 5;
const COUNTS: i64 = 60;

/// Fails now and then; without ordering, later events would overtake.
async fn note(counted: Counted, cx: Context<Noted>) -> Result<(), Failure> {
    let Counted { key, count } = counted;
    if count % 7 == 0 && cx.attempt() == 1 {
        return Err(Failure::retry("at the first time"));
    }
    let how = if cx.is_replay() { "again" } else { "live" };
    cx.state().note(format!("{how} {key} {count}"));
    Ok(())
}

fn run(world: &World<Sqlite>, noted: &Noted) -> Running<WorkerError> {
    let pause = Duration::from_millis(5);
    let subscriber = EventSubscriber::durable(NAME)
        .on(note)
        .retry(Retry::exponential(pause, pause).attempts(4))
        .on_exhausted(OnExhausted::ParkKey)
        .ordered_by_key();
    world.run(Worker::new(world.bus.clone(), noted.clone()).subscribe(subscriber))
}

fn counts(range: std::ops::RangeInclusive<i64>) -> Vec<Counted> {
    let each = range.flat_map(|count| (0..KEYS).map(move |key| (format!("k{key}"), count)));
    each.map(|(key, count)| Counted { key, count }).collect()
}

/// The counts that were handled of each key, in the order of the calls.
fn by_key(noted: &Noted, how: &str) -> BTreeMap<String, Vec<i64>> {
    let mut keys: BTreeMap<String, Vec<i64>> = BTreeMap::new();
    for note in noted.all() {
        let words: Vec<&str> = note.split(' ').collect();
        if words[0] == how {
            let counts = keys.entry(words[1].to_owned()).or_default();
            counts.push(words[2].parse().unwrap());
        }
    }
    keys
}

/// Checks that all counts of each key were handled in order, once each.
fn assert_whole(keys: &BTreeMap<String, Vec<i64>>, last: i64) {
    assert_eq!(keys.len(), usize::try_from(KEYS).unwrap());
    for (key, counts) in keys {
        assert_eq!(*counts, Vec::from_iter(1..=last), "{key}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_keeps_the_order_of_keys_beside_the_live_events() {
    let world = World::<Sqlite>::start().await;
    let noted = Noted::default();
    let running = run(&world, &noted);
    let all = usize::try_from(KEYS * COUNTS).unwrap();
    world.publish(&counts(1..=COUNTS)).await;
    noted.reach(all).await;
    let replay = world.replay(NAME, &everything()).await;
    world.publish(&counts(COUNTS + 1..=2 * COUNTS)).await;
    world.replay_is(replay.id, ReplayState::Done).await;
    noted.reach(3 * all).await;
    assert_whole(&by_key(&noted, "again"), COUNTS);
    assert_whole(&by_key(&noted, "live"), 2 * COUNTS);
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replayed_key_keeps_its_order_across_instances() {
    let world = World::<Sqlite>::start().await;
    let noted = Noted::default();
    let first = run(&world, &noted);
    let all = usize::try_from(KEYS * COUNTS).unwrap();
    world.publish(&counts(1..=COUNTS)).await;
    noted.reach(all).await;
    let request = everything().rate_limit(Rate::per_second(100));
    let replay = world.replay(NAME, &request).await;
    let second = run(&world, &noted);
    noted.reach(all + 50).await;
    first.stop().await.unwrap();
    noted.reach(all + 120).await;
    world.replays().pause(replay.id).await.unwrap();
    let status = async || world.replay_status(replay.id).await;
    eventually("it stands still", || async {
        let handled = (noted.len() - all) as u64;
        let status = status().await;
        let is_idle = status.consumers.iter().all(|one| one.floor == handled);
        is_idle
            && status
                .progress
                .is_some_and(|progress| progress.handled == handled)
    })
    .await;
    world.replays().resume(replay.id).await.unwrap();
    world.replay_is(replay.id, ReplayState::Done).await;
    assert_whole(&by_key(&noted, "again"), COUNTS);
    second.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_stay_in_order_when_an_instance_dies() {
    let world = World::<Sqlite>::start().await;
    let noted = Noted::default();
    let first = run(&world, &noted);
    let all = usize::try_from(KEYS * COUNTS).unwrap();
    world.publish(&counts(1..=COUNTS)).await;
    noted.reach(all).await;
    let request = everything().rate_limit(Rate::per_second(100));
    let replay = world.replay(NAME, &request).await;
    noted.reach(all + 80).await;
    first.kill().await;
    let second = run(&world, &noted);
    world.replay_is(replay.id, ReplayState::Done).await;
    for (key, mut counts) in by_key(&noted, "again") {
        // Handled again from the ack floor on, in order.
        let back = counts.windows(2).filter(|pair| pair[0] >= pair[1]).count();
        assert!(back <= 1, "{key}: {counts:?}");
        counts.sort_unstable();
        counts.dedup();
        assert_eq!(counts, Vec::from_iter(1..=COUNTS), "{key}");
    }
    second.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_that_dead_letters_an_event_does_not_park_the_key() {
    async fn refuse(counted: Counted, cx: Context<Noted>) -> Result<(), Failure> {
        cx.state()
            .note(format!("{} {}", counted.count, cx.is_replay()));
        match cx.is_replay() && counted.count == 1 {
            true => Err(Failure::reject("only in a replay")),
            false => Ok(()),
        }
    }
    let world = World::<Sqlite>::start().await;
    let noted = Noted::default();
    let subscriber = EventSubscriber::durable(NAME)
        .on(refuse)
        .on_exhausted(OnExhausted::ParkKey)
        .ordered_by_key();
    let running = world.run(Worker::new(world.bus.clone(), noted.clone()).subscribe(subscriber));
    let of_key = |count| Counted {
        key: "k".to_owned(),
        count,
    };
    world.publish(&[of_key(1), of_key(2)]).await;
    noted.reach(2).await;
    let progress = world.replayed(NAME, &everything()).await.progress.unwrap();
    assert_eq!((progress.dead_lettered, progress.handled), (1, 1));
    world.publish(&[of_key(3)]).await;
    noted.reach(5).await;
    assert_eq!(noted.all()[2..], ["1 true", "2 true", "3 false"]);
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_instance_skips_events_handled_past_a_failing_one() {
    type State = (Noted, watch::Receiver<bool>);
    async fn wait(counted: Counted, cx: Context<State>) -> Result<(), Failure> {
        let (noted, may_end) = cx.state();
        let Counted { key, count } = counted;
        if cx.is_replay() && (&*key, count) == ("k0", 1) && !*may_end.borrow() {
            return Err(Failure::retry("not yet"));
        }
        let how = if cx.is_replay() { "again" } else { "live" };
        noted.note(format!("{how} {key} {count}"));
        Ok(())
    }
    let world = World::<Sqlite>::start().await;
    let noted = Noted::default();
    let (end, may_end) = watch::channel(false);
    let run = || {
        let pause = Duration::from_millis(200);
        let subscriber = EventSubscriber::durable(NAME)
            .on(wait)
            .retry(Retry::exponential(pause, pause).attempts(1_000))
            .ordered_by_key();
        let state = (noted.clone(), may_end.clone());
        world.run(Worker::new(world.bus.clone(), state).subscribe(subscriber))
    };
    let first = run();
    world.publish(&counts(1..=20)).await;
    let all = usize::try_from(KEYS * 20).unwrap();
    noted.reach(all).await;
    let replay = world.replay(NAME, &everything()).await;
    // All keys except one, which is held up by its first event.
    noted.reach(2 * all - 20).await;
    first.stop().await.unwrap();
    end.send(true).unwrap();
    let second = run();
    world.replay_is(replay.id, ReplayState::Done).await;
    assert_whole(&by_key(&noted, "again"), 20);
    second.stop().await.unwrap();
}
