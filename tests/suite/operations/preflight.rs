//! P9: dangerous settings of streams, database, relay and subscribers are found before they do harm, by the doctor and at
//! a start; what cannot work ends the start, unless it is forced or allowed.

use std::time::Duration;

use serde_json::json;
use sqlx::{
    Postgres,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use tidings::{
    Bus, Context, EventSubscriber, Failure, InboxTransaction, Outbox, Relay, StreamSpec, Worker,
    doctor::Doctor,
    judge::{Finding, Health, IssueKind, Verdict, is_check, judge},
    outbox::RelayError,
    worker::WorkerError,
};
use tokio_util::sync::CancellationToken;

use crate::{
    both,
    support::{Cluster, Database, Noted, Tool, User, World, eventually, log},
};

both!(
    streams_of_an_outbox_are_judged_by_the_doctor,
    a_stream_that_drops_what_was_handled_ends_a_relay,
    another_outbox_in_the_database_is_a_note,
);

/// One event was relayed: the streams of the outbox are known.
async fn relay_once<DB: Database>(world: &World<DB>) {
    let relay = world.relay();
    world.commit_all([&User::new("first")]).await;
    world.backlog_is_gone().await;
    relay.stop().await.unwrap();
}

async fn preflight<DB: Database>(world: &World<DB>) -> Verdict {
    let relay = Relay::new(world.outbox.clone());
    let doctor = Doctor::new(&world.bus).outbox(&world.outbox).relay(&relay);
    checks(judge(&doctor.preflight().look().await))
}

/// What the preflight has found.
fn checks(verdict: Verdict) -> Verdict {
    assert_eq!(verdict.unseen, []);
    verdict.retain(|finding| is_check(finding.kind))
}

fn finding<'a>(verdict: &'a Verdict, id: &str) -> &'a Finding {
    let found = verdict.findings.iter().find(|finding| finding.id == id);
    found.unwrap_or_else(|| panic!("{id} is not in {verdict:#?}"))
}

fn has(verdict: &Verdict, kind: IssueKind) -> bool {
    verdict.findings.iter().any(|finding| finding.kind == kind)
}

async fn streams_of_an_outbox_are_judged_by_the_doctor<DB: Database>(world: World<DB>) {
    relay_once(&world).await;
    let well = preflight(&world).await;
    assert!(well.status <= Health::Notice, "{well:#?}");
    for note in ["nats/no-limit/account", "nats/unsynced/account"] {
        assert_eq!(finding(&well, note).status, Health::Notice);
    }
    let tool = Tool::at(&world.nats).await;
    let risky = json!({
        "discard": "old", "duplicate_window": 30_000_000_000_u64, "max_age": 3_600_000_000_000_u64
    });
    tool.change_stream("EVENTS", &risky).await;
    let limited = json!({ "max_msgs": 1000 });
    tool.change_stream("RETRIES", &limited).await;
    let day = json!({ "max_age": 86_400_000_000_000_u64 });
    tool.change_stream("DEAD_LETTERS", &day).await;
    let verdict = preflight(&world).await;
    for (id, cause, cure) in [
        (
            "nats/discard-old/EVENTS",
            "drops its oldest",
            "streams apply",
        ),
        (
            "nats/window/EVENTS",
            "duplicate_window of EVENTS is 30s",
            "60s",
        ),
        (
            "nats/keeps-less/EVENTS",
            "max_age of EVENTS",
            "relay.retention",
        ),
        ("nats/keeps-less/DEAD_LETTERS", "holiday", "7 days"),
        (
            "nats/retries-limited/RETRIES",
            "max_msgs is 1000",
            "--max-msgs=-1",
        ),
    ] {
        let found = finding(&verdict, id);
        assert_eq!(found.status, Health::Danger, "{found:?}");
        assert!(found.cause.contains(cause), "{found:?}");
        assert!(found.cure.contains(cure), "{found:?}");
    }
    assert_eq!(verdict.exit, 1);
    // A frozen relay may send its last message again.
    let short = json!({ "duplicate_window": 2_000_000_000_u64 });
    tool.change_stream("EVENTS", &short).await;
    let verdict = preflight(&world).await;
    assert_eq!(
        finding(&verdict, "nats/window/EVENTS").status,
        Health::Refused
    );
}

