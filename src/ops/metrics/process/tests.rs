//! What is encoded, against the table.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use chrono::Utc;
use prometheus_client::{metrics::MetricType, registry::Registry};

use crate::{
    instance::Activity,
    nats::{AccountStorage, MeasuredStream, StreamMeasures},
    ops::metrics::{
        families::ALL,
        nats::{write_account, write_streams},
        outbox::{write_sizes, write_status},
        process,
        sheet::Sheet,
        tests::{busy, value},
    },
    outbox::{HeldSlot, Issue, LastBatch, Loss, Status, StreamState, preflight::Measured},
    policy::{
        breaker::CircuitState,
        issue_kind::IssueKind,
        preflight::{About, Concern, Severity},
    },
    process::{
        Process, RelaySource, SubscriberSource,
        figures::{
            ConnectionFigures, Phase, ProcessFigures, RelayFigures, RelayIssue, ServerFigures,
            SubscriberFigures,
        },
    },
};

const ISSUE: IssueKind = IssueKind::StorageFull;

struct OneRelay;

impl RelaySource for OneRelay {
    fn figures(&self, _: Instant) -> RelayFigures {
        RelayFigures {
            outbox: "shop".to_owned(),
            database: "sqlite",
            owner: "host:1".to_owned(),
            activity: Activity::Active,
            epoch: Some(3),
            lease: Duration::from_secs(5),
            is_set_up: true,
            is_relaying: true,
            unanswered: Duration::ZERO,
            open_rows: 4,
            unmoved: Duration::from_secs(9),
            fetching: None,
            delayed_overdue: None,
            has_waiting: false,
            confirmed: 40,
            confirmed_at: None,
            issues: vec![RelayIssue {
                place: "stream EVENTS".to_owned(),
                kind: ISSUE,
                since: Utc::now(),
                cause: "secret cause".to_owned(),
                cure: "secret cure".to_owned(),
            }],
            losses: Vec::new(),
        }
    }
}

struct OneSubscriber(Duration);

impl SubscriberSource for OneSubscriber {
    fn figures(&self, _: Instant) -> SubscriberFigures {
        SubscriberFigures {
            name: "mailer".to_owned(),
            ordered: true,
            concurrency: 16,
            timeout: Duration::from_secs(30),
            stuck_after: None,
            activity: Activity::Active,
            is_set_up: true,
            interrupted: None,
            is_paused: false,
            server: Some(ServerFigures {
                pending: 5,
                ack_pending: 6,
                oldest: Duration::from_secs(8),
                age: self.0,
            }),
            is_full: false,
            running: 1,
            resting: 2,
            in_flight: 3,
            in_flight_bytes: 400,
            idle_with_work: None,
            oldest_attempt: Some(Duration::from_secs(7)),
            oldest_event: None,
            last_ended: None,
            circuit: CircuitState::Open,
            circuit_open: None,
            circuit_error: None,
            probe_in: None,
            unconfirmed: Some(("secret error".to_owned(), Duration::ZERO)),
            hindrance: None,
            leaseless: None,
            notes: Vec::new(),
            failing: Vec::new(),
            handled: 1,
            failed: 1,
            dead_lettered: 1,
        }
    }
}

fn status() -> Status {
    let mut status = Status::default();
    status.backlog = 11;
    status.refuses = Some("secret reason".to_owned());
    status.refuses_as = IssueKind::DatabaseStandby;
    status.last_batch = Some(LastBatch {
        at: Utc::now(),
        events: 1,
        stream: "EVENTS".to_owned(),
        last_sequence: 1,
    });
    // The relay of this process tells of it, too.
    status.issues = vec![Issue {
        place: "stream EVENTS".to_owned(),
        kind: ISSUE,
        since: Utc::now(),
        cause: "secret cause".to_owned(),
        cure: "secret cure".to_owned(),
    }];
    status.losses = vec![Loss {
        stream: "EVENTS".to_owned(),
        since: Utc::now(),
        state: StreamState::Missing,
    }];
    status.held_slots = vec![HeldSlot {
        slot: "tidings.outbox_1".to_owned(),
        pid: Some(1),
        application: None,
        state: None,
        age_seconds: Some(77.0),
        query: Some("secret query".to_owned()),
    }];
    status
}

