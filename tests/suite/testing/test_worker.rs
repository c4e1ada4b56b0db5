//! The test kit: what a worker would do, without a server.

use std::{
    panic::AssertUnwindSafe,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::FutureExt;
use sqlx::Sqlite;
use tidings::{
    CircuitBreaker, Context, Envelope, EventId, EventSubscriber, Failure, InboxTransaction, Outbox,
    Rate, Retry,
    handler::{Cause, Outcome},
    testing::{TestContext, TestWorker, assert_idempotent, published},
};

use crate::support::{Counted, Noted, User};

/// The state of the handlers.
#[derive(Clone, Default)]
struct App {
    noted: Noted,
    outbox: Option<Outbox<Sqlite>>,
}

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);

/// Records the call, and ends as the user's id determines.
async fn handle(user: User, cx: Context<App>) -> Result<(), Failure> {
    cx.state()
        .noted
        .note(format!("{} {}", user.id, cx.attempt()));
    let first = cx.attempt() == 1;
    match &*user.id {
        "rejected" => Err(Failure::reject("never")),
        "failing" => Err(Failure::retry("always")),
        "throttled" if first => Err(Failure::retry_after(HOUR, "later")),
        "twice" if first => Err(Failure::retry("once")),
        "panicking" if first => panic!("on purpose"),
        "slow" => std::future::pending().await,
        _ => Ok(()),
    }
}

fn subscriber() -> EventSubscriber<App> {
    EventSubscriber::durable("kit").on(handle)
}

fn worker() -> TestWorker<App> {
    TestWorker::new(subscriber(), App::default())
}

/// Counts the user up in the transaction, and records it outside the transaction if asked to.
async fn count(
    user: User,
    mut tx: InboxTransaction<Sqlite>,
    cx: Context<App>,
) -> Result<(), Failure> {
    let count = sqlx::query_scalar(
        "insert into counter (key, count) values (?, 1)
         on conflict (key) do update set count = count + 1 returning count",
    )
    .bind(&user.id)
    .fetch_one(&mut *tx)
    .await?;
    tx.publish(&Counted {
        key: user.id.clone(),
        count,
    })?;
    match &*user.id {
        "noisy" => cx.state().noted.note("once more".to_owned()),
        "failing" => return Err(Failure::reject("no")),
        _ => {}
    }
    Ok(())
}

async fn counting() -> TestWorker<App> {
    let outbox = Outbox::temporary().await.unwrap();
    let table = "create table counter (key text primary key, count integer)";
    sqlx::raw_sql(table).execute(outbox.pool()).await.unwrap();
    let app = App {
        outbox: Some(outbox.clone()),
        ..App::default()
    };
    TestWorker::new(
        EventSubscriber::durable("kit").on_transactional(&outbox, count),
        app,
    )
}

async fn counted(worker: Arc<TestWorker<App>>) -> i64 {
    sum(worker.state()).await
}

async fn sum(app: &App) -> i64 {
    let sum = sqlx::query_scalar("select coalesce(sum(count), 0) from counter");
    let pool = app.outbox.as_ref().unwrap().pool();
    sum.fetch_one(pool).await.unwrap()
}

#[tokio::test]
async fn a_handler_can_be_called_with_a_context_alone() {
    let app = App::default();
    let id = EventId::now();
    let when = "2026-11-21T09:30:00Z".parse().unwrap();
    let cx = TestContext::new(app.clone())
        .event(&User::new("ada"))
        .event_id(id)
        .header("tenant", "7")
        .time(when)
        .key("bob")
        .attempt(2)
        .stored_at(when)
        .build();
    assert_eq!(
        (cx.event_id(), cx.name(), cx.attempt()),
        (id, "user.created", 2)
    );
    assert_eq!(
        (cx.key(), cx.time(), cx.stored_at()),
        (Some("bob"), Some(when), when)
    );
    assert_eq!(cx.headers().get("tenant"), Some("7"));
    handle(User::new("panicking"), cx).await.unwrap();
    assert_eq!(app.noted.all(), ["panicking 2"]);
    let failure = handle(User::new("rejected"), Context::test(app)).await;
    assert_eq!(failure.unwrap_err().to_string(), "never");
}

