//! The findings about subscribers.

use chrono::TimeDelta;

use super::{
    super::{
        judge,
        tests::{ago, at, one, told},
    },
    *,
};
use crate::operations::{
    doctor::{Figures, ParkedBy, ParkedKeys},
    subscribers::WaitingRetries,
};

fn subscribers(subscribers: Vec<SubscriberState>) -> Figures {
    Figures {
        at: at(),
        subscribers: Some(SubscriberOverview {
            subscribers,
            ..SubscriberOverview::default()
        }),
        ..Figures::default()
    }
}

fn subscriber(kind: IssueKind, is_stuck: bool) -> SubscriberState {
    SubscriberState {
        name: "welcome-email".to_owned(),
        issues: vec![SubscriberIssue {
            kind,
            cause: "the cause".to_owned(),
            cure: None,
            since: Some(ago(540)),
            is_stuck,
        }],
        ..SubscriberState::default()
    }
}

#[test]
fn subscribers_alone_are_judged_as_by_the_doctor() {
    for (kind, is_stuck) in [
        (IssueKind::NoInstance, true),
        (IssueKind::ReplayStuck, true),
        (IssueKind::Clock, false),
        (IssueKind::Drift, false),
    ] {
        let figures = subscribers(vec![subscriber(kind, is_stuck)]);
        let alone = judge_subscribers(figures.subscribers.as_ref().unwrap(), at());
        assert_eq!(alone, judge(&figures), "{kind}");
    }
}

#[test]
fn what_subscribers_list_calls_stuck_is_a_finding() {
    for kind in [
        IssueKind::NoInstance,
        IssueKind::NoLease,
        IssueKind::NoConsumer,
        IssueKind::ConsumerDeleted,
        IssueKind::RetriesGone,
        IssueKind::DeadLettersGone,
        IssueKind::RetriesLate,
        IssueKind::AckPendingFull,
        IssueKind::BeyondEnd,
        IssueKind::Instance,
    ] {
        let id = format!("subscriber/{kind}/welcome-email");
        let figures = subscribers(vec![subscriber(kind, true)]);
        assert_eq!(told(&figures), one(&id, Health::Stuck, 2));
    }
    let replay = subscribers(vec![subscriber(IssueKind::ReplayStuck, true)]);
    assert_eq!(told(&replay).1, 1, "live events go on");
    let drift = subscribers(vec![subscriber(IssueKind::Drift, false)]);
    assert_eq!(told(&drift).1, 0);
    let clock = subscribers(vec![subscriber(IssueKind::Clock, false)]);
    assert_eq!(
        told(&clock),
        one("subscriber/clock/welcome-email", Health::Danger, 1)
    );
}

#[test]
fn an_issue_of_some_events_is_degraded() {
    let degraded = |kind, is_stuck| {
        let figures = subscribers(vec![subscriber(kind, is_stuck)]);
        assert_eq!(
            told(&figures),
            one(
                &format!("subscriber/{kind}/welcome-email"),
                Health::Degraded,
                1
            )
        );
    };
    degraded(IssueKind::KeyWaits, false);
    degraded(IssueKind::NameWithoutHandler, true);
    for kind in [IssueKind::NameWithoutHandler, IssueKind::SlotsTaken] {
        let early = subscribers(vec![subscriber(kind, false)]);
        assert_eq!(told(&early).1, 0, "{kind} may become one");
    }
    let taken = subscribers(vec![subscriber(IssueKind::SlotsTaken, true)]);
    assert_eq!(told(&taken).1, 2);
}

#[test]
fn parked_keys_are_counted_and_a_few_of_them_named() {
    let mut figures = subscribers(vec![SubscriberState {
        name: "orders".to_owned(),
        ..SubscriberState::default()
    }]);
    let first = ParkedBy {
        key: "p-7".to_owned(),
        since: ago(60),
        stream: "EVENTS".to_owned(),
        sequence: 41,
        cause: "rejected".to_owned(),
        error: "no such account".to_owned(),
    };
    let keys = ParkedKeys {
        count: 1_200,
        some: vec![first],
    };
    figures.parked_keys.insert("orders".to_owned(), keys);
    let finding = judge(&figures).findings.remove(0);
    assert_eq!(
        (&*finding.id, finding.status),
        ("subscriber/key-parked/orders", Health::Degraded)
    );
    for part in [
        "1200 keys are parked",
        "p-7",
        "event 41 of EVENTS",
        "no such account",
    ] {
        assert!(finding.cause.contains(part), "{part}: {finding:?}");
    }
    assert!(
        finding.cure.contains("redrive --subscriber orders --key"),
        "{finding:?}"
    );
    assert_eq!(
        (finding.for_s, finding.runbook),
        (Some(60), Some("stuck-key.md"))
    );
}