fn streams() -> [MeasuredStream; 2] {
    let state = StreamMeasures {
        bytes: 100,
        max_bytes: -1,
        messages: 3,
        oldest_s: 12.0,
        replicas: 3,
        current: 2,
        ahead_s: Some(-6.5),
    };
    [("EVENTS", Some(state)), ("LOST", None)].map(|(name, state)| MeasuredStream {
        name: name.to_owned(),
        state,
    })
}

/// Everything that there is, in the text format.
fn everything(age: Duration) -> String {
    let metrics = busy();
    let (relay, subscriber) = (Arc::new(OneRelay), Arc::new(OneSubscriber(age)));
    let process = Process::default();
    process.enters(Phase::Running);
    process.has_concerns(&[Concern {
        kind: IssueKind::OneCopy,
        severity: Severity::Danger,
        about: About::Stream("EVENTS".to_owned()),
        cause: "secret cause".to_owned(),
        cure: "secret cure".to_owned(),
        command: None,
    }]);
    process.has_relay(&relay);
    process.has_subscriber(&subscriber);
    let mut sheet = Sheet::default();
    metrics.0.counts.write(&mut sheet);
    let mut issues = process::Issues::default();
    let figures = ProcessFigures {
        connections: vec![ConnectionFigures {
            is_connected: true,
            lost: 2,
        }],
        ..process.figures()
    };
    process::write(&figures, &mut issues, &mut sheet);
    process::write_connections(&[figures], &mut sheet);
    write_streams(&streams(), &mut sheet);
    let (used, limit) = (7, -1);
    write_account(AccountStorage { used, limit }, &mut sheet);
    let (tables, ahead_s) = (vec![("outbox".to_owned(), 8192)], None);
    write_sizes(&"shop".into(), &Measured { tables, ahead_s }, &mut sheet);
    write_status(&"shop".into(), &status(), &mut issues, &mut sheet);
    issues.write(&mut sheet);
    sheet.into_text()
}

#[test]
fn workers_with_the_same_parts_have_one_series() {
    let process = Process::default();
    let subscriber = Arc::new(OneSubscriber(Duration::ZERO));
    process.has_subscriber(&subscriber);
    let connection = |is_connected, lost| ProcessFigures {
        connections: vec![ConnectionFigures { is_connected, lost }],
        ..process.figures()
    };
    let both = [connection(true, 2), connection(false, 3)];
    let (mut sheet, mut issues) = (Sheet::default(), process::Issues::default());
    for figures in &both {
        process::write(figures, &mut issues, &mut sheet);
    }
    process::write_connections(&both, &mut sheet);
    sheet.merge();
    let text = sheet.into_text();
    let paused = text
        .lines()
        .filter(|line| line.starts_with("tidings_subscriber_paused{"));
    assert_eq!(paused.count(), 1, "{text}");
    assert_eq!(value(&text, "tidings_nats_connected"), Some(0.0), "{text}");
    assert_eq!(
        value(&text, "tidings_nats_disconnects_total"),
        Some(5.0),
        "{text}"
    );
}

#[test]
fn what_is_encoded_is_what_stands_in_the_table() {
    let text = everything(Duration::ZERO);
    let mut seen = BTreeSet::new();
    for line in text.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        let (name, kind) = line.split_once(' ').unwrap();
        assert!(seen.insert(name), "{name} twice");
        let row = ALL.iter().find(|row| row.name == name);
        let row = row.unwrap_or_else(|| panic!("{name} is not in the table"));
        let expected = match row.kind {
            MetricType::Counter => "counter",
            MetricType::Gauge => "gauge",
            MetricType::Histogram => "histogram",
            MetricType::Info | MetricType::Unknown => "untyped",
        };
        assert_eq!(kind, expected, "{name}");
    }
    // Tested where they come from: the version, and what a look at the outbox leaves.
    let elsewhere = [
        "tidings_build_info",
        "tidings_scrape_errors_total",
        "tidings_outbox_enqueued_events_total",
    ];
    let missing = ALL.iter().map(|row| row.name);
    let missing: Vec<_> = missing.filter(|name| !seen.contains(name)).collect();
    assert_eq!(missing, elsewhere);
    assert!(!text.contains("secret"), "no cause, no query: {text}");
}