#[tokio::test]
async fn each_outcome_is_reported() {
    let mut worker = worker();
    let done = worker.deliver(&User::new("ada")).await;
    assert_eq!(
        (done.outcome.as_ref(), done.attempt),
        (Some(&Outcome::Ack), 1)
    );
    assert_eq!(
        (&*done.name, done.key.as_deref()),
        ("user.created", Some("ada"))
    );

    let retried = worker.deliver(&User::new("twice")).await;
    assert_eq!(retried.retried_after(), Some(SECOND));
    assert_eq!(retried.error.as_deref(), Some("once"));

    let throttled = worker.deliver(&User::new("throttled")).await;
    assert_eq!(throttled.retried_after(), Some(HOUR));

    let panicked = worker.deliver(&User::new("panicking")).await;
    assert!(panicked.error.unwrap().contains("on purpose"));

    let rejected = worker.deliver(&User::new("rejected")).await;
    let letter = rejected.dead_letter().unwrap();
    assert_eq!(
        (&letter.cause, &*letter.error, letter.attempts),
        (&Cause::Rejected, "never", 1)
    );

    let broken = Envelope::raw("user.created", 1, None, "nonsense").unwrap();
    let broken = worker.deliver(broken).await;
    assert_eq!(broken.dead_letter().unwrap().cause, Cause::Undecodable);
    let newer = worker.deliver(Envelope::raw("user.created", 9, None, "{}").unwrap());
    assert_eq!(newer.await.dead_letter().unwrap().cause, Cause::Unknown);

    let halted = worker.deliver_halted(&User::new("slow")).await;
    assert!(halted.was_handed_back() && halted.outcome.is_none());
    let unknown = worker
        .deliver(Envelope::raw("user.gone", 1, None, "{}").unwrap())
        .await;
    assert!(unknown.was_handed_back(), "no handler has this name");

    assert_eq!(worker.dead_letters().count(), 3);
    assert_eq!(worker.waiting().len(), 3);
    assert_eq!(worker.history().len(), 9);
}

#[tokio::test]
async fn a_message_of_a_foreign_publisher_is_delivered() {
    let mut worker = worker();
    let payload = serde_json::to_vec(&User::new("ada")).unwrap();
    assert!(worker.deliver_raw("user.created", payload).await.is_done());
    let broken = worker.deliver_raw("user.created", "{").await;
    assert_eq!(broken.dead_letter().unwrap().cause, Cause::Undecodable);
    assert_ne!(worker.history()[0].event_id, worker.history()[1].event_id);
}

#[tokio::test]
async fn hours_of_retries_take_no_time_and_end_as_a_dead_letter() {
    let began = Instant::now();
    let retry = Retry::exponential(60 * SECOND, 10 * HOUR).attempts(9);
    let mut worker = TestWorker::new(subscriber().retry(retry), App::default());
    assert_eq!(
        worker.deliver(&User::new("failing")).await.retried_after(),
        Some(60 * SECOND)
    );
    let attempts = worker.settle().await;
    let delays: Vec<_> = attempts
        .iter()
        .filter_map(|made| made.retried_after())
        .collect();
    assert_eq!(
        delays,
        (2..9)
            .map(|n| retry.longest(n).unwrap())
            .collect::<Vec<_>>()
    );
    let last = attempts.last().unwrap();
    assert_eq!(
        (last.attempt, &last.dead_letter().unwrap().cause),
        (9, &Cause::Exhausted)
    );
    assert_eq!(
        (last.at, worker.elapsed()),
        (255 * 60 * SECOND, 255 * 60 * SECOND)
    );
    assert!(worker.waiting().is_empty());
    assert!(began.elapsed() < 5 * SECOND, "{:?}", began.elapsed());
}

#[tokio::test]
async fn the_clock_can_be_advanced() {
    let mut worker = worker();
    worker.deliver(&User::new("throttled")).await;
    assert!(worker.advance(HOUR - SECOND).await.is_empty());
    assert_eq!(worker.waiting()[0].due_in, Some(SECOND));
    let made = worker.advance(SECOND).await;
    assert_eq!(
        (made.len(), made[0].outcome.as_ref()),
        (1, Some(&Outcome::Ack))
    );
    assert_eq!(worker.elapsed(), HOUR);
}

#[tokio::test]
async fn a_key_waits_behind_its_failing_event_and_others_do_not() {
    let retry = Retry::exponential(SECOND, HOUR).attempts(3);
    let subscriber = subscriber().ordered_by_key().retry(retry);
    let mut worker = TestWorker::new(subscriber, App::default());
    let head = User::new("failing");
    assert_eq!(worker.deliver(&head).await.retried_after(), Some(SECOND));
    let user = |id: &str| {
        let payload = serde_json::to_vec(&User::new(id)).unwrap();
        Envelope::raw("user.created", 1, Some("failing"), payload).unwrap()
    };
    for id in ["second", "third"] {
        let behind = worker.deliver(user(id)).await;
        assert_eq!((behind.outcome.clone(), behind.attempt), (None, 0));
        assert!(!behind.was_handed_back());
    }
    assert!(worker.deliver(&User::new("ada")).await.is_done());
    let waiting = worker.waiting();
    let due: Vec<_> = waiting
        .iter()
        .map(|waits| (waits.due_in, waits.failures))
        .collect();
    assert_eq!(due, [(Some(SECOND), 1), (None, 0), (None, 0)]);
    worker.settle().await;
    assert_eq!(
        worker.state().noted.all(),
        [
            "failing 1",
            "ada 1",
            "failing 2",
            "failing 3",
            "second 1",
            "third 1"
        ]
    );
    assert_eq!(worker.dead_letters().count(), 1);
}