#[test]
fn retries_that_wait_for_long_are_a_notice() {
    let waits = |farthest| {
        let mut state = SubscriberState {
            name: "reports".to_owned(),
            ..SubscriberState::default()
        };
        state.retries = Some(WaitingRetries {
            scheduled: 21,
            next_at: Some(at() + TimeDelta::seconds(5)),
            farthest_at: Some(at() + farthest),
            ..WaitingRetries::default()
        });
        subscribers(vec![state])
    };
    assert_eq!(told(&waits(TimeDelta::minutes(29))).0, []);
    let far = waits(TimeDelta::hours(1));
    assert_eq!(
        told(&far),
        one("subscriber/retries-far/reports", Health::Notice, 0)
    );
    let finding = judge(&far).findings.remove(0);
    assert!(finding.cause.contains("21 retries wait"), "{finding:?}");
    assert!(finding.cure.contains("clocks"), "{finding:?}");
}

#[test]
fn an_open_circuit_is_stuck_while_events_wait() {
    let mut state = subscriber(IssueKind::CircuitOpen, true);
    assert_eq!(told(&subscribers(vec![state.clone()])).1, 1);
    state.retries = Some(WaitingRetries {
        due: 1,
        ..WaitingRetries::default()
    });
    assert_eq!(told(&subscribers(vec![state])).1, 2);
}

#[test]
fn an_issue_of_the_account_is_one_of_nats() {
    let mut figures = subscribers(Vec::new());
    let issues = subscriber(IssueKind::Elsewhere, true).issues;
    figures.subscribers.as_mut().unwrap().issues = issues;
    assert_eq!(
        told(&figures),
        one("nats/elsewhere/account", Health::Stuck, 2)
    );
}

#[test]
fn a_pause_is_a_notice_and_dead_letters_are_degraded() {
    let paused = SubscriberState {
        name: "reports".to_owned(),
        paused_until: Some(at() + TimeDelta::hours(1)),
        ..SubscriberState::default()
    };
    let mut figures = subscribers(vec![paused]);
    assert_eq!(
        told(&figures),
        one("subscriber/paused/reports", Health::Notice, 0)
    );
    let finding = judge(&figures).findings.remove(0);
    assert_eq!(
        finding.command.as_deref(),
        Some("tidings subscribers resume reports")
    );
    assert!(finding.facts.contains_key("until"));
    assert!(finding.cause.contains("; no events wait"), "{finding:?}");
    let mut forever = figures.clone();
    let paused = &mut forever.subscribers.as_mut().unwrap().subscribers[0];
    paused.paused_until = Some(at() + TimeDelta::days(365 * 300));
    let finding = judge(&forever).findings.remove(0);
    assert!(finding.cause.contains("without an end"), "{finding:?}");
    figures.dead_letters.insert("reports".to_owned(), 2);
    let verdict = judge(&figures);
    assert_eq!(verdict.findings[0].id, "subscriber/dead-letters/reports");
    assert_eq!(verdict.findings[0].facts["dead_letters"], 2);
    assert_eq!((verdict.exit, verdict.well.subscribers), (1, 0));
}

#[test]
fn a_name_that_a_shell_does_not_read_as_a_word_gets_no_command() {
    for name in ["$(reboot)", "a;b", "a'b", "-f"] {
        let state = SubscriberState {
            name: name.to_owned(),
            ..subscriber(IssueKind::NoInstance, true)
        };
        let verdict = judge(&subscribers(vec![state]));
        assert_eq!(verdict.findings[0].command, None, "{name}");
    }
}

#[test]
fn what_could_not_be_seen_of_subscribers_is_listed_once() {
    let mut state = SubscriberState {
        name: "s".to_owned(),
        ..SubscriberState::default()
    };
    let all = "the consumers of EVENTS: no leader".to_owned();
    state.unseen = vec![all.clone(), "its retries: denied".to_owned()];
    let mut figures = subscribers(vec![state]);
    figures.subscribers.as_mut().unwrap().unseen = vec![all];
    let verdict = judge(&figures);
    let told: Vec<_> = verdict
        .unseen
        .iter()
        .map(|one| (&*one.what, &*one.why))
        .collect();
    assert_eq!(
        told,
        [
            ("the consumers of EVENTS", "no leader"),
            ("s: its retries", "denied")
        ]
    );
    assert_eq!(verdict.exit, 3);
}

#[test]
fn two_findings_have_two_ids() {
    let mut state = subscriber(IssueKind::ReplayStuck, true);
    state.issues.push(state.issues[0].clone());
    let (findings, _) = told(&subscribers(vec![state]));
    assert_eq!(findings[1].0, "subscriber/replay-stuck/welcome-email/2");
}
