//! The table of all metrics: what is encoded, and what `docs/reference/metrics.md` is generated from. Never counts.

use prometheus_client::metrics::MetricType;

/// A metric with `N` labels.
#[derive(Debug)]
pub(super) struct Family<const N: usize> {
    pub(super) name: &'static str,
    pub(super) labels: [&'static str; N],
}

/// A row of the table.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) name: &'static str,
    pub(super) kind: MetricType,
    #[cfg(test)] // the encoder is given those of the family
    labels: &'static [&'static str],
    pub(super) help: &'static str,
    /// The part of the documentation that it stands in.
    #[cfg(test)]
    part: &'static str,
}

/// Declares the metrics in parts.
macro_rules! families {
    ($($part:literal { $($id:ident $kind:ident $name:literal [$($label:literal)*] $help:literal,)+ })+) => {
        $($(
            pub(super) static $id: Family<{ <[&str]>::len(&[$($label,)*]) }> = Family {
                name: $name,
                labels: [$($label,)*],
            };
        )+)+

        /// All metrics, in the order of the output and of the documentation.
        pub(super) static ALL: &[Row] = &[$($(Row {
            name: $name,
            kind: MetricType::$kind,
            #[cfg(test)]
            labels: &[$($label,)*],
            help: $help,
            #[cfg(test)]
            part: $part,
        },)+)+];
    };
}

