//! What is reported as an issue, and what is not.

use serde_json::{Value, json};

use super::*;
use crate::operations::subscribers::WaitingRetries;

fn now() -> DateTime<Utc> {
    DateTime::UNIX_EPOCH + TimeDelta::days(20_000)
}

fn seen() -> Seen {
    Seen {
        now: now(),
        are_asked: true,
        has_retries: Some(true),
        has_dead_letters: Some(true),
        ..Seen::default()
    }
}

/// A consumer of events with this many pending and ack pending messages.
fn consumer(pending: u64, ack_pending: u64) -> SubscriberConsumer {
    let config = json!({ "max_ack_pending": 100 });
    SubscriberConsumer {
        stream: "EVENTS".to_owned(),
        is_of_retries: false,
        pending,
        delivered: 0,
        acknowledged: 0,
        ack_pending,
        redelivered: 0,
        pulls: 0,
        paused_until: None,
        last_delivery_at: None,
        drift: Vec::new(),
        config: config.as_object().unwrap().clone(),
    }
}

/// An active instance, except for the given fields.
fn instance(but: &Value) -> Instance {
    let mut instance = json!({
        "subscriber": "s", "id": "1", "host": "h", "pid": 7, "version": "0", "started_at": now(),
        "activity": "active", "issue": null, "ordered": false, "holds_lease": null, "circuit": "closed",
        "running": null, "resting": null, "in_flight": 0, "in_flight_bytes": 0, "hottest": [], "concurrency": 1,
        "rate": null, "max_in_flight_bytes": 1, "timeout_ms": 1, "retry": "", "handled": 0, "failed": 0,
        "dead_lettered": 0, "last_delivery_at": null, "wants": [],
    });
    for (field, value) in but.as_object().unwrap() {
        instance[field] = value.clone();
    }
    serde_json::from_value(instance).unwrap()
}

fn state(consumer: SubscriberConsumer, instances: Vec<Instance>) -> SubscriberState {
    SubscriberState {
        name: "s".to_owned(),
        paused_until: None,
        known_pending: Some(consumer.pending),
        consumers: vec![consumer],
        missing: Vec::new(),
        retries: Some(WaitingRetries::default()),
        instances,
        last_seen_at: None,
        issues: Vec::new(),
        unseen: Vec::new(),
    }
}

fn kinds(state: &SubscriberState, seen: &Seen) -> Vec<(&'static str, bool)> {
    let found = issues(state, seen);
    found
        .iter()
        .map(|one| (one.kind.as_str(), one.is_stuck))
        .collect()
}

#[test]
fn no_instance_is_no_issue_without_events_or_without_answers() {
    let works = || instance(&json!({}));
    assert_eq!(kinds(&state(consumer(5, 5), vec![works()]), &seen()), []);
    assert_eq!(kinds(&state(consumer(0, 0), Vec::new()), &seen()), []);
    for waits in [consumer(1, 0), consumer(0, 1)] {
        let waits = state(waits, Vec::new());
        assert_eq!(kinds(&waits, &seen()), [("no-instance", true)]);
        let unasked = Seen {
            are_asked: false,
            ..seen()
        };
        assert_eq!(kinds(&waits, &unasked), []);
    }
    let mut paused = state(consumer(1, 0), Vec::new());
    paused.paused_until = Some(now());
    assert_eq!(kinds(&paused, &seen()), []);
}

#[test]
fn a_retry_waits_for_an_instance_from_when_it_is_due() {
    let mut later = state(consumer(0, 0), Vec::new());
    let at = |seconds| WaitingRetries {
        scheduled: 1,
        read: 1,
        next_at: Some(now() + TimeDelta::seconds(seconds)),
        farthest_at: Some(now() + TimeDelta::hours(1)),
        ..WaitingRetries::default()
    };
    later.retries = Some(at(1));
    assert_eq!(kinds(&later, &seen()), []);
    later.retries = Some(at(-1));
    assert_eq!(kinds(&later, &seen()), [("no-instance", true)]);
    later.instances = vec![instance(&json!({}))];
    assert_eq!(kinds(&later, &seen()), [], "the server takes a moment");
    later.retries = Some(at(-61));
    assert_eq!(kinds(&later, &seen()), [("retries-late", true)]);
}

