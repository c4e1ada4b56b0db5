//! The test kit: deliveries of a replay.

use tidings::{
    Context, Envelope, EventSubscriber, Failure, InboxTransaction,
    handler::{Outcome, SubscriberError},
    testing::{TestContext, TestWorker},
};

use crate::{
    both,
    support::{Counted, Database, Noted, User, World, note_id},
};

both!(a_replay_handles_each_event_again_once);

async fn count<DB: Database>(
    user: User,
    mut tx: InboxTransaction<DB>,
    cx: Context<Noted>,
) -> Result<(), Failure> {
    let count = DB::count_up(&mut tx, &user.id).await?;
    let key = user.id.clone();
    tx.publish(&Counted { key, count })?;
    cx.state().note(format!("{count} {}", cx.is_replay()));
    Ok(())
}

async fn a_replay_handles_each_event_again_once<DB: Database>(world: World<DB>) {
    let subscriber =
        EventSubscriber::durable("counter").on_transactional(&world.outbox, count::<DB>);
    let noted = Noted::default();
    let mut worker = TestWorker::new(subscriber, noted.clone());
    let event = Envelope::of(&User::new("ada")).unwrap();
    let mut outcomes = Vec::new();
    for part in 0..4 {
        match part {
            1 => drop(worker.as_replay()),
            2 => drop(worker.as_replay_with_follow_ups()),
            3 => worker.as_live(),
            _ => {}
        }
        for _ in 0..2 {
            outcomes.extend(worker.deliver(event.clone()).await.outcome);
        }
        if part == 1 {
            assert_eq!(worker.suppressed(), 1);
        }
    }
    let (once, again) = (Outcome::Ack, Outcome::Duplicate);
    let each = [&once, &again, &once, &again, &once, &again, &again, &again];
    assert_eq!(Vec::from_iter(&outcomes), each);
    assert_eq!(noted.all(), ["1 false", "2 true", "3 true"]);
    let counts: Vec<i64> = worker
        .published::<Counted>()
        .await
        .iter()
        .map(|it| it.count)
        .collect();
    assert_eq!(counts, [1, 3]);
}

#[tokio::test]
async fn shadows_and_skips_act_as_in_a_worker() {
    async fn shadow(user: User, cx: Context<Noted>) -> Result<(), Failure> {
        cx.state().note(format!("shadow of {}", user.id));
        Ok(())
    }
    let subscriber = EventSubscriber::durable("s")
        .on(note_id)
        .skip_on_replay()
        .shadow("v2", |handlers| handlers.on(shadow));
    let noted = Noted::default();
    let mut worker = TestWorker::new(subscriber, noted.clone());
    worker.as_replay();
    let skipped = worker.deliver(&User::new("a")).await;
    assert_eq!((skipped.outcome, noted.len()), (Some(Outcome::Ack), 0));
    let id = worker.as_shadow("v2");
    worker.deliver(&User::new("b")).await;
    worker.as_live();
    worker.deliver(&User::new("c")).await;
    assert_eq!(noted.all(), ["shadow of b", "c"]);
    let cx = TestContext::new(()).as_replay().build();
    assert!(cx.replay_id().is_some_and(|other| other != id));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shadow_without_a_handler_is_refused() {
    let world = World::<sqlx::Sqlite>::start().await;
    let of = |name: &str| {
        EventSubscriber::durable("s")
            .on(note_id)
            .shadow(name, |s| s.on(note_id))
    };
    let refused = [
        of(""),
        of("V 2"),
        of("v2").shadow("v2", |s| s.on(note_id)),
        of("v2").shadow("v3", |s| s),
        of("v2").shadow("v3", |s| s.on(note_id).shadow("v4", |s| s.on(note_id))),
    ];
    for subscriber in refused {
        let worker = tidings::Worker::new(world.bus.clone(), Noted::default());
        let error = worker
            .subscribe(subscriber)
            .run(std::future::ready(()))
            .await
            .unwrap_err();
        let is_it = |error: &tidings::worker::WorkerError| {
            matches!(
                error,
                tidings::worker::WorkerError::Subscriber(SubscriberError::Shadow { .. })
            )
        };
        assert!(is_it(&error), "{error}");
    }
    let twice = of("v2").shadow("v3", |s| s.on(note_id).on(note_id));
    let worker = tidings::Worker::new(world.bus.clone(), Noted::default());
    let error = worker
        .subscribe(twice)
        .run(std::future::ready(()))
        .await
        .unwrap_err();
    assert!(
        error.to_string().contains("two handlers for user.created"),
        "{error}"
    );
}
