//! P8: events of a stream are handled again, within a range, filtered and counted, beside the live events.

use std::time::{Duration, Instant};

use tidings::{
    BatchResult, Batching, Context, Envelope, EventPublisher, EventSubscriber, Failure, Rate,
    Retry, StartFrom, Worker,
    dead_letters::DeadLetters,
    handler::{BatchContext, Item},
    replays::{ReplayRequest, ReplayState},
};
use tokio::sync::{Mutex, watch};

use crate::support::{Noted, User, World, eventually, everything};

type Sqlite = sqlx::Sqlite;

const NAME: &str = "again";

async fn note(user: User, cx: Context<Noted>) -> Result<(), Failure> {
    let how = match cx.replay_id() {
        Some(_) if cx.is_replay() => "again",
        _ => "live",
    };
    cx.state().note(format!("{} {how}", user.id));
    Ok(())
}

fn users(ids: impl IntoIterator<Item = u32>) -> Vec<User> {
    ids.into_iter()
        .map(|id| User::new(&id.to_string()))
        .collect()
}

/// The events that were handled in a replay, in the order of their ids.
fn again(noted: &Noted) -> Vec<u32> {
    let all = noted.all().into_iter();
    let mut again: Vec<u32> = all
        .filter_map(|note| note.strip_suffix(" again")?.parse().ok())
        .collect();
    again.sort_unstable();
    again
}

