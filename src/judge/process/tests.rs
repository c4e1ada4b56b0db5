//! Each condition that makes a process not ready, and each that must not.

mod relay;
mod subscriber;

use std::time::Duration;

use super::*;
use crate::{
    instance::{Activity, FailingKey},
    policy::breaker::CircuitState,
    preflight::PreflightRefusal,
    process::figures::{RelayFigures, RelayIssue, ServerFigures, SubscriberFigures},
};

fn at() -> DateTime<Utc> {
    DateTime::UNIX_EPOCH + TimeDelta::days(20_000)
}

const T: Duration = Duration::from_secs(10);

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// A process that runs, with nothing in it.
fn process() -> ProcessFigures {
    ProcessFigures {
        at: at(),
        phase: Phase::Running,
        runtime: RuntimeFigures::default(),
        ended_tasks: Vec::new(),
        refusals: Vec::new(),
        connections: Vec::new(),
        concerns: std::collections::BTreeMap::new(),
        stuck_after: None,
        relays: Vec::new(),
        subscribers: Vec::new(),
    }
}

/// A relay that reads an empty log.
fn a_relay() -> RelayFigures {
    RelayFigures {
        outbox: "tidings".to_owned(),
        database: "postgres",
        owner: "host:1:a".to_owned(),
        activity: Activity::Active,
        epoch: Some(3),
        lease: seconds(5),
        is_set_up: true,
        is_relaying: true,
        unanswered: seconds(1),
        open_rows: 0,
        unmoved: Duration::ZERO,
        fetching: None,
        delayed_overdue: None,
        has_waiting: false,
        confirmed: 0,
        confirmed_at: None,
        issues: Vec::new(),
        losses: Vec::new(),
    }
}

/// A subscriber that is active, and for which nothing waits.
fn a_subscriber() -> SubscriberFigures {
    SubscriberFigures {
        name: "welcome".to_owned(),
        ordered: false,
        concurrency: 16,
        timeout: seconds(30),
        stuck_after: None,
        activity: Activity::Active,
        is_set_up: true,
        interrupted: None,
        is_paused: false,
        server: Some(ServerFigures::default()),
        running: 0,
        is_full: false,
        resting: 0,
        in_flight: 0,
        in_flight_bytes: 0,
        idle_with_work: None,
        oldest_attempt: None,
        oldest_event: None,
        last_ended: Some(seconds(3600)),
        circuit: CircuitState::Closed,
        circuit_open: None,
        circuit_error: None,
        probe_in: None,
        unconfirmed: None,
        hindrance: None,
        leaseless: None,
        notes: Vec::new(),
        failing: Vec::new(),
        handled: 0,
        failed: 0,
        dead_lettered: 0,
    }
}

/// Events that wait at the server.
fn pending(count: u64) -> Option<ServerFigures> {
    Some(ServerFigures {
        pending: count,
        ack_pending: 0,
        oldest: seconds(1),
        age: seconds(1),
    })
}

/// The state of the last part, and its kind.
fn judged(figures: &ProcessFigures) -> (Health, Option<IssueKind>) {
    let mut verdict = judge_process(figures, T);
    let part = verdict.parts.pop().unwrap();
    (part.status, part.finding.map(|finding| finding.kind))
}

fn of_relay(change: impl FnOnce(&mut RelayFigures)) -> (Health, Option<IssueKind>) {
    let mut relay = a_relay();
    change(&mut relay);
    let relays = vec![relay];
    judged(&ProcessFigures {
        relays,
        ..process()
    })
}

fn of_subscriber(change: impl FnOnce(&mut SubscriberFigures)) -> (Health, Option<IssueKind>) {
    let mut subscriber = a_subscriber();
    change(&mut subscriber);
    let subscribers = vec![subscriber];
    judged(&ProcessFigures {
        subscribers,
        ..process()
    })
}

fn whole_of(change: impl FnOnce(&mut ProcessFigures)) -> ProcessVerdict {
    let mut figures = process();
    figures.relays.push(a_relay());
    figures.subscribers.push(a_subscriber());
    change(&mut figures);
    judge_process(&figures, T)
}

fn are_ready(verdict: &ProcessVerdict) -> Vec<bool> {
    let parts = verdict.parts.iter();
    parts.map(|part| part.status.is_ready()).collect()
}

#[test]
fn a_process_with_nothing_to_do_is_ready() {
    let verdict = whole_of(|_| {});
    assert_eq!(are_ready(&verdict), [true; 3]);
    assert_eq!(verdict.status, Health::Idle);
    let lines: Vec<String> = verdict.parts.iter().map(Part::line).collect();
    assert_eq!(
        lines,
        [
            "process: ok",
            "relay tidings: idle",
            "subscriber welcome: idle"
        ]
    );
}

