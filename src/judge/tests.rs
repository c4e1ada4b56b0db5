//! The findings of produced states, by their figures.

mod alone;

use chrono::TimeDelta;
use serde_json::json;

use super::*;
use crate::{
    operations::doctor::OutboxFigures,
    outbox::{HeldSlot, Issue, Loss, RelayInstance, Status, StreamState},
};

pub(super) fn at() -> DateTime<Utc> {
    DateTime::UNIX_EPOCH + TimeDelta::days(20_000)
}

pub(super) fn ago(seconds: i64) -> DateTime<Utc> {
    at() - TimeDelta::seconds(seconds)
}

/// The status of an outbox that is relayed, and idle.
fn relayed() -> Status {
    let mut status = Status::default();
    status.lease.owner = Some("db-2:77".to_owned());
    status.lease.epoch = 12;
    status.lease.remaining_seconds = 4.0;
    status.lease.lasts_seconds = 5.0;
    status
}

/// An outbox in which this many events wait, and no relay was ever there.
fn waiting(backlog: u64) -> Status {
    let mut status = Status::default();
    status.backlog = backlog;
    status.oldest_unpublished_seconds = Some(60.0);
    status
}

fn issue(place: &str, kind: IssueKind, since: DateTime<Utc>) -> Issue {
    Issue {
        place: place.to_owned(),
        kind,
        since,
        cause: "the cause".to_owned(),
        cure: "the cure".to_owned(),
    }
}

/// A relay that answers over NATS.
fn relay(epoch: Option<i64>, issues: Vec<Issue>) -> RelayInstance {
    let mut relay: RelayInstance = serde_json::from_value(json!({
        "outbox": "tidings", "owner": "api-7:31", "version": "0", "database": "postgres", "started_at": ago(100),
        "activity": "starting", "epoch": epoch, "confirmed_at": null, "nats": {}, "issues": [],
    }))
    .unwrap();
    relay.issues = issues;
    relay
}

fn outbox(status: Option<Status>, relays: Vec<RelayInstance>) -> Figures {
    Figures {
        at: at(),
        schema: "tidings".to_owned(),
        outbox: Some(OutboxFigures {
            schema: "tidings".to_owned(),
            status,
            relays,
        }),
        ..Figures::default()
    }
}

/// The ids of the findings with the status of each, and the exit code.
pub(super) fn told(figures: &Figures) -> (Vec<(String, Health)>, u8) {
    let verdict = judge(figures);
    for finding in &verdict.findings {
        assert!(!finding.cause.is_empty() && !finding.cure.is_empty());
        assert_ne!(finding.kind, IssueKind::Unknown, "{finding:?}");
    }
    let findings = verdict.findings.into_iter();
    let findings = findings.map(|finding| (finding.id, finding.status));
    (findings.collect(), verdict.exit)
}

pub(super) fn one(id: &str, status: Health, exit: u8) -> (Vec<(String, Health)>, u8) {
    (vec![(id.to_owned(), status)], exit)
}

#[test]
fn an_idle_outbox_with_a_relay_is_well() {
    let verdict = judge(&outbox(Some(relayed()), Vec::new()));
    assert_eq!((verdict.status, verdict.exit), (Health::Ok, 0));
    let well = verdict.well.outbox.unwrap();
    assert_eq!((well.owner.as_deref(), well.epoch), (Some("db-2:77"), 12));
}

#[test]
fn without_a_relay_it_depends_on_what_waits() {
    let idle = outbox(Some(Status::default()), Vec::new());
    assert_eq!(
        told(&idle),
        one("relay/no-relay/tidings", Health::Notice, 0)
    );
    let waits = outbox(Some(waiting(3)), Vec::new());
    assert_eq!(
        told(&waits),
        one("relay/no-relay/tidings", Health::Stuck, 2)
    );
    let mut status = waiting(3);
    status.oldest_unpublished_seconds = Some(2.0);
    let just = outbox(Some(status), Vec::new());
    assert_eq!(
        told(&just),
        one("relay/no-relay/tidings", Health::Degraded, 1)
    );
}

#[test]
fn a_silent_owner_is_found_with_its_cure_and_command() {
    let mut status = waiting(3);
    status.lease.owner = Some("db-2:77".to_owned());
    status.lease.remaining_seconds = -141.0;
    let verdict = judge(&outbox(Some(status.clone()), Vec::new()));
    let [finding] = &verdict.findings[..] else {
        panic!("{verdict:?}")
    };
    assert_eq!(finding.id, "relay/owner-silent/tidings");
    assert_eq!((finding.status, verdict.exit), (Health::Stuck, 2));
    assert_eq!(finding.facts["backlog"], 3);
    assert!(finding.cause.contains("db-2:77"), "{finding:?}");
    assert!(finding.cure.contains("frozen"), "{finding:?}");
    assert_eq!(finding.command.as_deref(), Some("tidings relay"));
    // Nothing waits yet.
    status.backlog = 0;
    let idle = outbox(Some(status), Vec::new());
    assert_eq!(
        told(&idle),
        one("relay/owner-silent/tidings", Health::Degraded, 1)
    );
}

