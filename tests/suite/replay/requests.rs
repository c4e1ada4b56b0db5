//! Requests for replays: the requested part of which streams, and the reasons to refuse it.

use async_nats::jetstream;
use chrono::{DateTime, TimeDelta, Utc};
use tidings::{
    Context, EventPublisher, EventSubscriber, Failure, StartFrom, Worker,
    replays::{Replay, ReplayError, ReplayRequest, ReplayState, Replays},
    worker::WorkerError,
};

use crate::support::{Counted, Noted, Running, User, World};

type Sqlite = sqlx::Sqlite;

const NAME: &str = "asked";

async fn users(user: User, cx: Context<Noted>) -> Result<(), Failure> {
    cx.state().note(user.id);
    Ok(())
}

async fn counts(count: Counted, cx: Context<Noted>) -> Result<(), Failure> {
    cx.state().note(count.key);
    Ok(())
}

/// Two users, a count, two users; all handled.
async fn world() -> (World<Sqlite>, Running<WorkerError>) {
    let world = World::<Sqlite>::start().await;
    let publisher = EventPublisher::new(&world.bus);
    for id in ["a", "b"] {
        publisher.publish(&User::new(id)).await.unwrap();
    }
    let key = "k".to_owned();
    publisher.publish(&Counted { key, count: 1 }).await.unwrap();
    for id in ["c", "d"] {
        publisher.publish(&User::new(id)).await.unwrap();
    }
    let noted = Noted::default();
    let running = start(&world, &noted);
    noted.reach(5).await;
    (world, running)
}

fn start(world: &World<Sqlite>, noted: &Noted) -> Running<WorkerError> {
    let subscriber = EventSubscriber::durable(NAME).on(users).on(counts);
    world.run(Worker::new(world.bus.clone(), noted.clone()).subscribe(subscriber))
}

async fn ask(world: &World<Sqlite>, request: &ReplayRequest) -> Result<Replay, ReplayError> {
    Replays::new(&world.bus).start(NAME, request).await
}

fn from(point: StartFrom) -> ReplayRequest {
    ReplayRequest::new(point)
}

async fn stored_at(world: &World<Sqlite>, sequence: u64) -> DateTime<Utc> {
    let client = async_nats::connect(world.nats.url()).await.unwrap();
    let stream = jetstream::new(client).get_stream("EVENTS").await.unwrap();
    let time = stream.get_raw_message(sequence).await.unwrap().time;
    let nanos = i64::try_from(time.unix_timestamp_nanos()).unwrap();
    DateTime::from_timestamp_nanos(nanos)
}