/// R11.
#[test]
fn a_worker_that_is_not_set_up_is_not_ready() {
    let verdict = whole_of(|figures| figures.phase = Phase::Starting);
    assert_eq!(verdict.parts[0].status, Health::Starting);
    assert!(!verdict.parts[0].is_started());
    assert_eq!(of_subscriber(|it| it.is_set_up = false).0, Health::Starting);
    assert_eq!(of_relay(|it| it.is_set_up = false).0, Health::Starting);
}

/// R11.
#[test]
fn a_worker_that_drains_is_not_ready() {
    let verdict = whole_of(|figures| figures.phase = Phase::Draining);
    assert_eq!(are_ready(&verdict), [false; 3]);
    assert!(
        verdict
            .parts
            .iter()
            .all(|part| part.status == Health::Draining)
    );
}

/// R12.
#[test]
fn a_check_at_the_start_that_refuses_is_not_ready() {
    let verdict = whole_of(|figures| {
        figures.refusals.push(PreflightRefusal {
            kind: IssueKind::Window,
            cause: "the duplicate window is 1 s".to_owned(),
            cure: "set it to 2 min".to_owned(),
        });
    });
    let whole = &verdict.parts[0];
    assert_eq!(whole.status, Health::Refused);
    assert!(!whole.is_started());
    assert!(
        whole
            .line()
            .contains("the duplicate window is 1 s; try: set it to 2 min")
    );
}

#[test]
fn a_runtime_that_does_not_turn_is_not_ready_and_later_dead() {
    let blocked = |silent| {
        whole_of(|figures| {
            figures.runtime.silent = silent;
            figures.runtime.handlers = "welcome: user.created 1 for 12s".to_owned();
        })
    };
    assert_eq!(are_ready(&blocked(seconds(9))), [true; 3]);
    let verdict = blocked(T);
    assert_eq!(are_ready(&verdict), [false; 3]);
    assert!(
        verdict.parts[2]
            .line()
            .contains("welcome: user.created 1 for 12s")
    );
    let not_alive_after = |silent| {
        let mut figures = process();
        figures.runtime.silent = silent;
        figures.runtime.handlers = "welcome: user.created".to_owned();
        not_alive(&figures)
    };
    assert!(not_alive_after(seconds(30)).is_empty());
    assert!(not_alive_after(seconds(31))[0].contains("welcome: user.created"));
}

#[test]
fn a_task_that_has_ended_makes_a_process_dead() {
    let mut figures = process();
    figures.ended_tasks.push("status of welcome".to_owned());
    assert_eq!(
        not_alive(&figures),
        ["the task status of welcome has ended"]
    );
    assert_eq!(
        judged(&figures),
        (Health::Stuck, Some(IssueKind::TaskEnded))
    );
}

/// Neither decides whether it is alive: a restart cures neither.
#[test]
fn a_process_without_nats_and_database_is_alive() {
    let mut figures = process();
    figures.relays.push(RelayFigures {
        is_relaying: false,
        unanswered: seconds(3600),
        unmoved: seconds(3600),
        ..a_relay()
    });
    figures.subscribers.push(SubscriberFigures {
        hindrance: Some(("no answer".to_owned(), seconds(3600))),
        ..a_subscriber()
    });
    assert!(not_alive(&figures).is_empty());
}

#[test]
fn a_loss_of_a_stream_is_shown_and_leaves_the_relay_ready() {
    let loss = RelayIssue {
        place: "stream EVENTS".to_owned(),
        kind: IssueKind::StreamGone,
        since: at(),
        cause: "it is gone".to_owned(),
        cure: "tidings verify --repair".to_owned(),
    };
    let of = of_relay(|relay| relay.losses = vec![loss.clone()]);
    assert_eq!(of, (Health::Degraded, Some(IssueKind::StreamGone)));
    assert!(Health::Degraded.is_ready());
    let of = of_relay(|relay| {
        relay.losses = vec![loss];
        (relay.open_rows, relay.unmoved) = (7, Duration::from_secs(60));
    });
    assert_eq!(
        of,
        (Health::Stuck, Some(IssueKind::StandsStill)),
        "it explains nothing"
    );
}

#[test]
fn what_cannot_be_seen_is_not_green() {
    let verdict = whole_of(|figures| {
        figures.subscribers[0].server = Some(ServerFigures {
            age: seconds(11),
            ..ServerFigures::default()
        });
    });
    assert_eq!(verdict.status, Health::Unknown);
    assert_eq!(
        verdict.unseen[0].what,
        "what waits for welcome at the server"
    );
    let verdict = whole_of(|figures| figures.relays[0].is_relaying = false);
    assert_eq!(verdict.unseen[0].what, "the log of the outbox tidings");
}