#[test]
fn a_clock_that_is_ahead_is_reported_and_blocks_nothing() {
    let state = state(consumer(0, 0), vec![instance(&json!({}))]);
    let ahead = |seconds| Seen {
        clocks: vec![("1".to_owned(), TimeDelta::seconds(seconds))],
        ..seen()
    };
    assert_eq!(kinds(&state, &ahead(5)), []);
    assert_eq!(kinds(&state, &ahead(3600)), [("clock", false)]);
    let told = issues(&state, &ahead(3600)).remove(0).cause;
    assert!(told.contains("3600 s ahead of"), "{told}");
    let told = issues(&state, &ahead(-9)).remove(0).cause;
    assert!(told.contains("9 s behind"), "{told}");
}

#[test]
fn all_on_standby_is_an_issue_when_no_lease_is_renewed() {
    let stands_by = || instance(&json!({ "activity": "standby", "ordered": true }));
    let state = state(consumer(1, 0), vec![stands_by(), stands_by()]);
    let written = |ago| Seen {
        lease: Some(LeaseSign {
            written_at: now() - TimeDelta::seconds(ago),
            is_held: true,
        }),
        ..seen()
    };
    assert_eq!(kinds(&state, &written(4)), []);
    assert_eq!(kinds(&state, &written(11)), [("no-lease", true)]);
}

#[test]
fn an_open_circuit_an_issue_and_full_slots_block_events() {
    let open = instance(&json!({ "circuit": "open" }));
    let with = |instance| state(consumer(1, 0), vec![instance]);
    assert_eq!(kinds(&with(open), &seen()), [("circuit-open", true)]);
    let denied = || instance(&json!({ "issue": "denied" }));
    let two = state(consumer(0, 0), vec![denied(), denied()]);
    assert_eq!(kinds(&two, &seen()), [("instance", true)], "told once");
    let full = state(consumer(1, 100), vec![instance(&json!({}))]);
    assert_eq!(kinds(&full, &seen()), [("ack-pending-full", true)]);
    let gone = Seen {
        has_retries: Some(false),
        has_dead_letters: Some(false),
        ..seen()
    };
    let found = [("retries-gone", true), ("dead-letters-gone", true)];
    assert_eq!(kinds(&state(consumer(0, 0), Vec::new()), &gone), found);
}

/// Whatever instances and servers report about themselves is shown.
#[test]
fn fuzz_answers_of_instances() {
    let seed = r#"{"subscriber":"s","id":"1","host":"h","pid":4294967295,"version":"0","started_at":
        "2026-11-21T09:30:00Z","activity":"standby","issue":"t","replay_issue":null,"ordered":true,
        "holds_lease":false,"circuit":"open","running":18446744073709551615,"resting":0,"in_flight":1,"in_flight_bytes":
        18446744073709551615,"hottest":[{"key":"k","waiting":3}],"concurrency":1,"rate":"1 per second","max_in_flight_bytes":1,
        "timeout_ms":18446744073709551615,"retry":"","handled":18446744073709551615,"failed":0,"dead_lettered":0,
        "last_delivery_at":null,"wants":[{"stream":"EVENTS","settings":{"max_ack_pending":1}}],
        "clock":"+262142-12-31T23:59:59Z","shadows":{"beta":["user.created"]}}"#;
    tidings_fuzz::fuzz_json("answer of an instance", &[seed], |answer| {
        let Ok(instance) = serde_json::from_slice::<Instance>(answer) else {
            return false;
        };
        let now = now();
        let instances = vec![instance.clone(), instance];
        let seen = Seen {
            clocks: crate::operations::subscribers::overview::clocks(&instances, (now, now)),
            ..seen()
        };
        let mut state = state(consumer(u64::MAX, u64::MAX), instances);
        // The sum of two such values once overflowed.
        state.consumers.push(consumer(u64::MAX, u64::MAX));
        assert_eq!((state.pending(), state.ack_pending()), (u64::MAX, u64::MAX));
        assert!(
            issues(&state, &seen)
                .iter()
                .all(|issue| !issue.cause.is_empty())
        );
        true
    });
}