/// First and last sequence and number of events of the only requested range; forced, because other replays have not
/// ended.
async fn range(world: &World<Sqlite>, request: ReplayRequest) -> (u64, u64, u64) {
    let replay = ask(world, &request.force()).await.unwrap();
    let [range] = &replay.ranges[..] else {
        panic!("one range: {replay:?}")
    };
    (range.first, range.last, range.events)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_range_of_a_replay_is_fixed_by_its_request() {
    use StartFrom::{Beginning, New, Sequence, Time};
    let (world, running) = world().await;
    let (second, fourth) = (stored_at(&world, 2).await, stored_at(&world, 4).await);
    assert_eq!(range(&world, from(Beginning)).await, (1, 5, 5));
    assert_eq!(range(&world, from(Beginning).to(New)).await, (1, 5, 5));
    assert_eq!(
        range(&world, from(Sequence(2)).to(Sequence(4))).await,
        (2, 4, 3)
    );
    assert_eq!(
        range(&world, from(Sequence(2)).to(Sequence(99))).await,
        (2, 5, 4)
    );
    assert_eq!(range(&world, from(Time(second))).await, (2, 5, 4));
    let bounded = from(Time(second)).to(Time(fourth));
    assert_eq!(
        range(&world, bounded).await,
        (2, 3, 2),
        "the end is not in it"
    );
    let later = from(Beginning).to(Time(Utc::now() + TimeDelta::hours(1)));
    assert_eq!(range(&world, later).await, (1, 5, 5));
    let of_users = from(Beginning).names(["user.created"]);
    assert_eq!(range(&world, of_users).await, (1, 5, 4));
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_impossible_replay_is_refused_with_its_reason() {
    use StartFrom::{Beginning, New, Sequence, Time};
    let (world, running) = world().await;
    let refused =
        async |request: ReplayRequest| ask(&world, &request).await.unwrap_err().to_string();
    let unknown = from(Beginning).names(["user.renamed"]);
    assert_eq!(
        refused(unknown).await,
        "asked does not handle user.renamed: it handles count.raised, user.created"
    );
    let shadow = refused(from(Beginning).shadow("v2")).await;
    assert!(shadow.contains("has a shadow v2"), "{shadow}");
    for nothing in [
        from(New),
        from(Sequence(6)),
        from(Sequence(4)).to(Sequence(3)),
        from(Sequence(3)).to(Sequence(3)).names(["user.created"]),
        from(Time(Utc::now() + TimeDelta::hours(1))),
    ] {
        let said = refused(nothing).await;
        assert!(said.contains("EVENTS holds no events"), "{said}");
    }
    let replays = Replays::new(&world.bus);
    let nobody = replays.start("nobody", &from(Beginning)).await;
    assert!(matches!(nobody, Err(ReplayError::Unknown { .. })));
    assert_eq!(replays.list(None).await.unwrap(), []);
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_stream_is_not_taken_for_an_empty_one() {
    let (world, running) = world().await;
    let client = async_nats::connect(world.nats.url()).await.unwrap();
    let context = jetstream::new(client);
    context.delete_stream("EVENTS").await.unwrap();
    let request = from(StartFrom::Beginning);
    let refused = ask(&world, &request).await.unwrap_err();
    assert!(
        matches!(&refused, ReplayError::Gone { stream } if stream == "EVENTS"),
        "{refused}"
    );
    let forced = ask(&world, &request.force()).await.unwrap_err();
    assert!(matches!(forced, ReplayError::Nothing { .. }), "{forced}");
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_range_with_removed_events_is_refused_unless_forced() {
    use StartFrom::{Beginning, Sequence, Time};
    let (world, running) = world().await;
    let first = stored_at(&world, 1).await;
    let whole = ask(&world, &from(Time(first - TimeDelta::hours(1))))
        .await
        .unwrap();
    assert_eq!(whole.events(), 5, "nothing was ever removed");
    Replays::new(&world.bus).cancel(whole.id).await.unwrap();

    let client = async_nats::connect(world.nats.url()).await.unwrap();
    let stream = jetstream::new(client).get_stream("EVENTS").await.unwrap();
    stream.purge().sequence(3).await.unwrap();
    for old in [Sequence(2), Time(first)] {
        let refused = ask(&world, &from(old)).await.unwrap_err();
        assert!(
            matches!(
                &refused,
                ReplayError::TooOld {
                    first: 3,
                    stored_at: Some(_),
                    ..
                }
            ),
            "{refused}"
        );
        let forced = ask(&world, &from(old).force()).await.unwrap();
        assert_eq!((forced.ranges[0].first, forced.events()), (3, 3));
        Replays::new(&world.bus).cancel(forced.id).await.unwrap();
    }
    assert_eq!(range(&world, from(Beginning)).await, (3, 5, 3));
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sequence_is_a_position_in_one_stream() {
    use StartFrom::{Beginning, Sequence};
    let world = World::<Sqlite>::start().await;
    world.two_streams().await;
    let noted = Noted::default();
    let running = start(&world, &noted);
    let publisher = EventPublisher::new(&world.bus);
    publisher.publish(&User::new("a")).await.unwrap();
    let key = "k".to_owned();
    publisher.publish(&Counted { key, count: 1 }).await.unwrap();
    noted.reach(2).await;

    let refused = ask(&world, &from(Sequence(1))).await.unwrap_err();
    let streams = ["COUNTS".to_owned(), "EVENTS".to_owned()];
    assert!(
        matches!(&refused, ReplayError::Ambiguous { streams: both } if *both == streams),
        "{refused}"
    );
    let of_one = from(Sequence(1)).names(["count.raised"]);
    assert_eq!(
        ask(&world, &of_one).await.unwrap().ranges[0].stream,
        "COUNTS"
    );
    let both = ask(&world, &from(Beginning).force()).await.unwrap();
    let streams: Vec<_> = both.ranges.iter().map(|range| &*range.stream).collect();
    assert_eq!(streams, ["COUNTS", "EVENTS"]);
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_instance_only_a_forced_replay_starts() {
    let (world, running) = world().await;
    running.stop().await.unwrap();
    let request = from(StartFrom::Beginning);
    let refused = ask(&world, &request).await.unwrap_err();
    assert!(
        matches!(refused, ReplayError::NoInstance { .. }),
        "{refused}"
    );
    let forced = ask(&world, &request.force()).await.unwrap();
    assert_eq!(forced.ranges[0].names, ["count.raised", "user.created"]);

    let replays = Replays::new(&world.bus);
    let status = replays.find(forced.id).await.unwrap();
    assert_eq!((&status.replay, status.progress), (&forced, None));
    let refused = ask(&world, &from(StartFrom::Beginning)).await.unwrap_err();
    assert!(
        matches!(&refused, ReplayError::Unfinished { id, .. } if *id == forced.id),
        "{refused}"
    );
    let paused = replays.pause(forced.id).await.unwrap();
    assert_eq!(paused.state, ReplayState::Paused);
    assert_eq!(
        replays.resume(forced.id).await.unwrap().state,
        ReplayState::Running
    );
    let cancelled = replays.cancel(forced.id).await.unwrap();
    assert_eq!(replays.cancel(forced.id).await.unwrap(), cancelled, "again");
    for over in [
        replays.resume(forced.id).await,
        replays.pause(forced.id).await,
    ] {
        let over = over.unwrap_err().to_string();
        assert!(over.ends_with("is cancelled: start another one"), "{over}");
    }
    assert_eq!(
        replays.list(Some(NAME)).await.unwrap(),
        std::slice::from_ref(&cancelled)
    );
    assert_eq!(replays.list(Some("other")).await.unwrap(), []);
    let unknown = "0198c0ffee00700080000000000000aa".parse().unwrap();
    assert!(matches!(
        replays.find(unknown).await,
        Err(ReplayError::NoReplay { .. })
    ));

    let client = async_nats::connect(world.nats.url()).await.unwrap();
    let bucket = jetstream::new(client)
        .get_stream("KV_TIDINGS")
        .await
        .unwrap();
    let subject = format!("$KV.TIDINGS.replay.{NAME}.{}", cancelled.id);
    let entry = bucket
        .get_last_raw_message_by_subject(&subject)
        .await
        .unwrap();
    let days = entry.headers.get("Nats-TTL").unwrap().as_str();
    assert_eq!(days, "7776000s", "what is over is forgotten some day");
}