fn sequences(from: u64, to: u64) -> ReplayRequest {
    ReplayRequest::new(StartFrom::Sequence(from)).to(StartFrom::Sequence(to))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_range_is_replayed_and_marked_in_the_context() {
    let world = World::<Sqlite>::start().await;
    let noted = Noted::default();
    let subscriber = EventSubscriber::durable(NAME).on(note);
    let running = world.run(Worker::new(world.bus.clone(), noted.clone()).subscribe(subscriber));
    world.publish(&users(1..=1_000)).await;
    noted.reach(1_000).await;
    let status = world.replayed(NAME, &sequences(300, 700)).await;
    assert_eq!(again(&noted), Vec::from_iter(300..=700));
    assert_eq!(noted.len(), 1_401, "the live events are not handled again");
    let progress = status.progress.as_ref().unwrap();
    assert_eq!(
        (progress.handled, status.completed(), status.replay.events()),
        (401, 401, 401)
    );
    assert_eq!(progress.streams[0].floor, 700);
    world.nothing_is_left_of(status.replay.id).await;

    world.publish(&users([1_001])).await;
    noted.reach(1_402).await;
    assert!(noted.all().contains(&"1001 live".to_owned()));
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn only_matching_events_are_replayed() {
    let world = World::<Sqlite>::start().await;
    let noted = Noted::default();
    let subscriber = EventSubscriber::durable(NAME).on(note);
    let running = world.run(Worker::new(world.bus.clone(), noted.clone()).subscribe(subscriber));
    world.publish(&users(1..=600)).await;
    let publisher = EventPublisher::new(&world.bus);
    let mut first = None;
    for id in ["601", "602"] {
        let mut envelope = Envelope::of(&User::new(id)).unwrap();
        if let Some(first) = &first {
            envelope = envelope.inherit(first);
        }
        first = Some(envelope.descent());
        publisher.publish(envelope).await.unwrap();
    }
    noted.reach(602).await;
    let of_key = world.replayed(NAME, &everything().key("37")).await;
    assert_eq!(again(&noted), [37]);
    let progress = of_key.progress.unwrap();
    assert_eq!((progress.handled, progress.filtered), (1, 601));

    let conversation = first.unwrap().correlation_id.unwrap();
    let of_conversation = everything().correlation(conversation);
    let progress = world
        .replayed(NAME, &of_conversation)
        .await
        .progress
        .unwrap();
    assert_eq!(again(&noted), [37, 601, 602]);
    assert_eq!((progress.handled, progress.filtered), (2, 600));
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn retries_and_dead_letters_of_a_replay_belong_to_it() {
    async fn fail(_: User, cx: Context<Noted>) -> Result<(), Failure> {
        cx.state()
            .note(format!("{} {}", cx.attempt(), cx.is_replay()));
        Err(Failure::retry("still broken"))
    }
    let world = World::<Sqlite>::start().await;
    let noted = Noted::default();
    // Long enough that the event is in the retries and not in flight.
    let pause = Duration::from_millis(600);
    let subscriber = EventSubscriber::durable(NAME)
        .on(fail)
        .retry(Retry::exponential(pause, pause).attempts(3));
    let running = world.run(Worker::new(world.bus.clone(), noted.clone()).subscribe(subscriber));
    world.publish(&users([1])).await;
    let letters = async |count| {
        eventually("the dead letters", || async {
            world.dead_letters().await.len() == count
        })
        .await;
    };
    letters(1).await;
    let replay = world.replay(NAME, &everything()).await;
    letters(2).await;
    let expected = [
        "1 false", "2 false", "3 false", "1 true", "2 true", "3 true",
    ];
    assert_eq!(noted.all(), expected);
    let letters_now = world.dead_letters().await;
    let marks: Vec<&str> = letters_now
        .0
        .iter()
        .map(|one| one.header("tidings-replay"))
        .collect();
    assert_eq!(marks, ["", &*replay.id.to_string()]);
    let status = world.replay_is(replay.id, ReplayState::Done).await;
    let progress = status.progress.unwrap();
    assert_eq!((progress.handled, status.replay.events()), (0, 1));
    assert_eq!(progress.retried + progress.dead_lettered, 1, "{progress:?}");

    // After a redrive it still belongs to the replay.
    let letters = DeadLetters::new(&world.bus);
    let letter = letters.find(2).await.unwrap();
    letters
        .redriver()
        .await
        .unwrap()
        .redrive(&letter)
        .await
        .unwrap();
    noted.reach(7).await;
    assert_eq!(noted.all()[6], "1 true");
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_skips_handlers_without_replay_and_calls_the_shadow() {
    async fn shadow(user: User, cx: Context<Noted>) -> Result<(), Failure> {
        assert!(cx.is_replay());
        cx.state().note(format!("{} shadow", user.id));
        Ok(())
    }
    let world = World::<Sqlite>::start().await;
    let noted = Noted::default();
    let subscriber = EventSubscriber::durable(NAME)
        .on(note)
        .skip_on_replay()
        .shadow("v2", |handlers| handlers.on(shadow));
    let running = world.run(Worker::new(world.bus.clone(), noted.clone()).subscribe(subscriber));
    world.publish(&users(1..=3)).await;
    noted.reach(3).await;
    let progress = world.replayed(NAME, &everything()).await.progress.unwrap();
    assert_eq!((progress.skipped, progress.handled, noted.len()), (3, 0, 3));
    let progress = world
        .replayed(NAME, &everything().shadow("v2"))
        .await
        .progress
        .unwrap();
    assert_eq!((progress.skipped, progress.handled), (0, 3));
    let mut shadows = noted.all().split_off(3);
    shadows.sort();
    assert_eq!(shadows, ["1 shadow", "2 shadow", "3 shadow"]);
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_keeps_its_rate_and_live_events_do_not_wait() {
    let world = World::<Sqlite>::start().await;
    let noted = Noted::default();
    let subscriber = EventSubscriber::durable(NAME).on(note);
    let running = world.run(Worker::new(world.bus.clone(), noted.clone()).subscribe(subscriber));
    world.publish(&users(1..=300)).await;
    noted.reach(300).await;
    let began = Instant::now();
    let request = everything().rate_limit(Rate::per_second(100));
    let replay = world.replay(NAME, &request).await;
    let mut live = 300;
    loop {
        let handled = again(&noted).len();
        // The events of a tenth of a second may begin at once, and one more.
        let due = began.elapsed().as_secs_f64() * 100.0 + 10.0 + 1.0;
        assert!((handled as f64) <= due, "{handled} of {due}");
        if handled == 300 {
            break;
        }
        live += 1;
        world.publish(&users([live])).await;
        let told = format!("{live} live");
        eventually("the live event", || async { noted.all().contains(&told) }).await;
    }
    assert!(
        live > 310,
        "live events were handled meanwhile: {}",
        live - 300
    );
    world.replay_is(replay.id, ReplayState::Done).await;
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_replay_resumes_where_it_was() {
    let world = World::<Sqlite>::start().await;
    let noted = Noted::default();
    let subscriber = EventSubscriber::durable(NAME).on(note);
    let running = world.run(Worker::new(world.bus.clone(), noted.clone()).subscribe(subscriber));
    world.publish(&users(1..=200)).await;
    noted.reach(200).await;
    let replay = world
        .replay(NAME, &everything().rate_limit(Rate::per_second(100)))
        .await;
    noted.reach(220).await;
    world.replays().pause(replay.id).await.unwrap();
    let settled = async || {
        eventually("what was handled was written", || async {
            let progress = world.replay_status(replay.id).await.progress;
            let handled = again(&noted).len() as u64;
            progress.is_some_and(|progress| progress.handled == handled)
        })
        .await;
        again(&noted).len()
    };
    let paused = settled().await;
    assert!((20..200).contains(&paused), "{paused}");
    world.publish(&users([201])).await;
    noted.reach(200 + paused + 1).await;
    // real time: at this rate the rest would be handled meanwhile
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(again(&noted).len(), paused);
    let resumed = Instant::now();
    world.replays().resume(replay.id).await.unwrap();
    let status = world.replay_is(replay.id, ReplayState::Done).await;
    // A delivery that is not handed back would be redelivered after 30 s.
    assert!(
        resumed.elapsed() < Duration::from_secs(20),
        "{:?}",
        resumed.elapsed()
    );
    assert_eq!(
        again(&noted),
        Vec::from_iter(1..=200),
        "each once, and not what came later"
    );
    assert_eq!(status.completed(), 200);
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_replay_starts_nothing_and_drops_its_retries() {
    type State = (Noted, watch::Receiver<bool>);
    async fn wait(user: User, cx: Context<State>) -> Result<(), Failure> {
        let (noted, is_open) = cx.state();
        noted.note(format!("{} {}", user.id, cx.is_replay()));
        match cx.is_replay() {
            true if user.id == "1" => Err(Failure::retry("among the retries")),
            true => {
                let _ = is_open.clone().wait_for(|is_open| *is_open).await;
                Ok(())
            }
            false => Ok(()),
        }
    }
    let world = World::<Sqlite>::start().await;
    let noted = Noted::default();
    let (open, is_open) = watch::channel(false);
    let pause = Duration::from_secs(3);
    let subscriber = EventSubscriber::durable(NAME)
        .on(wait)
        .concurrency(4)
        .retry(Retry::exponential(pause, pause).attempts(9));
    let running =
        world.run(Worker::new(world.bus.clone(), (noted.clone(), is_open)).subscribe(subscriber));
    world.publish(&users(1..=50)).await;
    noted.reach(50).await;
    let replay = world.replay(NAME, &everything()).await;
    // One event has failed, four are being handled.
    noted.reach(55).await;
    world.replays().cancel(replay.id).await.unwrap();
    world.nothing_is_left_of(replay.id).await;
    open.send(true).unwrap();
    world.publish(&users([51])).await;
    eventually("a live event", || async {
        noted.all().contains(&"51 false".to_owned())
    })
    .await;
    let client = async_nats::connect(world.nats.url()).await.unwrap();
    let context = async_nats::jetstream::new(client);
    let retries = Mutex::new(context.get_stream("RETRIES").await.unwrap());
    eventually("the retries are empty", || async {
        retries.lock().await.info().await.unwrap().state.messages == 0
    })
    .await;
    assert_eq!(noted.len(), 56, "{:?}", &noted.all()[50..]);
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_has_events_of_one_replay_or_of_none() {
    type State = std::sync::Arc<Mutex<Vec<(bool, usize)>>>;
    // A panic would count as a failure, and each event would be tried again alone.
    async fn batch(
        users: Vec<Item<User>>,
        cx: BatchContext<State>,
    ) -> Result<BatchResult, Failure> {
        let is_told = cx.replay_id().is_some() == cx.is_replay();
        let is_one = users.iter().all(|user| user.is_replay() == cx.is_replay());
        let count = if is_told && is_one {
            users.len()
        } else {
            10_000
        };
        cx.state().lock().await.push((cx.is_replay(), count));
        Ok(BatchResult::done())
    }
    let world = World::<Sqlite>::start().await;
    let seen = State::default();
    let subscriber = EventSubscriber::durable(NAME).on_batch(Batching::of(50), batch);
    let running = world.run(Worker::new(world.bus.clone(), seen.clone()).subscribe(subscriber));
    let handled = async |of_replays| {
        let seen = seen.lock().await;
        let of = seen
            .iter()
            .filter(|(is_replay, _)| *is_replay == of_replays);
        of.map(|(_, events)| events).sum::<usize>()
    };
    world.publish(&users(1..=500)).await;
    eventually("all are handled", || async { handled(false).await == 500 }).await;
    let replay = world.replay(NAME, &everything()).await;
    world.publish(&users(501..=900)).await;
    world.replay_is(replay.id, ReplayState::Done).await;
    eventually("all are handled", || async { handled(false).await >= 900 }).await;
    assert_eq!(handled(false).await, 900);
    assert_eq!(handled(true).await, 500);
    let largest = |seen: &[(bool, usize)]| {
        seen.iter()
            .filter(|(again, _)| *again)
            .map(|(_, n)| *n)
            .max()
    };
    assert!(largest(&seen.lock().await) > Some(1), "they are batches");
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn events_batched_for_a_cancelled_replay_are_dropped() {
    async fn batch(
        users: Vec<Item<User>>,
        cx: BatchContext<Noted>,
    ) -> Result<BatchResult, Failure> {
        for user in users {
            let is_replay = user.is_replay();
            cx.state().note(format!("{} {is_replay}", user.id));
        }
        Ok(BatchResult::done())
    }
    let world = World::<Sqlite>::start().await;
    let noted = Noted::default();
    let batching = Batching::of(50).linger(Duration::from_secs(3));
    let subscriber = EventSubscriber::durable(NAME).on_batch(batching, batch);
    let running = world.run(Worker::new(world.bus.clone(), noted.clone()).subscribe(subscriber));
    world.publish(&users(1..=3)).await;
    noted.reach(3).await;
    let replay = world.replay(NAME, &everything()).await;
    eventually("all of it is in hand", || async {
        let consumers = world.replay_status(replay.id).await.consumers;
        consumers.first().is_some_and(|one| one.in_flight == 3)
    })
    .await;
    world.replays().cancel(replay.id).await.unwrap();
    world.nothing_is_left_of(replay.id).await;
    // The batch of the live event is due later than that of the replay.
    world.publish(&users([4])).await;
    noted.reach(4).await;
    assert_eq!(noted.all()[3..], ["4 false"]);
    running.stop().await.unwrap();
}