#[tokio::test]
async fn the_inbox_finds_duplicates_and_follow_ups_can_be_read() {
    let mut worker = counting().await;
    let user = Envelope::of(&User::new("ada")).unwrap();
    let delivered = worker.deliver_times(user.clone(), 3).await;
    let outcomes: Vec<_> = delivered
        .into_iter()
        .filter_map(|made| made.outcome)
        .collect();
    assert_eq!(
        outcomes,
        [Outcome::Ack, Outcome::Duplicate, Outcome::Duplicate]
    );
    let rejected = worker.deliver(&User::new("failing")).await;
    assert!(rejected.dead_letter().is_some());
    assert_eq!(
        sum(worker.state()).await,
        1,
        "what was rejected was rolled back"
    );
    let follow_ups: Vec<Counted> = worker.published().await;
    let [Counted { key, count: 1 }] = &*follow_ups else {
        panic!("one event");
    };
    assert_eq!(key, "ada");
    let outbox = worker.state().outbox.as_ref().unwrap();
    assert_eq!(published::<Counted, _>(outbox).await.len(), 1);
    assert!(worker.published::<User>().await.is_empty());
}

#[tokio::test]
async fn a_database_without_tables_defers_and_costs_no_attempt() {
    let outbox = Outbox::open(std::env::temp_dir().join(format!("{}.db", EventId::now())));
    let outbox = outbox.await.unwrap();
    let subscriber = EventSubscriber::durable("kit").on_transactional(&outbox, count);
    let mut worker = TestWorker::new(subscriber, App::default());
    let postponed = worker.deliver(&User::new("ada")).await;
    assert!(
        matches!(postponed.outcome, Some(Outcome::Defer(_))),
        "{postponed:?}"
    );
    assert!(postponed.error.unwrap().contains("tidings migrate"));
    outbox.migrate().await.unwrap();
    sqlx::raw_sql("create table counter (key text primary key, count integer)")
        .execute(outbox.pool())
        .await
        .unwrap();
    let made = worker.settle().await;
    assert_eq!(
        (made.len(), made[0].attempt, made[0].is_done()),
        (1, 1, true)
    );
    let file = outbox.pool().connect_options().get_filename().to_owned();
    outbox.pool().close().await;
    std::fs::remove_file(file).unwrap();
}

#[tokio::test]
async fn circuit_and_rate_limit_use_the_clock_of_the_worker() {
    let began = Instant::now();
    let breaker = CircuitBreaker::default()
        .within(30 * SECOND, 2)
        .open_for(HOUR, HOUR);
    let mut worker = TestWorker::new(subscriber().circuit_breaker(breaker), App::default());
    worker.deliver(&User::new("twice")).await;
    worker.deliver(&User::new("twice")).await;
    let postponed = worker.deliver(&User::new("failing")).await;
    assert!(
        matches!(postponed.outcome, Some(Outcome::Defer(_))),
        "{postponed:?}"
    );
    assert_eq!(worker.elapsed(), HOUR, "the probe");

    let rate = Rate::per_second(1);
    let mut worker = TestWorker::new(subscriber().rate_limit(rate), App::default());
    for _ in 0..20 {
        worker.deliver(&User::new("ada")).await;
    }
    assert!(worker.elapsed() > 15 * SECOND, "{:?}", worker.elapsed());
    assert!(began.elapsed() < 5 * SECOND, "{:?}", began.elapsed());
}

/// The panic message of a check.
async fn verdict(check: impl Future<Output = ()>) -> String {
    let panic = AssertUnwindSafe(check).catch_unwind().await.unwrap_err();
    panic.downcast_ref::<String>().unwrap().clone()
}

/// Adds a row in each call: without a key.
async fn add(user: User, cx: Context<App>) -> Result<(), Failure> {
    let outbox = cx.state().outbox.as_ref().unwrap();
    let insert = "insert into counter (key, count) values (?, 1)
        on conflict (key) do update set count = count + 1";
    sqlx::query(insert)
        .bind(user.id)
        .execute(outbox.pool())
        .await?;
    Ok(())
}

