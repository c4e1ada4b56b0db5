//! Settings of a relay that change while it runs.

use std::time::Duration;

use sqlx::{Postgres, Sqlite};
use tidings::{
    Envelope, Worker,
    judge::{Health, IssueKind, judge},
    outbox::RelayInstance,
    worker::{AdjustError, Adjustment},
};

use crate::{
    both,
    support::{Database, User, World, eventually, log},
};

both!(
    batch_and_lease_change_at_once,
    a_bad_configuration_is_an_issue_and_stops_nothing,
);

fn users(count: usize) -> impl Iterator<Item = Envelope> {
    let user = |n| Envelope::of(&User::new(&format!("user-{n}"))).unwrap();
    (0..count).map(user)
}

async fn shown<DB: Database>(world: &World<DB>) -> RelayInstance {
    let relays = world.outbox.relays(&world.bus).await.unwrap();
    relays.into_iter().next().expect("a relay answers")
}

async fn batch_and_lease_change_at_once<DB: Database>(world: World<DB>) {
    let worker = Worker::new(world.bus.clone(), ()).with(world.new_relay());
    let handle = worker.handle();
    let running = world.run(worker);
    world.commit_all(users(50)).await;
    world.backlog_is_gone().await;
    let before = world.outbox.status().await.unwrap();
    assert_eq!(before.last_batch.as_ref().map(|last| last.events), Some(50));

    let to = Adjustment::relay().batch(10).lease(Duration::from_secs(2));
    handle.adjust(to).unwrap();
    eventually("the lease is taken anew", || async {
        let status = world.outbox.status().await.unwrap();
        status.lease.epoch > before.lease.epoch
    })
    .await;
    world.commit_all(users(50)).await;
    world.backlog_is_gone().await;
    let after = world.outbox.status().await.unwrap();
    assert_eq!(after.lease.epoch, before.lease.epoch + 1, "once");
    assert!((after.lease.lasts_seconds - 2.0).abs() < 0.01, "{after:?}");
    assert!(after.last_batch.is_some_and(|last| last.events <= 10));
    let settings = shown(&world).await.settings.unwrap();
    assert_eq!((settings.batch, settings.lease_ms), (10, 2000));

    let other = Adjustment::relay().of_outbox("other").batch(1);
    let refused = handle.adjust(other);
    assert_eq!(refused, Err(AdjustError::NoRelay(Some("other".to_owned()))));
    running.stop().await.unwrap();
    assert_eq!(world.stored().await.len(), 100);
}

async fn a_bad_configuration_is_an_issue_and_stops_nothing<DB: Database>(world: World<DB>) {
    let relay = world.new_relay();
    let handle = relay.handle();
    let running = world.run_relay(relay);
    world.commit_all(users(1)).await;
    world.backlog_is_gone().await;

    handle.configuration_issue(Some("line 2 is wrong"));
    eventually("the status tells it", || async {
        let status = world.outbox.status().await.unwrap();
        assert!(status.stuck().is_empty(), "{status:?}");
        let mut issues = status.issues.iter();
        issues.any(|it| it.kind == IssueKind::Configuration && it.cause == "line 2 is wrong")
    })
    .await;
    let doctor = tidings::doctor::Doctor::new(&world.bus).outbox(&world.outbox);
    let verdict = judge(&doctor.look().await);
    let mut findings = verdict.findings.iter();
    let finding = findings.find(|it| it.kind == IssueKind::Configuration);
    let finding = finding.expect("a finding");
    assert_eq!(finding.status, Health::Degraded);
    assert_eq!(finding.cause, "line 2 is wrong");
    world.commit_all(users(2)).await;
    world.backlog_is_gone().await;
    let issues = shown(&world).await.issues;
    assert_eq!(issues.len(), 1, "events that are confirmed do not end it");

    handle.configuration_issue(None);
    eventually("it is over", || async {
        world.outbox.status().await.unwrap().issues.is_empty()
    })
    .await;
    assert_eq!(shown(&world).await.issues, []);
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shorter_retention_frees_rows_at_once() {
    log::listen();
    let world = World::<Sqlite>::start().await;
    let relay = world.new_relay();
    let handle = relay.handle();
    let running = world.run_relay(relay);
    world.commit_all(users(20)).await;
    world.backlog_is_gone().await;
    // real time: the janitor looks three times in the first seconds of a tenure, and then every five minutes
    tokio::time::sleep(Duration::from_secs(4)).await;
    let rows = format!("select count(*) from {}", Sqlite::table("outbox"));
    let rows = async || Sqlite::number(world.outbox.pool(), &rows).await;
    assert_eq!(rows().await, 20);
    let epoch = world.outbox.status().await.unwrap().lease.epoch;
    handle
        .adjust(&Adjustment::relay().retention(Duration::ZERO))
        .unwrap();
    eventually("they are freed", || async { rows().await == 0 }).await;
    running.stop().await.unwrap();
    let status = world.outbox.status().await.unwrap();
    assert_eq!(status.lease.epoch, epoch, "the lease stays");
    let said = log::said("setting=\"retention\" old=\"64800s\" new=\"0ns\"");
    assert_eq!(said.len(), 1, "{said:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shorter_stall_timeout_parks_waiting_events() {
    let world = World::<Postgres>::start().await;
    let _jetstream = world.full_stream().await;
    let relay = world.new_relay().stall_timeout(Duration::from_secs(3600));
    let handle = relay.handle();
    let running = world.run_relay(relay);
    world.commit_all(users(1)).await;
    world.backlog_is_gone().await;
    let full = Envelope::raw("full.up", 1, Some("a"), "1".to_owned());
    world.commit_all([full.unwrap()]).await;
    eventually("the issue is told", || async {
        let issues = world.outbox.status().await.unwrap().issues;
        issues.iter().any(|issue| issue.place == "stream FULL")
    })
    .await;
    assert_eq!(world.parked().await, 0);
    let to = Adjustment::relay().stall_timeout(Duration::from_millis(1));
    handle.adjust(&to).unwrap();
    eventually("it is parked", || async { world.parked().await == 1 }).await;
    running.stop().await.unwrap();
}
