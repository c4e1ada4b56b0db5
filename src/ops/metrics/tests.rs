//! What is observed, and what a scrape shows of it.

use std::{collections::BTreeSet, time::Duration};

use chrono::{TimeDelta, Utc};
use tidings_contract::Envelope;

use super::*;
use crate::{
    observer::{
        BatchEnd, Blocked, DeliveryEnd, DeliveryFacts, KeyChange, LeaseChange, Observation,
        Observer, Path, ReplayChange,
    },
    policy::{
        breaker::Change,
        failure::Fault,
        issue_kind::IssueKind,
        outcome::{Cause, DeadLetter, Outcome},
    },
    replay::{ReplayState, tag::ReplayId},
};

const OPEN_METRICS: Option<&str> = Some("application/openmetrics-text");
const NAME: &str = "user.created";
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

fn event(name: &str) -> Envelope {
    let envelope = Envelope::raw(name, 1, None, "{}").unwrap();
    let traced = envelope.traced(format!("00-{TRACE}-00f067aa0ba902b7-01"));
    traced.unwrap().at(Utc::now() - TimeDelta::seconds(20))
}

fn facts(event: &Envelope) -> DeliveryFacts<'_> {
    DeliveryFacts {
        subscriber: "mailer",
        event: Some(event),
        subject: NAME,
        stream: "EVENTS",
        sequence: 1,
        stored_at: Utc::now() - TimeDelta::seconds(3),
        redrives: 0,
        replay: None,
    }
}

fn decided<'a>(outcome: &'a Outcome, fault: Option<Fault>) -> DeliveryEnd<'a> {
    DeliveryEnd::Decided {
        attempt: 1,
        outcome,
        error: None,
        fault,
        elapsed: Duration::from_millis(30),
    }
}

fn letter(cause: Cause) -> DeadLetter {
    DeadLetter::new(cause, &"it failed", 8)
}

fn ends(of: &dyn Observer, event: &Envelope, end: DeliveryEnd<'_>) {
    of.observe(&Observation::Delivery(facts(event), end));
}

/// Metrics of a process in which everything has happened that is counted.
pub(super) fn busy() -> Metrics {
    let metrics = Metrics::new();
    let counts = &metrics.0.counts;
    let of = counts.of_subscriber("mailer", &[NAME]).unwrap();
    let event = event(NAME);
    of.observe(&Observation::Arrived);
    let exhausted = letter(Cause::Exhausted);
    let retry = || Outcome::Retry(Duration::ZERO);
    for (outcome, fault) in [
        (Outcome::Ack, None),
        (Outcome::Ack, None),
        (Outcome::Duplicate, None),
        (retry(), Some(Fault::Error)),
        (retry(), Some(Fault::Timeout)),
        (retry(), Some(Fault::Panic)),
        (Outcome::Defer(Duration::ZERO), Some(Fault::Timeout)),
        (Outcome::Reject(exhausted.clone()), Some(Fault::Timeout)),
        (Outcome::Reject(letter(Cause::Rejected)), Some(Fault::Error)),
    ] {
        ends(&*of, &event, decided(&outcome, fault));
    }
    for is_stored in [true, false] {
        ends(
            &*of,
            &event,
            DeliveryEnd::DeadLettered {
                letter: &exhausted,
                is_stored,
                elapsed: Duration::ZERO,
            },
        );
    }
    ends(&*of, &event, DeliveryEnd::DeadLetterLost { at: Utc::now() });
    ends(
        &*of,
        &event,
        DeliveryEnd::Unconfirmed {
            answer: "ack",
            tried: 1,
            error: "secret error",
        },
    );
    ends(&*of, &event, DeliveryEnd::Skipped);
    ends(&*of, &event, DeliveryEnd::Unhandled { unsaid: None });
    let (subscriber, replay, key) = ("mailer", ReplayId::new(), "secret-key");
    let parked = KeyChange::Parked {
        stream: "EVENTS",
        sequence: 1,
    };
    for change in [parked, KeyChange::Unparked] {
        of.observe(&Observation::Key {
            subscriber,
            key,
            change,
        });
    }
    for change in [
        ReplayChange::Running { completed: 0 },
        ReplayChange::Stalled { why: "secret why" },
        ReplayChange::Ended {
            state: ReplayState::Failed,
        },
    ] {
        of.observe(&Observation::Replay {
            subscriber,
            replay,
            change,
        });
    }
    let change = LeaseChange::Lost;
    of.observe(&Observation::Lease { subscriber, change });
    let change = Change::Opened {
        failed: 18,
        attempts: 20,
        pause: Duration::ZERO,
    };
    of.observe(&Observation::Circuit { subscriber, change });
    relayed(counts);
    metrics
}