async fn a_stream_that_drops_what_was_handled_ends_a_relay<DB: Database>(world: World<DB>) {
    relay_once(&world).await;
    let tool = Tool::at(&world.nats).await;
    let interest = json!({ "retention": "interest" });
    tool.change_stream("EVENTS", &interest).await;
    let verdict = preflight(&world).await;
    let found = finding(&verdict, "nats/retention-policy/EVENTS");
    assert_eq!((found.status, verdict.exit), (Health::Refused, 2));
    let stop = CancellationToken::new();
    let running = world.new_relay().run(world.bus.clone(), stop.clone());
    let Err(RelayError::Refused(refusal)) = running.await else {
        panic!("it runs")
    };
    assert_eq!(refusal.kind, IssueKind::RetentionPolicy);
    assert!(refusal.cause.contains("retention of EVENTS is interest"));
    assert!(refusal.cure.contains("tidings streams apply"));
    // Its lease is released.
    let status = world.outbox.status().await.unwrap();
    assert_eq!(status.lease.owner, None);
    let kind = [IssueKind::RetentionPolicy];
    for relay in [world.new_relay().force(), world.new_relay().allow(kind)] {
        let relay = world.run_relay(relay);
        world.commit_all([&User::new("next")]).await;
        world.backlog_is_gone().await;
        relay.stop().await.unwrap();
    }
}