families! {
    "Process" {
        BUILD_INFO Gauge "tidings_build_info" ["version"]
            "1, with the version of Tidings as a label",
        NATS_CONNECTED Gauge "tidings_nats_connected" []
            "Whether all connections of the process to NATS are there: 1 or 0",
        NATS_DISCONNECTS Counter "tidings_nats_disconnects_total" []
            "Connections to NATS that were lost",
        WORKER_PHASE Gauge "tidings_worker_phase" ["phase"]
            "1 for the present phase of the worker: starting, running or draining",
        COMPONENT_STATUS Gauge "tidings_component_status" ["component" "of" "state"]
            "1 for the present state of the process, of its relay, and of each of its subscribers",
        PREFLIGHT_FINDINGS Gauge "tidings_preflight_findings" ["check" "severity"]
            "What the checks at the start of the process have found",
        CLOCK_OFFSET Gauge "tidings_clock_offset_seconds" ["of"]
            "By how much the clock of NATS or of the database is ahead of the one of the process",
        RUNTIME_BLOCKED Gauge "tidings_runtime_blocked_seconds" []
            "How long the runtime of the worker has run no task; measured while its endpoints listen",
        SCRAPE_ERRORS Counter "tidings_scrape_errors_total" ["part"]
            "Failed attempts to read figures; their metrics are left out until one succeeds",
    }
    "NATS" {
        STREAM_HAS_LEADER Gauge "tidings_stream_has_leader" ["stream"]
            "Whether a stream that the process uses has a leader: 1 or 0",
        STREAM_BYTES Gauge "tidings_stream_bytes" ["stream"]
            "Bytes that the stream holds",
        STREAM_MAX_BYTES Gauge "tidings_stream_max_bytes" ["stream"]
            "How many bytes the stream may hold; 0 without a limit",
        STREAM_MESSAGES Gauge "tidings_stream_messages" ["stream"]
            "Messages that the stream holds",
        STREAM_OLDEST Gauge "tidings_stream_oldest_seconds" ["stream"]
            "Age of the oldest message of the stream; 0 when there is none",
        STREAM_REPLICAS Gauge "tidings_stream_replicas" ["stream"]
            "Copies that the stream is configured to have",
        STREAM_REPLICAS_CURRENT Gauge "tidings_stream_replicas_current" ["stream"]
            "Copies that are up to date",
        JETSTREAM_STORAGE Gauge "tidings_jetstream_storage_bytes" []
            "Bytes that the account stores in files",
        JETSTREAM_MAX_STORAGE Gauge "tidings_jetstream_max_storage_bytes" []
            "How many bytes the account may store in files; 0 without a limit",
    }
    "Outbox" {
        BACKLOG Gauge "tidings_outbox_backlog_events" ["outbox"]
            "Committed events that are not confirmed yet, without those that wait for a decision",
        OLDEST Gauge "tidings_outbox_oldest_unpublished_seconds" ["outbox"]
            "Age of the oldest event of the backlog; 0 when there is none",
        CONFIRMED_AT Gauge "tidings_outbox_last_confirmed_timestamp_seconds" ["outbox"]
            "When the last batch was confirmed",
        LEASE_REMAINING Gauge "tidings_outbox_lease_remaining_seconds" ["outbox"]
            "How long the lease of the relay still lasts; negative when it has expired",
        LEASE_EPOCH Gauge "tidings_outbox_lease_epoch" ["outbox"]
            "How often the lease was acquired",
        OUTBOX_PARKED Gauge "tidings_outbox_parked_events" ["outbox" "blocked_on"]
            "Parked events that wait for a decision, or are restored by themselves",
        DELAYED Gauge "tidings_outbox_delayed_events" ["outbox"]
            "Delayed events",
        DELAYED_OVERDUE Gauge "tidings_outbox_delayed_overdue_seconds" ["outbox"]
            "How long the next delayed event is overdue; 0 when none is",
        HELD Gauge "tidings_outbox_held_slot_seconds" ["outbox"]
            "Age of the oldest transaction that holds a slot of the log; 0 without one",
        OUTBOX_STORAGE Gauge "tidings_outbox_storage_bytes" ["outbox" "table"]
            "Disk space of the tables, with indexes and all partitions; in SQLite of the database as a whole",
        REFUSES Gauge "tidings_relay_refuses" ["outbox" "reason"]
            "1 while no relay runs on this database, with the reason",
        ISSUE_SINCE Gauge "tidings_relay_issue_since_timestamp_seconds" ["outbox" "place" "kind"]
            "When an issue of the relay began; at most 20 issues",
        STREAM_LOSS Gauge "tidings_stream_loss" ["outbox" "stream" "kind"]
            "1 while a stream has lost confirmed events, until that is settled",
        ENQUEUED Counter "tidings_outbox_enqueued_events_total" ["outbox"]
            "Events that this process has written to the outbox, also in transactions that were rolled back later",
    }
    "Relay" {
        RELAY_STATE Gauge "tidings_relay_state" ["outbox" "state"]
            "1 for the present state of the relay of this process: starting, active, standby or draining",
        RELAY_OPEN Gauge "tidings_relay_open_events" ["outbox"]
            "Events that the relay has read, and that are neither confirmed nor parked",
        RELAY_UNMOVED Gauge "tidings_relay_unmoved_seconds" ["outbox"]
            "How long none of the events that were read was confirmed or parked; 0 without such events",
        RELAY_CONFIRMED Counter "tidings_relay_confirmed_events_total" ["outbox"]
            "Events that were confirmed since the relay was started",
        RELAY_EVENTS Counter "tidings_relay_events_total" ["outbox" "stream" "path"]
            "Events that are stored in the stream, by an atomic batch or each by itself",
        RELAY_BYTES Counter "tidings_relay_bytes_total" ["outbox" "stream"]
            "Bytes of payload that are stored in the stream",
        RELAY_BATCHES Counter "tidings_relay_batches_total" ["outbox" "stream" "result"]
            "Atomic batches; an unknown result is looked up in the stream before anything is sent again",
        RELAY_BATCH_DURATION Histogram "tidings_relay_batch_duration_seconds" ["outbox" "stream"]
            "Time from the last member of a batch to its answer",
        RELAY_INTERRUPTIONS Counter "tidings_relay_interruptions_total" ["outbox" "kind"]
            "Faults that have ended the relay's work; it begins again by itself",
        PARKED Counter "tidings_outbox_parked_total" ["outbox" "blocked_on"]
            "Events that the relay has parked, by what they wait for",
        COMMIT_TO_STREAM Histogram "tidings_commit_to_stream_seconds" ["outbox" "stream"]
            "Time from the write of an event in its transaction to its confirmation by the stream",
    }
    "Subscriber" {
        SUBSCRIBER_STATE Gauge "tidings_subscriber_state" ["subscriber" "state"]
            "1 for the present state of this instance: starting, active, standby or draining",
        PENDING Gauge "tidings_subscriber_pending_events" ["subscriber"]
            "Messages that were never delivered, in all streams of the subscriber, as the last look at its consumers has found",
        ACK_PENDING Gauge "tidings_subscriber_ack_pending_events" ["subscriber"]
            "Deliveries to any instance that are not acknowledged, as the last look at its consumers has found",
        OLDEST_PENDING Gauge "tidings_subscriber_oldest_pending_seconds" ["subscriber"]
            "Age of the oldest pending event, at most; 0 when none is pending",
        PAUSED Gauge "tidings_subscriber_paused" ["subscriber"]
            "Whether the subscriber is paused: 1 or 0",
        CIRCUIT Gauge "tidings_subscriber_circuit" ["subscriber" "state"]
            "1 for the present state of the circuit: closed, open or half_open",
        SUBSCRIBER_ISSUE Gauge "tidings_subscriber_issue" ["subscriber" "kind"]
            "1 while answers are unconfirmed, pulls are interrupted, or the lease cannot be read; else 0",
        IDLE_WITH_WORK Gauge "tidings_subscriber_idle_with_work_seconds" ["subscriber"]
            "How long due events have waited, while no attempt was running and none has ended",
        CONCURRENCY Gauge "tidings_subscriber_concurrency" ["subscriber"]
            "How many attempts may run at once",
        RUNNING Gauge "tidings_subscriber_running_events" ["subscriber"]
            "Attempts that run",
        BACKOFF Gauge "tidings_subscriber_backoff_events" ["subscriber"]
            "Events that wait in the process for their next attempt",
        IN_FLIGHT Gauge "tidings_subscriber_in_flight_events" ["subscriber"]
            "Events in flight: they run, or wait in the process",
        IN_FLIGHT_BYTES Gauge "tidings_subscriber_in_flight_bytes" ["subscriber"]
            "Bytes of the events in flight",
        OLDEST_ATTEMPT Gauge "tidings_subscriber_oldest_attempt_seconds" ["subscriber"]
            "How long the oldest attempt has run; 0 when none runs",
        TIMEOUT Gauge "tidings_subscriber_timeout_seconds" ["subscriber"]
            "How long an attempt may take",
        DELIVERIES Counter "tidings_subscriber_deliveries_total" ["subscriber"]
            "Deliveries that an instance has taken in",
        ATTEMPTS Counter "tidings_subscriber_attempts_total" ["subscriber" "name" "outcome"]
            "Ends of deliveries and of attempts, by outcome",
        ATTEMPT_DURATION Histogram "tidings_subscriber_attempt_duration_seconds" ["subscriber" "name"]
            "Time that a handler has taken; with the trace of a sampled event as exemplar",
        STORED_TO_HANDLED Histogram "tidings_stored_to_handled_seconds" ["subscriber"]
            "Time from the storage of an event in its stream until it was handled; without replays and redrives",
        COMMIT_TO_HANDLED Histogram "tidings_commit_to_handled_seconds" ["subscriber"]
            "Time from the write of an event in its transaction until it was handled; without replays and redrives",
        LAST_PROGRESS Gauge "tidings_subscriber_last_progress_timestamp_seconds" ["subscriber"]
            "When an attempt last ended, well or badly",
        UNCONFIRMED Counter "tidings_subscriber_unconfirmed_total" ["subscriber"]
            "Answers that the server has not confirmed: their events are redelivered",
        DEAD_LETTERS Counter "tidings_dead_letters_total" ["subscriber" "name" "cause"]
            "Dead letters that are stored",
        DEAD_LETTERS_LOST Counter "tidings_dead_letters_lost_total" ["subscriber"]
            "Dead letters that their stream has lost, and that are stored again",
        REDRIVEN Counter "tidings_redriven_total" ["subscriber"]
            "Deliveries of redriven events that were handled",
        KEYS_PARKED Counter "tidings_subscriber_keys_parked_total" ["subscriber"]
            "Keys that were parked because one of their events was dead-lettered",
        KEYS_UNPARKED Counter "tidings_subscriber_keys_unparked_total" ["subscriber"]
            "Keys that were unparked",
        CIRCUIT_OPENED Counter "tidings_subscriber_circuit_opened_total" ["subscriber"]
            "How often the circuit has opened",
        LEASE_CHANGES Counter "tidings_subscriber_lease_changes_total" ["subscriber" "change"]
            "Changes of the lease of an ordered subscriber, as this instance has seen them",
        REPLAYS_RUNNING Gauge "tidings_replays_running" ["subscriber"]
            "Replays that this instance works on",
        REPLAY_STUCK Gauge "tidings_replay_stuck_seconds" ["subscriber"]
            "How long a replay has made no progress; 0 when none is stalled",
        REPLAYS_ENDED Counter "tidings_replays_ended_total" ["subscriber" "state"]
            "Replays whose end this instance has written",
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::HashSet, fmt::Write, fs};

    use super::*;

    /// What `promtool check metrics` asks, and a little more.
    #[test]
    fn names_follow_the_rules_of_prometheus() {
        let mut names = HashSet::new();
        for row in ALL {
            let name = row.name;
            assert!(names.insert(name), "{name} twice");
            assert!(name.starts_with("tidings_"), "{name}");
            assert!(
                name.bytes()
                    .all(|byte| byte == b'_' || byte.is_ascii_lowercase()),
                "{name}"
            );
            let is_counter = matches!(row.kind, MetricType::Counter);
            assert_eq!(name.ends_with("_total"), is_counter, "{name}");
            if let MetricType::Histogram = row.kind {
                assert!(name.ends_with("_seconds"), "{name}");
            }
            for label in row.labels {
                assert!(!["key", "id", "error", "subject"].contains(label), "{name}");
            }
            assert!(
                !row.help.ends_with('.') && !row.help.contains('\n'),
                "{name}"
            );
        }
    }

    const DOCUMENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/reference/metrics.md");
    /// The last line that is written by hand.
    const MARK: &str = "<!-- From here on generated: UPDATE_GOLDENS=1 cargo test -p tidings --all-features metrics::families -->\n";

    fn reference() -> String {
        let mut text = String::new();
        let mut part = "";
        for row in ALL {
            if row.part != part {
                part = row.part;
                let head = "| metric | type | labels | meaning |\n|---|---|---|---|\n";
                write!(text, "\n## {part}\n\n{head}").unwrap();
            }
            writeln!(text, "{}", line(row)).unwrap();
        }
        text
    }

    fn line(row: &Row) -> String {
        let kind = match row.kind {
            MetricType::Counter => "counter",
            MetricType::Gauge => "gauge",
            MetricType::Histogram => "histogram",
            MetricType::Info | MetricType::Unknown => "unknown",
        };
        let labels = row.labels.iter().map(|label| format!("`{label}`"));
        let labels = labels.collect::<Vec<_>>().join(", ");
        let (name, help) = (row.name, row.help);
        format!("| `{name}` | {kind} | {labels} | {help} |").replace("|  |", "| |")
    }

    #[test]
    fn the_reference_of_the_metrics_is_the_table() {
        let document = fs::read_to_string(DOCUMENT).unwrap();
        let (by_hand, generated) = document.split_once(MARK).unwrap();
        let expected = reference();
        if std::env::var("UPDATE_GOLDENS").is_ok_and(|value| value == "1") {
            return fs::write(DOCUMENT, format!("{by_hand}{MARK}{expected}")).unwrap();
        }
        let mut lines = generated.lines().zip(expected.lines());
        let differs = lines.find(|(is, should)| is != should);
        assert!(
            generated == expected,
            "docs/reference/metrics.md is not the table of the metrics (from {differs:?} on): \
             UPDATE_GOLDENS=1 cargo test -p tidings --all-features metrics::families"
        );
    }
}