#[test]
fn a_relay_that_answers_reports_why_it_cannot_write() {
    let mut status = waiting(3);
    status.lease.owner = Some("api-7:31".to_owned());
    status.lease.remaining_seconds = -60.0;
    let read_only = issue("relay", IssueKind::DatabaseReadOnly, ago(60));
    let figures = outbox(
        Some(status.clone()),
        vec![relay(None, vec![read_only.clone()])],
    );
    assert_eq!(
        told(&figures),
        one("relay/database-read-only/tidings", Health::Stuck, 2)
    );
    let silent = outbox(Some(status), vec![relay(None, Vec::new())]);
    assert_eq!(
        told(&silent),
        one("relay/owner-silent/tidings", Health::Stuck, 2)
    );
    // A standby that cannot write hinders no event.
    let beside = outbox(Some(relayed()), vec![relay(None, vec![read_only.clone()])]);
    assert_eq!(
        told(&beside),
        one("relay/database-read-only/tidings", Health::Degraded, 1)
    );
    // The database cannot be read here either.
    let mut gone = outbox(None, vec![relay(None, vec![read_only])]);
    gone.unseen.push(Unseen::new(
        "the outbox",
        IssueKind::DatabaseSilent,
        "no answer",
        "look",
    ));
    assert_eq!(
        told(&gone),
        one("relay/database-read-only/tidings", Health::Stuck, 2)
    );
}

#[test]
fn an_issue_of_the_relay_is_stuck_when_it_lasts() {
    for (place, kind, id) in [
        (
            "stream EVENTS",
            IssueKind::StorageFull,
            "relay/storage-full/EVENTS",
        ),
        (
            "stream EVENTS",
            IssueKind::StreamFull,
            "relay/stream-full/EVENTS",
        ),
        (
            "subject user.created",
            IssueKind::NoStream,
            "relay/no-stream/user.created",
        ),
        (
            "relay",
            IssueKind::NatsUnreachable,
            "relay/nats-unreachable/tidings",
        ),
        ("relay", IssueKind::StreamGone, "relay/stream-gone/tidings"),
    ] {
        for (since, health, exit) in [(ago(3), Health::Degraded, 1), (ago(30), Health::Stuck, 2)] {
            let mut status = relayed();
            status.issues.push(issue(place, kind, since));
            assert_eq!(
                told(&outbox(Some(status), Vec::new())),
                one(id, health, exit)
            );
        }
    }
}

#[test]
fn what_the_relay_reports_in_both_ways_is_one_finding() {
    let full = issue("stream EVENTS", IssueKind::StreamFull, ago(30));
    let mut status = relayed();
    status.issues.push(full.clone());
    let figures = outbox(Some(status), vec![relay(Some(12), vec![full])]);
    assert_eq!(
        told(&figures),
        one("relay/stream-full/EVENTS", Health::Stuck, 2)
    );
}

#[test]
fn a_loss_and_a_parked_row_are_degraded() {
    let mut status = relayed();
    status.losses.push(Loss {
        stream: "EVENTS".to_owned(),
        since: ago(60),
        state: StreamState::Missing,
    });
    let lost = outbox(Some(status), Vec::new());
    assert_eq!(
        told(&lost),
        one("relay/stream-gone/EVENTS", Health::Degraded, 1)
    );
    let finding = judge(&lost).findings.remove(0);
    assert_eq!(finding.runbook, Some("stream-deleted.md"));
    assert!(finding.cure.contains("acknowledge-loss"));
    let mut status = relayed();
    status.undecided = 1;
    status.oldest_undecided_seconds = Some(3600.0);
    let parked = outbox(Some(status), Vec::new());
    assert_eq!(
        told(&parked),
        one("outbox/event-parked/tidings", Health::Degraded, 1)
    );
}

#[test]
fn delayed_events_that_do_not_move_name_who_holds_them() {
    let mut status = relayed();
    status.delayed = 3;
    status.next_due_seconds = Some(-52.0);
    let late = outbox(Some(status.clone()), Vec::new());
    assert_eq!(
        told(&late),
        one("outbox/delayed-late/tidings", Health::Stuck, 2)
    );
    status.held_slots.push(held("tidings.delayed", 60.0));
    let verdict = judge(&outbox(Some(status), Vec::new()));
    let [finding] = &verdict.findings[..] else {
        panic!("{verdict:?}")
    };
    assert_eq!(finding.kind, IssueKind::DelayedHeld);
    assert!(finding.cause.contains("pid 7 psql"), "{finding:?}");
    assert_eq!(
        finding.command.as_deref(),
        Some("select pg_terminate_backend(7)")
    );
}