async fn another_outbox_in_the_database_is_a_note<DB: Database>(world: World<DB>) {
    let other = world.outbox.clone().in_schema("shop").unwrap();
    other.migrate().await.unwrap();
    assert!(!has(&preflight(&world).await, IssueKind::TwoOutboxes));
    let relay = world.run_relay(Relay::new(other));
    eventually("the other one is found", || async {
        has(&preflight(&world).await, IssueKind::TwoOutboxes)
    })
    .await;
    let verdict = preflight(&world).await;
    let found = finding(&verdict, "outbox/two-outboxes/tidings");
    assert!(found.cause.contains("another outbox, shop"), "{found:?}");
    assert_eq!(found.status, Health::Notice);
    relay.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_copy_in_a_cluster_is_a_danger() {
    let cluster = Cluster::start().await;
    let bus = cluster.bus().await;
    cluster.apply(&bus, Duration::from_secs(120)).await;
    for stream in StreamSpec::internal() {
        bus.apply_stream(&stream).await.unwrap();
    }
    let looked = judge(&Doctor::new(&bus).preflight().look().await);
    for stream in ["DEAD_LETTERS", "RETRIES"] {
        let found = finding(&looked, &format!("nats/one-copy/{stream}"));
        assert_eq!(found.status, Health::Danger);
        assert!(found.cause.contains("in the cluster tidings"), "{found:?}");
        let command = format!("nats stream edit {stream} --replicas=3");
        assert_eq!(found.command.as_deref(), Some(&*command));
    }
    let allowed = Doctor::new(&bus).preflight().allow([IssueKind::OneCopy]);
    assert!(!has(&judge(&allowed.look().await), IssueKind::OneCopy));
    for mut stream in StreamSpec::internal() {
        stream.replicas = 3;
        bus.apply_stream(&stream).await.unwrap();
    }
    let looked = judge(&Doctor::new(&bus).preflight().look().await);
    assert!(!has(&looked, IssueKind::OneCopy), "{looked:#?}");
}

/// The outbox, used by a role.
async fn as_role(world: &World<Postgres>, role: &str) -> Outbox<Postgres> {
    let options: PgConnectOptions = (*world.outbox.pool().connect_options()).clone();
    let pool = PgPoolOptions::new().max_connections(5);
    let options = options.options([("role", role)]);
    Outbox::new(pool.connect_with(options).await.unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_role_without_its_rights_is_named_with_its_grants() {
    log::listen();
    let world = World::<Postgres>::start().await;
    let granted = "create role pre_full; create role pre_free; create role pre_none;
        grant usage on schema tidings to pre_full, pre_free, pre_none;
        grant select, insert, update, delete, truncate on all tables in schema tidings to pre_full;
        grant select, insert, update, delete on all tables in schema tidings to pre_free;
        grant usage on sequence tidings.outbox_id to pre_full, pre_free;
        grant select on all tables in schema tidings to pre_none";
    Postgres::execute(world.outbox.pool(), granted).await;
    let look = async |role: &str| {
        let outbox = as_role(&world, role).await;
        let doctor = Doctor::new(&world.bus).outbox(&outbox).preflight();
        judge(&doctor.look().await)
    };
    let full = look("pre_full").await;
    let rights = [IssueKind::DeniedDatabase, IssueKind::Superuser];
    assert!(rights.iter().all(|kind| !has(&full, *kind)), "{full:#?}");
    let free = look("pre_free").await;
    let found = finding(&free, "outbox/denied-database/tidings");
    assert_eq!(found.status, Health::Danger);
    assert!(
        found
            .cause
            .contains("pre_free lacks truncate on ledger_*, truncate on outbox_*")
    );
    assert!(
        found
            .cure
            .contains("truncate on all tables in schema tidings to pre_free")
    );
    // A role that only reads the status is not one of a relay.
    assert!(!has(&look("pre_none").await, IssueKind::DeniedDatabase));
    let owner = judge(
        &Doctor::new(&world.bus)
            .outbox(&world.outbox)
            .preflight()
            .look()
            .await,
    );
    assert_eq!(
        finding(&owner, "outbox/superuser/tidings").status,
        Health::Notice
    );

    let relay = Relay::new(as_role(&world, "pre_none").await);
    let running = relay.run(world.bus.clone(), CancellationToken::new());
    let Err(RelayError::Refused(refusal)) = running.await else {
        panic!("it runs")
    };
    assert_eq!(refusal.kind, IssueKind::DeniedDatabase);
    assert!(refusal.cause.contains("update on relay"), "{refusal:?}");
    let relay = world.run_relay(Relay::new(as_role(&world, "pre_free").await));
    eventually("the log names the right", || async {
        let said = log::said("preflight danger");
        said.iter().any(|line| line.contains("pre_free"))
    })
    .await;
    relay.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_only_database_is_named_without_a_relay() {
    let world = World::<Postgres>::start().await;
    let name = Postgres::word(world.outbox.pool(), "select current_database()::text").await;
    let set = format!("alter database {name} set default_transaction_read_only = on");
    Postgres::execute(world.outbox.pool(), &set).await;
    // The setting is that of new connections.
    let pool = PgPoolOptions::new();
    let options = (*world.outbox.pool().connect_options()).clone();
    let outbox = Outbox::new(pool.connect_with(options).await.unwrap());
    let doctor = Doctor::new(&world.bus).outbox(&outbox).preflight();
    let verdict = judge(&doctor.look().await);
    let found = finding(&verdict, "outbox/database-read-only/tidings");
    assert_eq!((found.status, verdict.exit), (Health::Refused, 2));
    assert!(
        found.cure.contains("default_transaction_read_only"),
        "{found:?}"
    );
}

async fn count(_: User, _: InboxTransaction<Postgres>, _: Context<()>) -> Result<(), Failure> {
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pool_smaller_than_its_handlers_is_a_warning() {
    log::listen();
    let world = World::<Postgres>::start().await;
    let subscriber = EventSubscriber::durable("small-pool").concurrency(40);
    let worker = Worker::new(world.bus.clone(), ())
        .subscribe(subscriber.on_transactional(&world.outbox, count));
    let running = world.run(worker);
    eventually("the log names the pool", || async {
        let said = log::said("preflight danger");
        let named = |line: &String| {
            ["small-pool", "40 connections", "42 connections"]
                .iter()
                .all(|part| line.contains(part))
        };
        said.iter().any(named)
    })
    .await;
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_check_that_is_allowed_is_not_logged() {
    log::listen();
    let world = World::<Postgres>::start().await;
    let subscriber = EventSubscriber::durable("allowed-pool").concurrency(40);
    let worker = Worker::new(world.bus.clone(), ())
        .subscribe(subscriber.on_transactional(&world.outbox, count))
        .allow([IssueKind::Pool]);
    let tool = Tool::at(&world.nats).await;
    let old = json!({ "discard": "old" });
    tool.change_stream("EVENTS", &old).await;
    let running = world.run(worker);
    eventually("the other check is logged", || async {
        let said = log::said("preflight danger");
        said.iter().any(|line| line.contains("discard-old"))
    })
    .await;
    let said = log::said("preflight danger");
    assert!(said.iter().all(|line| !line.contains("allowed-pool")));
    running.stop().await.unwrap();
}

async fn note(user: User, cx: Context<Noted>) -> Result<(), Failure> {
    cx.state().note(user.id);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_of_its_own_that_is_a_work_queue_is_no_refusal() {
    // No outbox feeds it, and one subscriber takes its events.
    let world = World::<sqlx::Sqlite>::start().await;
    let tool = Tool::at(&world.nats).await;
    let interest = json!({ "retention": "interest" });
    tool.change_stream("EVENTS", &interest).await;
    let noted = Noted::default();
    let subscriber = EventSubscriber::durable("queue").on(note);
    let worker = Worker::new(world.bus.clone(), noted.clone()).subscribe(subscriber);
    let running = world.run(worker);
    eventually("the doctor names it", || async {
        let verdict = judge(&Doctor::new(&world.bus).preflight().look().await);
        has(&verdict, IssueKind::RetentionPolicy)
    })
    .await;
    world.publish_users(&["a"]).await;
    noted.reach(1).await;
    let ended: Result<(), WorkerError> = running.stop().await;
    ended.unwrap();
}

#[tokio::test]
async fn a_bus_that_is_gone_is_unseen_and_not_well() {
    let world = World::<sqlx::Sqlite>::start().await;
    let bus = Bus::connect(world.nats.url()).await.unwrap();
    world.nats.kill().unwrap();
    let verdict = judge(&Doctor::new(&bus).preflight().look().await);
    assert_ne!(verdict.exit, 0);
    let unseen = verdict.unseen.iter();
    let mut settings = unseen.filter(|one| one.what.starts_with("the settings of"));
    assert!(settings.next().is_some(), "{verdict:#?}");
}
