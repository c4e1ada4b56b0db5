//! P5: the effect of a handler in the inbox's transaction happens once, however often the event is delivered.

use std::{
    any::Any,
    sync::{Arc, Mutex},
    time::Duration,
};

use sqlx::{Pool, Postgres};
use tidings::{Context, EventSubscriber, Failure, InboxTransaction, Retry, Worker};
use tokio::sync::Semaphore;
use uuid::{Timestamp, Uuid};

use crate::{
    both,
    support::{Counted, Database, Noted, User, World, deliver, eventually, log},
};

pub const DAY: i64 = 86_400;

pub fn now() -> i64 {
    chrono::Utc::now().timestamp()
}

/// An id with this time.
pub fn made_at(seconds: i64) -> Uuid {
    Uuid::new_v7(Timestamp::from_unix_time(seconds.unsigned_abs(), 0, 0, 0))
}

/// The state of the handlers.
#[derive(Clone, Default)]
pub struct App {
    pub noted: Noted,
    /// When set, a handler waits for a permit.
    gate: Option<Arc<Semaphore>>,
    /// A handler may leave its transaction here.
    leaked: Arc<Mutex<Option<Box<dyn Any + Send>>>>,
}

/// Counts the user up, records the call, and then ends as the user's id determines.
async fn count<DB: Database>(
    user: User,
    mut tx: InboxTransaction<DB>,
    cx: Context<App>,
) -> Result<(), Failure> {
    let count = DB::count_up(&mut tx, &user.id).await?;
    tx.publish(&Counted {
        key: user.id.clone(),
        count,
    })?;
    cx.state()
        .noted
        .note(format!("{} {}", user.id, cx.attempt()));
    let first = cx.attempt() == 1;
    match &*user.id {
        "rejected" => return Err(Failure::reject("no")),
        "failing" if first => return Err(Failure::retry("not yet")),
        "panicking" if first => panic!("on purpose"),
        "slow" if first => std::future::pending().await,
        "leaking" if first => *cx.state().leaked.lock().unwrap() = Some(Box::new(tx)),
        _ => {}
    }
    if let Some(gate) = &cx.state().gate {
        gate.acquire().await?.forget();
    }
    Ok(())
}

fn subscriber<DB: Database>(world: &World<DB>) -> EventSubscriber<App> {
    let retry = Retry::exponential(Duration::from_millis(20), Duration::from_millis(80));
    EventSubscriber::durable("counter")
        .on_transactional(&world.outbox, count::<DB>)
        .retry(retry.attempts(4))
}

pub fn worker<DB: Database>(world: &World<DB>, app: &App) -> Worker<App> {
    Worker::new(world.bus.clone(), app.clone()).subscribe(subscriber(world))
}

both!(
    an_event_at_another_position_is_acked_without_a_call,
    effect_inbox_row_and_follow_up_commit_together_or_not,
    a_rejected_event_leaves_no_inbox_row,
    two_instances_with_the_same_event_handle_it_once,
    a_worker_that_dies_before_its_ack_has_one_effect,
    two_subscribers_have_separate_inbox_rows,
    a_foreign_event_is_remembered_by_its_stream_position,
    a_database_that_is_not_migrated_costs_no_attempt,
);

async fn an_event_at_another_position_is_acked_without_a_call<DB: Database>(world: World<DB>) {
    let app = App::default();
    let running = world.run(worker(&world, &app));
    let (id, first) = (Uuid::now_v7(), made_at(now() - 12 * DAY));
    for _ in 0..3 {
        deliver(&world.nats.url(), id, "ada").await;
        deliver(&world.nats.url(), first, "bob").await;
    }
    world.is_handled(6).await;
    running.stop().await.unwrap();
    assert_eq!(app.noted.len(), 2, "{:?}", app.noted.all());
    assert_eq!(
        (world.counted("ada").await, world.counted("bob").await),
        (1, 1)
    );
    assert_eq!(
        (world.followed("ada").await, world.remembered().await),
        (1, 2)
    );
    assert_eq!(world.dead_letters().await.len(), 0);
}