#[test]
fn a_slot_that_is_held_is_a_notice_until_the_log_has_grown() {
    for (age, health, exit) in [(60.0, Health::Notice, 0), (7200.0, Health::Degraded, 1)] {
        let mut status = relayed();
        status.held_slots.push(held("tidings.outbox_1", age));
        let figures = outbox(Some(status), Vec::new());
        assert_eq!(
            told(&figures),
            one("outbox/slot-held/tidings.outbox_1", health, exit)
        );
    }
}

fn held(slot: &str, age: f64) -> HeldSlot {
    HeldSlot {
        slot: slot.to_owned(),
        pid: Some(7),
        application: Some("psql".to_owned()),
        state: None,
        age_seconds: Some(age),
        query: None,
    }
}

#[test]
fn a_copy_a_standby_and_tables_of_another_version_are_refused() {
    let mut status = relayed();
    status.refuses = Some("this database server is a standby".to_owned());
    status.refuses_as = IssueKind::DatabaseStandby;
    let standby = outbox(Some(status), Vec::new());
    assert_eq!(
        told(&standby),
        one("outbox/database-standby/tidings", Health::Refused, 2)
    );
    for (kind, id) in [
        (IssueKind::SchemaNewer, "outbox/schema-newer/tidings"),
        (IssueKind::SchemaOlder, "outbox/schema-older/tidings"),
        (IssueKind::NotMigrated, "outbox/not-migrated/tidings"),
        (IssueKind::Elsewhere, "outbox/elsewhere/tidings"),
    ] {
        let mut figures = outbox(None, Vec::new());
        figures
            .unseen
            .push(Unseen::new("the outbox", kind, "version 99", "migrate"));
        assert_eq!(told(&figures), one(id, Health::Refused, 2));
        assert_eq!(judge(&figures).unseen, []);
    }
}

#[test]
fn what_could_not_be_seen_is_not_well() {
    let mut figures = outbox(Some(relayed()), Vec::new());
    figures.unseen.push(Unseen::new(
        "NATS",
        IssueKind::NatsUnreachable,
        "refused",
        "start it",
    ));
    let verdict = judge(&figures);
    assert_eq!((verdict.status, verdict.exit), (Health::Unknown, 3));
    // What is known to be worse counts.
    figures
        .outbox
        .as_mut()
        .unwrap()
        .status
        .as_mut()
        .unwrap()
        .undecided = 1;
    assert_eq!(judge(&figures).exit, 1);
    assert_eq!(judge(&figures).exit_from(Health::Stuck), 3);
}

#[test]
fn the_least_bad_finding_that_counts_can_be_chosen() {
    let notice = judge(&outbox(Some(Status::default()), Vec::new()));
    assert_eq!(notice.exit_from(Health::Notice), 1);
    assert_eq!(notice.exit_from(Health::Degraded), 0);
    let stuck = judge(&outbox(Some(waiting(1)), Vec::new()));
    assert_eq!(stuck.exit_from(Health::Stuck), 2);
    let none = stuck.retain(|finding| finding.component == Component::Subscriber);
    assert_eq!((none.status, none.exit), (Health::Ok, 0));
}

#[test]
fn a_verdict_is_written_as_documented() {
    let verdict = judge(&outbox(Some(waiting(7)), Vec::new()));
    let json = serde_json::to_value(&verdict).unwrap();
    assert_eq!(json["status"], "stuck");
    assert_eq!(json["exit"], 2);
    assert_eq!(json["findings"][0]["kind"], "no-relay");
    assert_eq!(json["findings"][0]["component"], "relay");
    assert_eq!(json["findings"][0]["facts"]["backlog"], 7);
    assert_eq!(json["unseen"], json!([]));
    assert_eq!(json["well"]["outbox"]["owner"], json!(null));
}

#[test]
fn a_bad_configuration_stays_degraded() {
    let bad = || issue("configuration", IssueKind::Configuration, ago(1000));
    let leased = relay(Some(12), vec![bad()]);
    let standby = relay(None, vec![bad()]);
    let mut unrelayed = waiting(3);
    unrelayed.issues = vec![bad()];
    for (status, relays) in [
        (relayed(), vec![leased]),
        (relayed(), vec![standby.clone()]),
        (unrelayed, vec![standby]),
    ] {
        let is_relayed = status.is_relayed();
        let verdict = judge(&outbox(Some(status), relays));
        let found = verdict.findings.iter();
        let found = found.filter(|one| one.kind == IssueKind::Configuration);
        let found: Vec<_> = found.map(|one| (&*one.id, one.status)).collect();
        let id = "relay/configuration/tidings";
        assert_eq!(found, [(id, Health::Degraded)]);
        if is_relayed {
            assert_eq!(verdict.exit, 1);
        }
    }
}
