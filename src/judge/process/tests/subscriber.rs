//! A subscriber: what makes it not ready (R6 to R10), and what must not.

use super::*;

fn told(why: &str, age: Duration) -> Option<(String, Duration)> {
    Some((why.to_owned(), age))
}

/// R6: nothing runs.
#[test]
fn events_that_are_due_while_nothing_runs_are_stuck() {
    let waits = |age| {
        of_subscriber(|it| {
            it.server = pending(21);
            it.idle_with_work = Some(age);
        })
    };
    assert_eq!(waits(seconds(9)), (Health::Ok, None));
    assert_eq!(waits(T), (Health::Stuck, Some(IssueKind::NoProgress)));
}

/// R6: all slots are taken.
#[test]
fn slots_that_are_all_taken_for_the_timeout_are_stuck() {
    let taken = |age, stuck_after| {
        of_subscriber(|it| {
            it.running = 16;
            it.in_flight = 16;
            it.is_full = true;
            it.timeout = seconds(600);
            it.stuck_after = stuck_after;
            it.oldest_attempt = Some(age);
            it.last_ended = Some(age);
        })
    };
    let stuck = (Health::Stuck, Some(IssueKind::SlotsTaken));
    let early = (Health::Notice, Some(IssueKind::SlotsTaken));
    assert_eq!(taken(seconds(9), None), (Health::Ok, None));
    assert_eq!(taken(T, None), early);
    assert_eq!(taken(seconds(59), None), early);
    assert_eq!(taken(seconds(60), None), stuck, "at most a minute");
    assert_eq!(taken(seconds(60), Some(seconds(300))), early);
    assert_eq!(taken(seconds(300), Some(seconds(300))), stuck);
}

/// R6: others end meanwhile.
#[test]
fn one_long_attempt_beside_others_that_end_is_ready() {
    let ends = of_subscriber(|it| {
        it.running = 16;
        it.in_flight = 16;
        it.is_full = true;
        it.oldest_attempt = Some(seconds(600));
        it.last_ended = Some(seconds(1));
    });
    assert_eq!(ends, (Health::Ok, None));
}

/// R7.
#[test]
fn an_open_circuit_with_events_that_wait_is_stuck() {
    let open = |age, waiting| {
        of_subscriber(|it| {
            it.circuit = CircuitState::Open;
            it.circuit_open = Some(age);
            it.server = pending(waiting);
        })
    };
    let kind = Some(IssueKind::CircuitOpen);
    assert_eq!(open(seconds(9), 5), (Health::Degraded, kind));
    assert_eq!(open(T, 5), (Health::Stuck, kind));
    assert_eq!(open(T, 0), (Health::Degraded, kind), "nothing waits");
}

/// R8.
#[test]
fn answers_that_are_not_confirmed_are_stuck() {
    let unconfirmed = |age| of_subscriber(|it| it.unconfirmed = told("denied", age));
    assert_eq!(unconfirmed(seconds(9)).0, Health::Degraded);
    let stuck = (Health::Stuck, Some(IssueKind::Unconfirmed));
    assert_eq!(unconfirmed(T), stuck);
}

/// R9.
#[test]
fn a_consumer_that_is_gone_is_stuck_after_ten_seconds() {
    let hindered = |age| of_subscriber(|it| it.hindrance = told("EVENTS: no such consumer", age));
    assert_eq!(hindered(seconds(9)).0, Health::Degraded);
    assert_eq!(hindered(T), (Health::Stuck, Some(IssueKind::Instance)));
}

/// R9: it was active, and cannot begin again.
#[test]
fn a_subscriber_that_does_not_begin_again_is_stuck() {
    let interrupted = |age| {
        of_subscriber(|it| {
            it.activity = Activity::Starting;
            it.interrupted = Some(age);
        })
        .0
    };
    assert!(interrupted(seconds(9)).is_ready());
    assert_eq!(interrupted(T), Health::Stuck);
}

/// R10.
#[test]
fn a_lease_that_cannot_be_taken_is_stuck_after_seven_seconds() {
    let leaseless = |age| {
        of_subscriber(|it| {
            it.ordered = true;
            it.activity = Activity::Standby;
            it.leaseless = told("the lease cannot be acquired: denied", age);
        })
    };
    assert_eq!(leaseless(seconds(6)).0, Health::Standby);
    assert_eq!(
        leaseless(seconds(7)),
        (Health::Stuck, Some(IssueKind::NoLease))
    );
}

#[test]
fn a_standby_of_an_ordered_subscriber_is_ready() {
    let standby = of_subscriber(|it| {
        it.ordered = true;
        it.activity = Activity::Standby;
        it.server = None;
    });
    assert_eq!(standby, (Health::Standby, None));
}

#[test]
fn a_paused_subscriber_is_ready() {
    let paused = of_subscriber(|it| {
        it.is_paused = true;
        it.server = pending(120_310);
    });
    assert_eq!(paused, (Health::Paused, None));
}

#[test]
fn retries_that_are_not_due_are_ready() {
    let rests = of_subscriber(|it| {
        it.resting = 21;
        it.in_flight = 21;
    });
    assert_eq!(rests, (Health::Ok, None));
}

/// What waits for the rate limit is not due: the runner does not report it.
#[test]
fn a_rate_limit_is_ready() {
    let limited = of_subscriber(|it| {
        it.in_flight = 16;
        it.server = pending(1_000);
        it.last_ended = Some(seconds(55));
    });
    assert_eq!(limited, (Health::Ok, None));
}

#[test]
fn a_key_that_waits_while_others_go_on_is_ready() {
    let waits = of_subscriber(|it| {
        it.ordered = true;
        it.in_flight = 9;
        it.resting = 1;
        it.last_ended = Some(seconds(1));
        it.failing = vec![FailingKey {
            key: "p-7".to_owned(),
            name: "order.paid".to_owned(),
            event: "e-1".to_owned(),
            attempts: 41,
            since: at() - TimeDelta::seconds(5),
            next_at: at(),
            waiting: 5,
        }];
    });
    assert_eq!(waits, (Health::Degraded, Some(IssueKind::KeyWaits)));
    assert!(waits.0.is_ready());
}

#[test]
fn notes_of_one_kind_have_that_kind() {
    let noted = |kinds: &[IssueKind]| {
        of_subscriber(|it| {
            let note = |kind: &IssueKind| (*kind, "a note".to_owned());
            it.notes = kinds.iter().map(note).collect();
        })
    };
    let (name, replay) = (IssueKind::NameWithoutHandler, IssueKind::ReplayStuck);
    assert_eq!(noted(&[name]), (Health::Degraded, Some(name)));
    let both = noted(&[name, replay]);
    assert_eq!(both, (Health::Degraded, Some(IssueKind::Instance)));
}

#[test]
fn dead_letters_are_ready() {
    assert!(of_subscriber(|it| it.dead_lettered = 23).0.is_ready());
}

#[test]
fn a_long_attempt_beside_free_slots_is_ready() {
    let long = of_subscriber(|it| {
        it.running = 1;
        it.in_flight = 1;
        it.timeout = seconds(600);
        it.oldest_attempt = Some(seconds(500));
    });
    assert_eq!(long, (Health::Ok, None));
}

#[test]
fn a_pull_that_was_interrupted_shortly_is_ready() {
    let shortly = of_subscriber(|it| it.hindrance = told("no answer", seconds(4)));
    assert!(shortly.0.is_ready());
}