async fn effect_inbox_row_and_follow_up_commit_together_or_not<DB: Database>(world: World<DB>) {
    log::listen();
    let app = App::default();
    let subscriber = subscriber(&world).timeout(Duration::from_millis(500));
    let worker = Worker::new(world.bus.clone(), app.clone()).subscribe(subscriber);
    let running = world.run(worker);
    let users = ["failing", "panicking", "slow", "leaking"];
    for user in users {
        deliver(&world.nats.url(), Uuid::now_v7(), user).await;
        if user == "leaking" {
            eventually("the failure is told", || async {
                !log::said("while its transaction was still in use").is_empty()
            })
            .await;
            assert_eq!(world.remembered().await, 3);
            *app.leaked.lock().unwrap() = None;
        }
        eventually("it is done", || async { world.counted(user).await == 1 }).await;
    }
    world.is_handled(4).await;
    running.stop().await.unwrap();
    for user in users {
        assert_eq!(world.followed(user).await, 1, "{user}");
        let all = app.noted.all();
        let attempts = all.iter().filter(|note| note.starts_with(user));
        assert_eq!(attempts.count(), 2, "{user}");
    }
    assert_eq!(world.remembered().await, 4);
    assert_eq!(world.dead_letters().await.len(), 0);
}

async fn a_rejected_event_leaves_no_inbox_row<DB: Database>(world: World<DB>) {
    let running = world.run(worker(&world, &App::default()));
    deliver(&world.nats.url(), Uuid::now_v7(), "rejected").await;
    eventually("it is dead", || async {
        world.dead_letters().await.len() == 1
    })
    .await;
    running.stop().await.unwrap();
    assert_eq!(
        (world.remembered().await, world.followed("rejected").await),
        (0, 0)
    );
}

async fn two_instances_with_the_same_event_handle_it_once<DB: Database>(world: World<DB>) {
    let gate = Arc::new(Semaphore::new(0));
    let app = App {
        gate: Some(Arc::clone(&gate)),
        ..App::default()
    };
    let instances = [0; 2].map(|_| world.run(worker(&world, &app)));
    let id = Uuid::now_v7();
    for _ in 0..4 {
        deliver(&world.nats.url(), id, "ada").await;
    }
    app.noted.reach(1).await;
    // The other deliveries are in flight, or wait for the first.
    gate.add_permits(4);
    world.is_handled(4).await;
    for instance in instances {
        instance.stop().await.unwrap();
    }
    assert_eq!((app.noted.len(), world.counted("ada").await), (1, 1));
}

async fn a_worker_that_dies_before_its_ack_has_one_effect<DB: Database>(world: World<DB>) {
    let gate = Arc::new(Semaphore::new(0));
    let app = App {
        gate: Some(Arc::clone(&gate)),
        ..App::default()
    };
    let first = world.run(worker(&world, &app));
    deliver(&world.nats.url(), Uuid::now_v7(), "ada").await;
    app.noted.reach(1).await;
    first.kill().await;
    assert_eq!(world.remembered().await, 0, "nothing was committed");
    // The commit succeeds, and no ack arrives.
    let second = world.run(worker(&world, &app));
    gate.add_permits(9);
    deliver(&world.nats.url(), Uuid::now_v7(), "bob").await;
    eventually("both have their effect", || async {
        world.counted("ada").await == 1 && world.counted("bob").await == 1
    })
    .await;
    world.is_handled(2).await;
    second.stop().await.unwrap();
    assert_eq!(
        (world.counted("ada").await, world.followed("ada").await),
        (1, 1)
    );
}

async fn two_subscribers_have_separate_inbox_rows<DB: Database>(world: World<DB>) {
    let app = App::default();
    let other = EventSubscriber::durable("other").on_transactional(&world.outbox, count::<DB>);
    let running = world.run(worker(&world, &app).subscribe(other));
    deliver(&world.nats.url(), Uuid::now_v7(), "ada").await;
    eventually("both count", || async { world.counted("ada").await == 2 }).await;
    running.stop().await.unwrap();
    assert_eq!(world.remembered().await, 2);
}

async fn a_foreign_event_is_remembered_by_its_stream_position<DB: Database>(world: World<DB>) {
    let app = App::default();
    let running = world.run(worker(&world, &app));
    let context = async_nats::jetstream::new(async_nats::connect(world.nats.url()).await.unwrap());
    let payload = serde_json::to_vec(&User::new("failing")).unwrap();
    let stored = context.publish("user.created", payload.into());
    stored.await.unwrap().await.unwrap();
    eventually("it is done", || async {
        world.counted("failing").await == 1
    })
    .await;
    running.stop().await.unwrap();
    assert_eq!((app.noted.len(), world.remembered().await), (2, 1));
}

