//! A relay: what makes it not ready (R1 to R5), and what must not.

use super::*;

fn issue(place: &str, kind: IssueKind, age: u64) -> RelayIssue {
    RelayIssue {
        place: place.to_owned(),
        kind,
        since: at() - seconds(age),
        cause: format!("the cause of {kind}"),
        cure: "the cure".to_owned(),
    }
}

/// R1.
#[test]
fn rows_that_do_not_move_for_ten_seconds_are_stuck() {
    let waits = |unmoved| {
        of_relay(|it| {
            it.open_rows = 7_000;
            it.unmoved = unmoved;
        })
    };
    assert_eq!(waits(seconds(9)), (Health::Ok, None));
    assert_eq!(waits(T), (Health::Stuck, Some(IssueKind::StandsStill)));
}

/// R1: the issue explains it, and gives its cure.
#[test]
fn a_stuck_relay_has_the_cause_of_its_issue() {
    let stuck = of_relay(|it| {
        it.open_rows = 7_000;
        it.unmoved = seconds(30);
        it.issues
            .push(issue("stream EVENTS", IssueKind::StorageFull, 25));
    });
    assert_eq!(stuck, (Health::Stuck, Some(IssueKind::StorageFull)));
}

/// R1: a relay that starts again and again reads no log.
#[test]
fn a_relay_that_is_interrupted_for_long_is_stuck() {
    let interrupted = |unmoved| {
        of_relay(|it| {
            it.is_relaying = false;
            it.activity = Activity::Starting;
            it.unmoved = unmoved;
            it.issues.push(issue("relay", IssueKind::NatsSilent, 3));
        })
    };
    assert_eq!(interrupted(T), (Health::Stuck, Some(IssueKind::NatsSilent)));
    let shortly = interrupted(seconds(9));
    assert_eq!(shortly, (Health::Degraded, Some(IssueKind::NatsSilent)));
}

/// R1: reading a page may take its time, but not all of it.
#[test]
fn a_page_that_is_not_read_is_stuck() {
    let reads = |fetching| of_relay(|it| it.fetching = Some(fetching)).0;
    assert_eq!((reads(seconds(9)), reads(T)), (Health::Idle, Health::Stuck));
}

/// R2.
#[test]
fn a_standby_that_hears_of_no_lease_is_stuck() {
    let stands_by = |unanswered| {
        of_relay(|it| {
            it.activity = Activity::Standby;
            it.is_relaying = false;
            it.unanswered = unanswered;
        })
        .0
    };
    assert_eq!(stands_by(seconds(7)), Health::Standby);
    assert_eq!(stands_by(Duration::from_millis(7_300)), Health::Stuck);
}

/// R3.
#[test]
fn a_relay_whose_claims_are_not_answered_is_stuck() {
    let claims = |unanswered| {
        of_relay(|it| {
            it.activity = Activity::Starting;
            it.is_relaying = false;
            it.unanswered = unanswered;
        })
    };
    assert_eq!(claims(T).0, Health::Degraded);
    let stuck = (Health::Stuck, Some(IssueKind::DatabaseSilent));
    assert_eq!(claims(seconds(11)), stuck);
}

/// R4.
#[test]
fn a_relay_that_refuses_is_not_ready_at_once() {
    for kind in [
        IssueKind::DatabaseStandby,
        IssueKind::DatabaseForeign,
        IssueKind::DatabaseReadOnly,
        IssueKind::DeniedDatabase,
        IssueKind::NotMigrated,
        IssueKind::SchemaNewer,
        IssueKind::SchemaOlder,
        IssueKind::Elsewhere,
    ] {
        let refused = of_relay(|it| {
            it.is_relaying = false;
            it.activity = Activity::Starting;
            it.issues.push(issue("relay", kind, 0));
        });
        assert_eq!(refused, (Health::Refused, Some(kind)));
    }
}

/// R5.
#[test]
fn delayed_events_that_are_not_moved_are_stuck() {
    let overdue = |age| of_relay(|it| it.delayed_overdue = Some(age));
    assert_eq!(overdue(seconds(9)).0, Health::Idle);
    let stuck = (Health::Stuck, Some(IssueKind::DelayedLate));
    assert_eq!(overdue(T), stuck);
}

#[test]
fn a_standby_is_ready() {
    let standby = of_relay(|it| {
        it.activity = Activity::Standby;
        it.is_relaying = false;
        it.unmoved = seconds(3600);
    });
    assert_eq!(standby, (Health::Standby, None));
}

#[test]
fn a_backlog_that_drains_is_ready() {
    let drains = of_relay(|it| {
        it.open_rows = 5_000_000;
        it.unmoved = seconds(2);
    });
    assert_eq!(drains, (Health::Ok, None));
}

#[test]
fn a_connection_that_was_lost_and_is_back_is_ready() {
    let back = of_relay(|it| {
        it.is_relaying = false;
        it.unmoved = seconds(6);
        it.unanswered = seconds(6);
    });
    assert_eq!(back.0, Health::Degraded);
    assert!(back.0.is_ready());
}

#[test]
fn parked_rows_beside_events_that_move_are_ready() {
    let parked = of_relay(|it| {
        it.has_waiting = true;
        it.open_rows = 3;
        it.unmoved = seconds(1);
        it.issues
            .push(issue("stream AUDIT", IssueKind::StreamFull, 3600));
    });
    assert_eq!(parked, (Health::Degraded, Some(IssueKind::StreamFull)));
    assert!(parked.0.is_ready());
}

#[test]
fn an_issue_of_refusal_that_is_over_is_ready() {
    let over = of_relay(|it| {
        it.open_rows = 3;
        it.issues
            .push(issue("relay", IssueKind::DatabaseReadOnly, 60));
    });
    assert!(over.0.is_ready());
}