fn relayed(counts: &Counts) {
    let relay = counts.of_outbox("shop").unwrap();
    let committed = |each: &mut dyn FnMut(chrono::DateTime<Utc>)| {
        each(Utc::now() - TimeDelta::milliseconds(20));
        each(Utc::now() - TimeDelta::seconds(2));
    };
    let batch = |path, refusal, is_unknown| BatchEnd {
        stream: "EVENTS",
        path,
        events: 2,
        bytes: 100,
        elapsed: Duration::from_millis(4),
        committed: &committed,
        refusal,
        is_unknown,
    };
    let why = "secret refusal".to_owned();
    for end in [
        batch(Path::Batch, None, false),
        batch(Path::Single, None, false),
        batch(Path::Batch, Some(&why), false),
        batch(Path::Batch, Some(&why), true),
    ] {
        relay.observe(&Observation::Batch(end));
    }
    let kind = IssueKind::StorageFull;
    relay.observe(&Observation::Interrupted { kind });
    relay.observe(&Observation::Parked {
        blocked_on: Blocked::Subject,
        events: 7,
    });
}

/// The value of a series in OpenMetrics or in the older text format.
pub(super) fn value(text: &str, series: &str) -> Option<f64> {
    let line = text.lines().find(|line| {
        line.strip_prefix(series)
            .is_some_and(|rest| rest.starts_with(' '))
    })?;
    let value = line[series.len()..].split_whitespace().next()?;
    value.parse().ok()
}

#[track_caller]
fn assert_value(text: &str, series: &str, expected: f64) {
    let found = value(text, series);
    let is_close = found.is_some_and(|found| (found - expected).abs() < 0.5);
    assert!(is_close, "{series} is {found:?}, not {expected}: {text}");
}

#[test]
fn each_end_is_counted_under_its_labels() {
    let (_, text) = busy().encode(None);
    let attempts = |outcome| {
        format!(
            "tidings_subscriber_attempts_total{{subscriber=\"mailer\",name=\"{NAME}\",outcome=\"{outcome}\"}}"
        )
    };
    for (outcome, times) in [
        ("ack", 2.0),
        ("duplicate", 1.0),
        ("retry", 1.0),
        ("timeout", 1.0),
        ("panic", 1.0),
        ("defer", 1.0),
        ("exhausted", 1.0),
        ("reject", 1.0),
        ("skipped", 1.0),
        ("unhandled", 1.0),
    ] {
        assert_value(&text, &attempts(outcome), times);
    }
    let of = "{subscriber=\"mailer\"}";
    let dead_letters = format!(
        "tidings_dead_letters_total{{subscriber=\"mailer\",name=\"{NAME}\",cause=\"exhausted\"}}"
    );
    assert_value(&text, &dead_letters, 1.0);
    let duration = format!(
        "tidings_subscriber_attempt_duration_seconds_count{{subscriber=\"mailer\",name=\"{NAME}\"}}"
    );
    assert_value(&text, &duration, 8.0);
    for (metric, expected) in [
        ("tidings_stored_to_handled_seconds_count", 2.0),
        ("tidings_stored_to_handled_seconds_sum", 6.0),
        ("tidings_commit_to_handled_seconds_sum", 40.0),
        ("tidings_subscriber_deliveries_total", 1.0),
        ("tidings_subscriber_unconfirmed_total", 1.0),
        ("tidings_dead_letters_lost_total", 1.0),
        ("tidings_subscriber_keys_parked_total", 1.0),
        ("tidings_subscriber_keys_unparked_total", 1.0),
        ("tidings_subscriber_circuit_opened_total", 1.0),
        ("tidings_replays_running", 1.0),
    ] {
        assert_value(&text, &format!("{metric}{of}"), expected);
    }
    let stream = "{outbox=\"shop\",stream=\"EVENTS\"}";
    for (metric, expected) in [
        ("tidings_commit_to_stream_seconds_count", 4.0),
        ("tidings_commit_to_stream_seconds_sum", 4.0),
        ("tidings_relay_batch_duration_seconds_count", 3.0),
        ("tidings_relay_bytes_total", 200.0),
    ] {
        assert_value(&text, &format!("{metric}{stream}"), expected);
    }
    for (series, expected) in [
        (
            "tidings_relay_events_total{outbox=\"shop\",stream=\"EVENTS\",path=\"single\"}",
            2.0,
        ),
        (
            "tidings_relay_batches_total{outbox=\"shop\",stream=\"EVENTS\",result=\"refused\"}",
            1.0,
        ),
        (
            "tidings_relay_batches_total{outbox=\"shop\",stream=\"EVENTS\",result=\"unknown\"}",
            1.0,
        ),
        (
            "tidings_relay_interruptions_total{outbox=\"shop\",kind=\"storage-full\"}",
            1.0,
        ),
        (
            "tidings_outbox_parked_total{outbox=\"shop\",blocked_on=\"subject\"}",
            7.0,
        ),
    ] {
        assert_value(&text, series, expected);
    }
    assert!(!text.contains("secret"), "no key, no error text: {text}");
}