/// Adds one row per event.
async fn add_by_id(_: User, cx: Context<App>) -> Result<(), Failure> {
    let outbox = cx.state().outbox.as_ref().unwrap();
    let insert = "insert into counter (key, count) values (?, 1) on conflict do nothing";
    sqlx::query(insert)
        .bind(cx.event_id().to_string())
        .execute(outbox.pool())
        .await?;
    Ok(())
}

/// Records first that the event is done, and then handles it.
async fn remember_first(user: User, cx: Context<App>) -> Result<(), Failure> {
    let noted = &cx.state().noted;
    let seen = format!("seen {}", user.id);
    if noted.all().contains(&seen) {
        return Ok(());
    }
    noted.note(seen);
    tokio::task::yield_now().await;
    noted.note(format!("done {}", user.id));
    Ok(())
}

async fn plain(handler: impl tidings::handler::Handler<User, App>) -> TestWorker<App> {
    let app = counting().await.state().clone();
    TestWorker::new(EventSubscriber::durable("kit").on(handler), app)
}

#[tokio::test]
async fn the_check_passes_idempotent_handlers() {
    let user = User::new("ada");
    assert_idempotent(&user, counting, counted).await;
    assert_idempotent(&user, async || plain(add_by_id).await, counted).await;
    assert_idempotent(&user, counting, async |worker| {
        worker.published::<Counted>().await.len()
    })
    .await;
}

/// Compiles only when the future of the check is `Send`, also with closures that borrow.
#[tokio::test]
async fn the_check_runs_in_a_spawned_task() {
    let checks = async {
        let (user, handler, most) = (User::new("ada"), Arc::new(add_by_id), 5);
        assert_idempotent(&user, counting, counted).await;
        let setup = async || plain(*Arc::clone(&handler)).await;
        let observe = async |worker| counted(worker).await.min(most);
        assert_idempotent(&user, setup, observe).await;
    };
    tokio::spawn(checks).await.unwrap();
}

#[tokio::test]
async fn the_check_finds_an_insert_without_a_key_and_names_the_cure() {
    let user = User::new("ada");
    let said = verdict(assert_idempotent(&user, async || plain(add).await, counted)).await;
    for part in [
        "test_worker::add is not idempotent",
        "between the effect and the acknowledgement",
        "`observe` returned\n  2\nwhile after one run it returned\n  1\n",
        ".on_transactional(&outbox, ...)",
        "`cx.event_id()`",
    ] {
        assert!(said.contains(part), "{part} is not in: {said}");
    }
}

#[tokio::test]
async fn the_check_finds_effects_outside_the_transaction() {
    let user = User::new("noisy");
    let check = assert_idempotent(&user, counting, async |worker| worker.state().noted.len());
    let said = verdict(check).await;
    for part in [
        "count is not idempotent",
        "such as a commit",
        "outside its transaction",
    ] {
        assert!(said.contains(part), "{part} is not in: {said}");
    }
}

#[tokio::test]
async fn the_check_finds_an_effect_lost_between_two_awaits() {
    let user = User::new("ada");
    let check = assert_idempotent(
        &user,
        async || plain(remember_first).await,
        async |worker| worker.state().noted.all(),
    );
    let said = verdict(check).await;
    assert!(said.contains("at its await number 1"), "{said}");
}

#[tokio::test]
async fn a_check_that_could_not_fail_is_an_error() {
    let user = User::new("ada");
    let blind = assert_idempotent(&user, counting, async |_| 0);
    assert!(verdict(blind).await.contains("sees no effect"));

    let kept = std::sync::Mutex::new(None);
    let keeping = async |worker| *kept.lock().unwrap() = Some(worker);
    let keeping = verdict(assert_idempotent(&user, counting, keeping)).await;
    assert!(keeping.contains("still has the worker"), "{keeping}");

    let rejected = User::new("failing");
    let failing = assert_idempotent(&rejected, counting, counted);
    assert!(verdict(failing).await.contains("succeeds at once"));

    let app = App::default();
    let shared = async || TestWorker::new(subscriber(), app.clone());
    let shared = assert_idempotent(&user, shared, async |worker| worker.state().noted.len());
    assert!(verdict(shared).await.contains("does not start afresh"));
}

#[tokio::test]
async fn a_handler_that_never_ends_is_reported() {
    let mut worker = TestWorker::new(
        subscriber().retry(Retry::exponential(SECOND, HOUR).attempts(u32::MAX)),
        App::default(),
    );
    worker.deliver(&User::new("failing")).await;
    let said = verdict(async { drop(worker.settle().await) }).await;
    assert!(said.contains("an event still waits"), "{said}");
}
