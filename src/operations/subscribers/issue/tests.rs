//! What is reported as an issue, and what is not.

use serde_json::{Value, json};

use super::*;
use crate::{instance::Instance, operations::subscribers::WaitingRetries};

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

fn causes(state: &SubscriberState, seen: &Seen) -> Vec<String> {
    let found = issues(state, seen).into_iter();
    found.map(|issue| issue.cause).collect()
}

#[track_caller]
fn assert_in_order(text: &str, parts: &[&str]) {
    let mut rest = text;
    for part in parts {
        let (_, behind) = rest.split_once(part).unwrap_or_else(|| {
            panic!("{part:?} is not there, or not in this order, in {text:?}");
        });
        rest = behind;
    }
}

#[test]
fn silent_and_missing_instances_are_distinguished() {
    let silent = Seen {
        is_listened_to: true,
        ..seen()
    };
    let waits = state(consumer(1, 0), Vec::new());
    let told = causes(&waits, &silent).remove(0);
    let parts = ["one is connected", "frozen", "blocks", "may not answer"];
    assert_in_order(&told, &parts);
    let told = causes(&waits, &seen()).remove(0);
    let parts = [
        "or is connected",
        "down",
        "in the code",
        "may not subscribe",
    ];
    assert_in_order(&told, &parts);
    let mut pulls = consumer(1, 0);
    pulls.pulls = 2;
    let told = causes(&state(pulls, Vec::new()), &seen()).remove(0);
    assert_in_order(&told, &["2 pulls", "has ended", "may not subscribe"]);
}

#[test]
fn slots_that_are_taken_are_reported_and_become_an_issue() {
    let taken = |for_ms: u64, last_ended_ms: Value, stuck_after_ms: Value| {
        let oldest = json!({ "name": "user.created", "event": "e-1", "for_ms": for_ms });
        let instance = instance(&json!({
            "is_full": true, "concurrency": 16, "timeout_ms": 30_000, "oldest_attempt": oldest,
            "last_ended_ms": last_ended_ms, "stuck_after_ms": stuck_after_ms, "clock": now(),
        }));
        state(consumer(9, 16), vec![instance])
    };
    let no = Value::Null;
    let kinds_of = |state: &SubscriberState| kinds(state, &seen());
    assert_eq!(kinds_of(&taken(9_999, no.clone(), no.clone())), []);
    assert_eq!(
        kinds_of(&taken(90_000, json!(500), no.clone())),
        [],
        "others end"
    );
    let early = taken(12_000, no.clone(), no.clone());
    assert_eq!(kinds_of(&early), [("slots-taken", false)]);
    let late = taken(31_000, json!(30_000), no.clone());
    assert_eq!(kinds_of(&late), [("slots-taken", true)]);
    let told = causes(&late, &seen()).remove(0);
    assert_in_order(
        &told,
        &["all 16 slots", "for 30 s", "user.created e-1", "31 s"],
    );
    let since = issues(&late, &seen()).remove(0).since;
    assert_eq!(since, Some(now() - TimeDelta::seconds(30)));
    let may = taken(31_000, no, json!(600_000));
    assert_eq!(kinds_of(&may), [("slots-taken", false)], "its code says so");
}

#[test]
fn an_open_circuit_has_its_error_start_and_next_probe() {
    let (since, probe) = (
        now() - TimeDelta::seconds(70),
        now() + TimeDelta::seconds(20),
    );
    let open = json!({ "since": since, "error": "connection refused", "next_probe_at": probe });
    let open = instance(&json!({ "circuit": "open", "open_circuit": open }));
    let found = issues(&state(consumer(1, 0), vec![open]), &seen()).remove(0);
    let probe = second(probe);
    assert_in_order(
        &found.cause,
        &["the next one at", &probe, "connection refused"],
    );
    assert_eq!(found.since, Some(since));
}

#[test]
fn a_key_waits_five_seconds_after_its_first_failure() {
    let failing = |ago| {
        let key = json!({
            "key": "p-7", "name": "order.paid", "event": "e-1", "attempts": 41, "since": now() - TimeDelta::seconds(ago),
            "next_at": now() + TimeDelta::seconds(22), "waiting": 5,
        });
        let instance = instance(&json!({ "ordered": true, "clock": now(), "failing": [key] }));
        state(consumer(0, 6), vec![instance])
    };
    assert_eq!(kinds(&failing(4), &seen()), []);
    assert_eq!(kinds(&failing(5), &seen()), [("key-waits", false)]);
    let found = issues(&failing(5), &seen()).remove(0);
    assert_in_order(&found.cause, &["p-7", "5 behind", "order.paid e-1", "41"]);
    assert!(found.cure.unwrap().contains("tidings trace e-1"));
    assert_eq!(found.since, Some(now() - TimeDelta::seconds(5)));
}

#[test]
fn a_name_without_a_handler_is_an_issue_once_its_events_arrive() {
    let wants = json!([{ "stream": "EVENTS", "settings": { "filter_subject": "user.created" } }]);
    let filtered = |names: Value| {
        let mut consumer = consumer(1, 0);
        consumer.config.insert("filter_subjects".to_owned(), names);
        consumer
    };
    let knows = || instance(&json!({ "wants": wants }));
    let same = state(filtered(json!(["user.created"])), vec![knows()]);
    assert_eq!(kinds(&same, &seen()), []);
    let wider = || filtered(json!(["user.created", "user.renamed"]));
    let found = state(wider(), vec![knows()]);
    assert_eq!(kinds(&found, &seen()), [("name-without-handler", false)]);
    assert_in_order(
        &causes(&found, &seen())[0],
        &["user.renamed", "none of the 1"],
    );
    let unhandled = "no handler of this instance takes user.renamed (3 wait)";
    let arrived = instance(&json!({ "wants": wants, "unhandled": unhandled }));
    let found = state(wider(), vec![knows(), arrived]);
    assert_eq!(kinds(&found, &seen()), [("name-without-handler", true)]);
    assert_eq!(
        kinds(&state(wider(), Vec::new()), &seen()),
        [("no-instance", true)]
    );
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
        "clock":"+262142-12-31T23:59:59Z","unhandled":"user.renamed","is_full":true,"oldest_attempt":{"name":"user.created",
        "event":"e","for_ms":18446744073709551615},"last_ended_ms":18446744073709551615,"stuck_after_ms":1,
        "open_circuit":{"since":"2026-11-21T09:30:00Z","error":"t","next_probe_at":"+262142-12-31T23:59:59Z"},
        "failing":[{"key":"k","name":"user.created","event":"e","attempts":4294967295,
        "since":"-262143-01-01T00:00:00Z","next_at":"+262142-12-31T23:59:59Z","waiting":18446744073709551615}],"shadows":{"beta":["user.created"]}}"#;
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