#[test]
fn openmetrics_has_the_trace_of_an_attempt() {
    let metrics = busy();
    let (content_type, text) = metrics.encode(OPEN_METRICS);
    assert!(content_type.starts_with("application/openmetrics-text; version=1.0.0"));
    assert!(text.ends_with("# EOF\n"), "{text}");
    let exemplar = format!(" # {{trace_id=\"{TRACE}\"}} 0.03 ");
    let line = text.lines().find(|line| line.contains(&exemplar));
    let line = line.unwrap_or_else(|| panic!("no exemplar: {text}"));
    assert!(line.starts_with("tidings_subscriber_attempt_duration_seconds_bucket"));
    let (content_type, text) = metrics.encode(None);
    assert!(content_type.starts_with("text/plain; version=0.0.4"));
    assert!(!text.contains(TRACE) && !text.contains("# EOF"), "{text}");
}

/// A replay and a redrive of an old event say nothing about how long events take.
#[test]
fn replays_and_redrives_are_no_delay() {
    let metrics = Metrics::new();
    let of = metrics.0.counts.of_subscriber("mailer", &[NAME]).unwrap();
    let event = event(NAME);
    for (replay, redrives) in [(Some(ReplayId::new()), 0), (None, 2)] {
        let facts = DeliveryFacts {
            replay,
            redrives,
            ..facts(&event)
        };
        of.observe(&Observation::Delivery(facts, decided(&Outcome::Ack, None)));
    }
    let (_, text) = metrics.encode(None);
    let of = "{subscriber=\"mailer\"}";
    assert_value(
        &text,
        &format!("tidings_stored_to_handled_seconds_count{of}"),
        0.0,
    );
    assert_value(&text, &format!("tidings_redriven_total{of}"), 1.0);
}

#[test]
fn names_that_the_code_does_not_know_share_one_series() {
    let metrics = Metrics::new();
    let of = metrics.0.counts.of_subscriber("mailer", &[NAME]).unwrap();
    for n in 0..1_000 {
        let event = event(&format!("user.n{n}"));
        of.observe(&Observation::Delivery(
            facts(&event),
            decided(&Outcome::Ack, None),
        ));
        let facts = DeliveryFacts {
            event: None,
            ..facts(&event)
        };
        of.observe(&Observation::Delivery(facts, DeliveryEnd::Skipped));
    }
    let (_, text) = metrics.encode(None);
    let other =
        "tidings_subscriber_attempts_total{subscriber=\"mailer\",name=\"other\",outcome=\"ack\"}";
    assert_value(&text, other, 1_000.0);
    assert!(!text.contains("user.n7"), "{text}");
    let relay = metrics.0.counts.of_outbox("shop").unwrap();
    for n in 0..1_000 {
        relay.observe(&Observation::Batch(BatchEnd {
            stream: &format!("S{n}"),
            path: Path::Single,
            events: 1,
            bytes: 1,
            elapsed: Duration::ZERO,
            committed: &|_| {},
            refusal: None,
            is_unknown: false,
        }));
    }
    let (_, text) = metrics.encode(None);
    let streams: BTreeSet<_> = text
        .lines()
        .filter(|line| line.starts_with("tidings_relay_bytes_total{"))
        .collect();
    assert_eq!(streams.len(), 101, "a hundred, and the others");
}

/// A subscriber that begins again, in a new worker, goes on with its counts: two series with one name are refused by a
/// scraper.
#[test]
fn a_subscriber_has_one_set_of_series() {
    let metrics = busy();
    metrics.0.counts.of_subscriber("mailer", &[NAME]).unwrap();
    let (_, text) = metrics.encode(OPEN_METRICS);
    let series = text.lines().filter(|line| !line.starts_with('#'));
    let series: Vec<_> = series.map(|line| line.split(' ').next().unwrap()).collect();
    let distinct: BTreeSet<_> = series.iter().collect();
    assert_eq!(series.len(), distinct.len(), "{text}");
}

/// Fifty subscribers with four names each.
#[test]
fn a_scrape_of_50_subscribers_is_quick() {
    let metrics = Metrics::new();
    let names = ["a.b", "c.d", "e.f", "g.h"];
    for n in 0..50 {
        metrics.0.counts.subscriber(&format!("s{n}"), &names);
    }
    let fastest = (0..5).map(|_| {
        let began = std::time::Instant::now();
        assert!(metrics.encode(OPEN_METRICS).1.len() > 100_000);
        began.elapsed()
    });
    let fastest = fastest.min().unwrap();
    // Without optimisation it takes several times as long.
    let most = if cfg!(debug_assertions) { 500 } else { 50 };
    assert!(fastest < Duration::from_millis(most), "{fastest:?}");
}