#[test]
fn each_series_is_written_once_with_its_value() {
    let text = everything(Duration::ZERO);
    let series = text.lines().filter(|line| !line.starts_with('#'));
    let series: Vec<_> = series
        .map(|line| line.rsplit_once(' ').unwrap().0)
        .collect();
    let distinct: BTreeSet<_> = series.iter().collect();
    assert_eq!(series.len(), distinct.len(), "{text}");
    for (series, expected) in [
        ("tidings_outbox_backlog_events{outbox=\"shop\"}", 11.0),
        ("tidings_outbox_held_slot_seconds{outbox=\"shop\"}", 77.0),
        (
            "tidings_relay_refuses{outbox=\"shop\",reason=\"database-standby\"}",
            1.0,
        ),
        (
            "tidings_stream_loss{outbox=\"shop\",stream=\"EVENTS\",kind=\"stream-gone\"}",
            1.0,
        ),
        ("tidings_relay_state{outbox=\"shop\",state=\"active\"}", 1.0),
        (
            "tidings_relay_state{outbox=\"shop\",state=\"standby\"}",
            0.0,
        ),
        ("tidings_relay_unmoved_seconds{outbox=\"shop\"}", 9.0),
        (
            "tidings_relay_confirmed_events_total{outbox=\"shop\"}",
            40.0,
        ),
        (
            "tidings_subscriber_pending_events{subscriber=\"mailer\"}",
            5.0,
        ),
        (
            "tidings_subscriber_ack_pending_events{subscriber=\"mailer\"}",
            6.0,
        ),
        (
            "tidings_subscriber_circuit{subscriber=\"mailer\",state=\"open\"}",
            1.0,
        ),
        (
            "tidings_subscriber_issue{subscriber=\"mailer\",kind=\"unconfirmed\"}",
            1.0,
        ),
        (
            "tidings_subscriber_issue{subscriber=\"mailer\",kind=\"lease\"}",
            0.0,
        ),
        (
            "tidings_subscriber_backoff_events{subscriber=\"mailer\"}",
            2.0,
        ),
        ("tidings_nats_disconnects_total", 2.0),
        ("tidings_stream_has_leader{stream=\"EVENTS\"}", 1.0),
        ("tidings_stream_has_leader{stream=\"LOST\"}", 0.0),
        ("tidings_stream_max_bytes{stream=\"EVENTS\"}", 0.0),
        ("tidings_stream_replicas_current{stream=\"EVENTS\"}", 2.0),
        ("tidings_jetstream_storage_bytes", 7.0),
        ("tidings_jetstream_max_storage_bytes", 0.0),
        ("tidings_clock_offset_seconds{of=\"nats\"}", -6.5),
        (
            "tidings_outbox_storage_bytes{outbox=\"shop\",table=\"outbox\"}",
            8192.0,
        ),
        (
            "tidings_preflight_findings{check=\"one-copy\",severity=\"danger\"}",
            1.0,
        ),
        (
            "tidings_component_status{component=\"relay\",of=\"shop\",state=\"degraded\"}",
            1.0,
        ),
        (
            "tidings_component_status{component=\"relay\",of=\"shop\",state=\"ok\"}",
            0.0,
        ),
    ] {
        assert_eq!(value(&text, series), Some(expected), "{series}: {text}");
    }
}

/// An old look at a consumer says nothing about now.
#[test]
fn old_figures_of_the_server_are_left_out() {
    let text = everything(Duration::from_secs(61));
    assert!(
        !text.contains("tidings_subscriber_pending_events"),
        "{text}"
    );
    assert!(text.contains("tidings_subscriber_running_events"), "{text}");
}

impl Sheet {
    fn into_text(self) -> String {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Once(std::sync::Mutex::new(Some(self)))));
        let mut text = String::new();
        prometheus_client::encoding::prometheus_text::encode(&mut text, &registry).unwrap();
        text
    }
}

#[derive(Debug)]
struct Once(std::sync::Mutex<Option<Sheet>>);

impl prometheus_client::collector::Collector for Once {
    fn encode(
        &self,
        encoder: prometheus_client::encoding::DescriptorEncoder<'_>,
    ) -> std::fmt::Result {
        let sheet = self.0.lock().unwrap().take();
        sheet.unwrap_or_default().encode(encoder)
    }
}
