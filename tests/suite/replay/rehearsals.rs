//! P8: what a replay would do is reported without a call of a handler.

use serde::{Deserialize, Serialize};
use tidings::{
    Context, Event, EventSubscriber, Failure, Worker,
    replays::{RehearsedEvents, ReplayState},
};

use crate::support::{Counted, Noted, User, World, everything};

type Sqlite = sqlx::Sqlite;

const NAME: &str = "rehearsed";

/// The event of a newer build: `email` was removed, `name` is required.
#[derive(Debug, Serialize, Deserialize, Event)]
#[event(name = "user.created", version = 1, key = id)]
struct Renamed {
    id: String,
    name: String,
}

async fn users(user: Renamed, cx: Context<Noted>) -> Result<(), Failure> {
    cx.state().note(user.id);
    Ok(())
}

async fn counts(count: Counted, cx: Context<Noted>) -> Result<(), Failure> {
    cx.state().note(count.key);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rehearsal_reads_everything_and_calls_no_handler() {
    let world = World::<Sqlite>::start().await;
    let noted = Noted::default();
    let subscriber = EventSubscriber::durable(NAME)
        .on(users)
        .on(counts)
        .skip_on_replay();
    let running = world.run(Worker::new(world.bus.clone(), noted.clone()).subscribe(subscriber));
    let renamed = |id: u32| Renamed {
        id: id.to_string(),
        name: "Ada".to_owned(),
    };
    world.publish(&Vec::from_iter((0..500).map(renamed))).await;
    world
        .publish(&Vec::from_iter(
            (0..30).map(|id| User::new(&format!("old {id}"))),
        ))
        .await;
    let counted = |count| Counted {
        key: "k".to_owned(),
        count,
    };
    world.publish(&Vec::from_iter((0..20).map(counted))).await;
    noted.reach(520).await;
    let letters = async || world.dead_letters().await.len();
    crate::support::eventually("the letters", || async { letters().await == 30 }).await;

    let status = world.replayed(NAME, &everything().rehearse()).await;
    assert_eq!(
        (noted.len(), letters().await),
        (520, 30),
        "nothing was called or given up"
    );
    assert_eq!((status.completed(), status.replay.events()), (550, 550));
    let report = status.progress.unwrap().rehearsal.unwrap();
    let shown: Vec<_> = report.events.iter().map(shown).collect();
    assert_eq!(
        shown,
        [
            ("count.raised", 1, [20, 0, 20, 0]),
            ("user.created", 1, [530, 500, 0, 30]),
        ]
    );
    assert_eq!(report.errors.len(), 10);
    let first = &report.errors[0];
    assert_eq!(
        (&*first.stream, first.sequence, &*first.name),
        ("EVENTS", 501, "user.created")
    );
    assert!(
        first.error.contains("missing field `name`"),
        "{}",
        first.error
    );
    world.nothing_is_left_of(status.replay.id).await;

    let of_key = everything().rehearse().key("7");
    let progress = world.replayed(NAME, &of_key).await.progress.unwrap();
    assert_eq!(progress.filtered, 549);
    let events = progress.rehearsal.unwrap().events;
    assert_eq!(shown_all(&events), [("user.created", 1, [1, 1, 0, 0])]);
    running.stop().await.unwrap();
}

fn shown_all(events: &[RehearsedEvents]) -> Vec<(&str, u32, [u64; 4])> {
    events.iter().map(shown).collect()
}

/// Events, would call, would skip, undecodable.
fn shown(of: &RehearsedEvents) -> (&str, u32, [u64; 4]) {
    let counts = [of.events, of.would_call, of.would_skip, of.undecodable];
    (&of.name, of.version, counts)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rehearsal_continues_where_its_worker_stopped() {
    let world = World::<Sqlite>::start().await;
    let noted = Noted::default();
    let run = || {
        let subscriber = EventSubscriber::durable(NAME).on(counts);
        world.run(Worker::new(world.bus.clone(), noted.clone()).subscribe(subscriber))
    };
    let running = run();
    let counted = |count| Counted {
        key: "k".to_owned(),
        count,
    };
    world
        .publish(&Vec::from_iter((0..3_000).map(counted)))
        .await;
    noted.reach(3_000).await;
    let replay = world.replay(NAME, &everything().rehearse()).await;
    running.stop().await.unwrap();
    let running = run();
    let status = world.replay_is(replay.id, ReplayState::Done).await;
    assert_eq!(status.completed(), 3_000, "each is counted once");
    running.stop().await.unwrap();
}