async fn a_database_that_is_not_migrated_costs_no_attempt<DB: Database>(world: World<DB>) {
    log::listen();
    let (ring, hidden) = (DB::table("inbox_ring"), "ring_that_is_hidden");
    let pool = world.outbox.pool();
    let schema = if ring.contains('.') { "tidings." } else { "" };
    let hide = match schema {
        "" => format!("create table {hidden} as select * from {ring}; delete from {ring}"),
        _ => format!("alter table {ring} rename to {hidden}"),
    };
    DB::execute(pool, &hide).await;
    let app = App::default();
    let running = world.run(worker(&world, &app));
    deliver(&world.nats.url(), Uuid::now_v7(), "ada").await;
    eventually("it was tried more often than it has attempts", || async {
        log::said("delivery deferred").len() > 4
    })
    .await;
    let show = match schema {
        "" => format!("insert into {ring} select * from {hidden}"),
        _ => format!("alter table {schema}{hidden} rename to inbox_ring"),
    };
    DB::execute(pool, &show).await;
    eventually("it is done", || async { world.counted("ada").await == 1 }).await;
    running.stop().await.unwrap();
    assert_eq!(app.noted.all(), ["ada 1"]);
    assert_eq!(world.dead_letters().await.len(), 0);
}

/// A statement failed, the handler ignored it, and Postgres answers its COMMIT without an error.
#[tokio::test(flavor = "multi_thread")]
async fn a_handler_that_hides_the_error_of_a_statement_has_failed() {
    async fn hide(
        user: User,
        mut tx: InboxTransaction<Postgres>,
        cx: Context<Noted>,
    ) -> Result<(), Failure> {
        cx.state().note(&user.id);
        Postgres::count_up(&mut tx, &user.id).await?;
        if cx.attempt() == 1 {
            let _ = sqlx::query("select 1 / 0").execute(&mut *tx).await;
        }
        Ok(())
    }
    let world = World::<Postgres>::start().await;
    let noted = Noted::default();
    let retry = Retry::exponential(Duration::from_millis(20), Duration::from_millis(80));
    let subscriber = EventSubscriber::durable("counter")
        .on_transactional(&world.outbox, hide)
        .retry(retry);
    let running = world.run(Worker::new(world.bus.clone(), noted.clone()).subscribe(subscriber));
    deliver(&world.nats.url(), Uuid::now_v7(), "ada").await;
    world.is_handled(1).await;
    running.stop().await.unwrap();
    assert_eq!(noted.len(), 2);
    assert_eq!(
        (world.counted("ada").await, world.remembered().await),
        (1, 1)
    );
}

/// The connection is lost while the handler uses it: this is not a failure of the handler.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_lost_under_a_handler_costs_no_attempt() {
    async fn cut(
        user: User,
        mut tx: InboxTransaction<Postgres>,
        cx: Context<Noted>,
    ) -> Result<(), Failure> {
        cx.state().note(format!("{} {}", user.id, cx.attempt()));
        if cx.state().len() < 4 {
            sqlx::query("select pg_terminate_backend(pg_backend_pid())")
                .execute(&mut *tx)
                .await?;
        }
        Postgres::count_up(&mut tx, &user.id).await?;
        Ok(())
    }
    let world = World::<Postgres>::start().await;
    let noted = Noted::default();
    let retry = Retry::never();
    let subscriber = EventSubscriber::durable("counter")
        .on_transactional(&world.outbox, cut)
        .retry(retry);
    let running = world.run(Worker::new(world.bus.clone(), noted.clone()).subscribe(subscriber));
    deliver(&world.nats.url(), Uuid::now_v7(), "ada").await;
    eventually("it is done", || async { world.counted("ada").await == 1 }).await;
    running.stop().await.unwrap();
    assert_eq!(noted.all(), ["ada 1"; 4]);
    assert_eq!(
        (world.counted("ada").await, world.dead_letters().await.len()),
        (1, 0)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn through_pgbouncer_an_effect_happens_once() {
    let Some((world, pgbouncer)) = World::behind_pgbouncer().await else {
        return;
    };
    let app = App::default();
    let running = world.run(worker(&world, &app));
    for nth in 0..20 {
        let id = Uuid::now_v7();
        for _ in 0..3 {
            deliver(&world.nats.url(), id, &format!("user-{}", nth % 4)).await;
        }
    }
    world.is_handled(60).await;
    running.stop().await.unwrap();
    let pool = Pool::connect(&pgbouncer.postgres.url_of("pooled"))
        .await
        .unwrap();
    let counted = "select count(*) from counter where count = 5";
    assert_eq!(Postgres::number(&pool, counted).await, 4);
    assert_eq!(
        Postgres::number(&pool, "select count(*) from tidings.inbox").await,
        20
    );
}
