//! `tidings trace`: where an event is, step by step. Never changes anything.

use std::num::NonZeroUsize;

use chrono::{DateTime, Utc};
use clap::{Args, builder::NonEmptyStringValueParser};
use tidings::{
    EventId,
    handler::Cause,
    replays::ReplayState,
    trace::{
        DeadLetterTrace, DeliveryTrace, InboxTrace, OutboxTrace, ReplayTrace, RetryTrace, Searched,
        SubscriberTrace, Trace, TraceTarget, Traced, TracedBatch, TracedEvent, TracedOutcome,
    },
};

use super::{
    connect,
    database::{Database, with_outbox},
    dead_letters::moment,
    output,
    report::{Exit, Outcome, Report},
};
use crate::config::{Config, DatabaseUrl};

#[derive(Args)]
pub(super) struct RunTrace {
    #[command(flatten)]
    wanted: WantedEvents,
    /// Search the streams, and for a key or a correlation also the outbox, from then on: 2h ago, or a time such as
    /// 2026-01-31T12:00:00Z [default: the time in the event's id, else 24h]
    #[arg(long, value_name = "2h|TIME", value_parser = moment)]
    since: Option<DateTime<Utc>>,
    /// The most events to print, the newest
    #[arg(long, value_name = "N", default_value = "20")]
    limit: NonZeroUsize,
    /// The most messages to read of each stream, the newest
    #[arg(long, value_name = "N", default_value_t = 1_000_000)]
    messages: u64,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
#[group(required = true, multiple = false)]
struct WantedEvents {
    /// The event's id, as `publish`, `tail` and the logs print it
    #[arg(value_name = "ID")]
    event: Option<EventId>,
    /// All events with this key
    #[arg(long, value_parser = NonEmptyStringValueParser::new())]
    key: Option<String>,
    /// All events of this conversation: its first event, whose id this is by default, and all that followed
    #[arg(long, value_name = "ID", value_parser = NonEmptyStringValueParser::new())]
    correlation: Option<String>,
}

impl RunTrace {
    pub(super) async fn run(&self, config: &Config) -> Outcome {
        let database = Database::open(config).await;
        // Without NATS, the part in the database is still useful.
        let trace = match connect(config).await {
            Ok(bus) => Trace::new(&bus),
            Err(report) if report.is_unreachable() && database.is_ok() => {
                Trace::without_nats(report.what())
            }
            Err(report) => return Err(report),
        };
        let streams = config.streams.iter().map(|spec| spec.name.clone());
        let mut trace = trace
            .streams(streams)
            .limit(self.limit.get())
            .messages(self.messages);
        if let Some(since) = self.since {
            trace = trace.since(since);
        }
        trace = match database {
            Ok(database) => with_outbox!(&database, outbox => trace.outbox(outbox)),
            // Without a local database, the part in NATS is still useful.
            Err(report) if is_absent(&config.database) => trace.without_outbox(report.what()),
            Err(report) => trace.unseen_outbox(report.what()),
        };
        let found = trace.run(&self.target()).await?;
        match self.json {
            true => output::json(&found)?,
            false => print(&found)?,
        }
        self.judge(&found)
    }

    /// Exits with 3 when something could not be seen, else with 1 when nothing is found.
    fn judge(&self, found: &Traced) -> Outcome {
        let is_unseen = |place: &&Searched| place.is_unseen;
        let unseen = found.searched.iter().find(is_unseen);
        let (exit, cure) = match unseen {
            Some(_) => (
                Exit::Unreachable,
                "run the same command again when it answers",
            ),
            None => (
                Exit::Failed,
                "an earlier --since, or more --messages; the id may be mistyped",
            ),
        };
        if found.events.is_empty() {
            let mut what = format!("nothing is known of {}", self.name());
            for missed in found.searched.iter().filter(|place| !place.was_searched) {
                what = format!("{what}; {} {}", missed.place, missed.what);
            }
            return Err(Report::new(exit, what).cure(cure));
        }
        match unseen {
            Some(Searched { place, what, .. }) => {
                let what = format!("not everything could be seen: {place} {what}");
                Err(Report::new(exit, what).cure(cure))
            }
            None => Ok(()),
        }
    }

    fn target(&self) -> TraceTarget {
        match &self.wanted {
            WantedEvents {
                event: Some(event), ..
            } => TraceTarget::Event(*event),
            WantedEvents { key: Some(key), .. } => TraceTarget::Key(key.clone()),
            WantedEvents { correlation, .. } => {
                TraceTarget::Correlation(correlation.clone().unwrap_or_default())
            }
        }
    }

    fn name(&self) -> String {
        match self.target() {
            TraceTarget::Event(event) => format!("the event {event}"),
            TraceTarget::Key(key) => format!("an event of the key {key}"),
            TraceTarget::Correlation(id) => format!("an event of the correlation {id}"),
            _ => "it".to_owned(),
        }
    }
}

/// Whether there is no database at all, which is not an error here.
fn is_absent(database: &DatabaseUrl) -> bool {
    matches!(database, DatabaseUrl::Sqlite(path) if !path.exists())
}

/// Time, place, text.
type Line = (Option<DateTime<Utc>>, String, String);

fn print(found: &Traced) -> std::io::Result<()> {
    for event in &found.events {
        let key = event.key.as_deref().unwrap_or("-");
        let head = format!(
            "{}  {} v{}  key {key}  correlation {}",
            event.event, event.name, event.version, event.correlation_id
        );
        output::line(output::printable(&head))?;
        let rows: Vec<[String; 4]> = lines(event)
            .into_iter()
            .map(|(at, place, what)| {
                let at = at.map_or_else(|| "-".to_owned(), output::time);
                [String::new(), at, place, what]
            })
            .collect();
        output::table(&rows)?;
        output::line("")?;
    }
    let mut rows = Vec::new();
    for searched in &found.searched {
        let head = if rows.is_empty() { "searched" } else { "" };
        rows.push([
            head.to_owned(),
            searched.place.clone(),
            searched.what.clone(),
        ]);
    }
    output::table(&rows)
}

/// The facts about an event in the order of time. Those without a time come last.
fn lines(event: &TracedEvent) -> Vec<Line> {
    let mut lines = of_outbox(&event.outbox);
    lines.extend(event.batches.iter().map(of_batch));
    for stored in event.stored.iter().filter(|stored| stored.is_there) {
        let what = format!("stored at sequence {}, and still there", stored.sequence);
        lines.push((stored.stored_at, stored.stream.clone(), what));
    }
    lines.extend(event.subscribers.iter().flat_map(of_subscriber));
    let unstored = event.unstored.iter();
    lines.extend(unstored.map(|why| (None, "streams".to_owned(), why.clone())));
    let unheard = event.unheard.iter();
    lines.extend(unheard.map(|why| (None, "subscribers".to_owned(), why.clone())));
    lines.sort_by_key(|(at, ..)| (at.is_none(), *at));
    lines
}

fn of_outbox(outbox: &OutboxTrace) -> Vec<Line> {
    let line = |at: Option<DateTime<Utc>>, what: String| (at, "outbox".to_owned(), what);
    let written = |at: &DateTime<Utc>, row: &i64| line(Some(*at), format!("written, row {row}"));
    match outbox {
        OutboxTrace::NotSearched { why } => vec![line(None, format!("not searched: {why}"))],
        OutboxTrace::Absent { why } => vec![line(None, format!("has no row of the event: {why}"))],
        OutboxTrace::Waiting {
            row,
            written_at,
            relay,
        } => vec![
            written(written_at, row),
            line(None, format!("waits for the relay: {}", relay.join("; "))),
        ],
        OutboxTrace::Relayed { row, written_at } => vec![written(written_at, row)],
        OutboxTrace::Parked {
            row,
            written_at,
            parked_at,
            error,
            blocked_on,
            unpark_requested_at,
            is_returning,
        } => {
            let back = match (blocked_on, unpark_requested_at) {
                (_, Some(at)) => format!("is restored as requested at {}", output::time(*at)),
                (Some(what), _) => format!("is restored automatically, with {what}"),
                (None, None) if *is_returning => {
                    "is restored automatically, with an earlier event of its key".to_owned()
                }
                (None, None) => "stays until `tidings outbox unpark` or `discard`".to_owned(),
            };
            vec![
                written(written_at, row),
                line(Some(*parked_at), format!("parked: {error}; {back}")),
            ]
        }
        OutboxTrace::Discarded {
            row,
            written_at,
            discarded_at,
        } => vec![
            written(written_at, row),
            line(
                Some(*discarded_at),
                "discarded while it was parked".to_owned(),
            ),
        ],
        OutboxTrace::Delayed { written_at, due } => vec![
            line(
                Some(*written_at),
                "written, to be published later".to_owned(),
            ),
            line(Some(*due), "due".to_owned()),
        ],
        other => vec![line(None, format!("{other:?}"))],
    }
}

fn of_batch(batch: &TracedBatch) -> Line {
    let TracedBatch {
        events,
        epoch,
        first_row,
        last_row,
        first_sequence,
        last_sequence,
        stream,
        ..
    } = batch;
    // Epoch 0 belongs to the republisher: no relay has it.
    let how = match epoch {
        0 => "by the republisher".to_owned(),
        epoch => format!("under epoch {epoch}"),
    };
    let what = format!(
        "confirmed by {stream} in a batch of {events} (rows {first_row} to {last_row}, sequences {first_sequence} to \
         {last_sequence}) {how}"
    );
    (Some(batch.at), "relay".to_owned(), what)
}

fn of_subscriber(one: &SubscriberTrace) -> Vec<Line> {
    let place = || one.subscriber.clone();
    let letters = one.dead_letters.iter();
    let mut lines: Vec<Line> = letters
        .map(|letter| (Some(letter.at), place(), of_letter(letter)))
        .collect();
    let retry = one.retry.iter();
    lines.extend(retry.map(|retry| (Some(retry.since), place(), of_retry(retry))));
    let replays = one.replays.iter();
    lines.extend(replays.map(|replay| (replay.created_at, place(), of_replay(replay))));
    if let Some(InboxTrace::DeadLettered { at, cause, error }) = &one.inbox
        && one.dead_letters.is_empty()
    {
        let what = format!(
            "dead-lettered, says the inbox: {cause}: {error}; its dead letter was redriven or discarded"
        );
        lines.push((*at, place(), what));
    }
    lines.push((None, place(), summary(one)));
    lines
}

fn of_letter(letter: &DeadLetterTrace) -> String {
    let cause = letter.cause.as_ref().map_or("unknown", Cause::as_str);
    let attempts = letter
        .attempts
        .map_or_else(|| "an unknown number of".to_owned(), |n| n.to_string());
    let redriven = match letter.redrives {
        0 => String::new(),
        times => format!(", redriven {times} times before"),
    };
    format!(
        "dead-lettered: {cause} after {attempts} attempts{redriven}: {} (dead letter {})",
        letter.error, letter.sequence
    )
}

fn of_replay(replay: &ReplayTrace) -> String {
    let outcome = match &replay.inbox {
        Some(InboxTrace::Handled) => "; handled in this replay, says the inbox".to_owned(),
        Some(InboxTrace::DeadLettered { cause, error, .. }) => {
            format!("; dead-lettered in this replay, says the inbox: {cause}: {error}")
        }
        _ => String::new(),
    };
    let state = replay.state.map_or("forgotten", ReplayState::as_str);
    format!(
        "in the range of the replay {}, which is {state}{outcome}",
        replay.id
    )
}

fn of_retry(retry: &RetryTrace) -> String {
    let redriven = match retry.redrives {
        0 => "",
        _ => "redriven; ",
    };
    let failed = match (retry.failures, retry.first_failed_at) {
        (0, _) => "has not failed since".to_owned(),
        (times, Some(first)) => {
            format!("has failed {times} times, first at {}", output::time(first))
        }
        (times, None) => format!("has failed {times} times"),
    };
    let next = match retry.due {
        Some(due) => format!("is retried at {}", output::time(due)),
        None => "is retried when the subscriber reaches it".to_owned(),
    };
    format!("{redriven}{failed}, {next}")
}

/// The conclusion about a subscriber, with its basis.
fn summary(one: &SubscriberTrace) -> String {
    let delivery = match &one.delivery {
        DeliveryTrace::NotYet { delivered } => format!("its consumer is at {delivered}"),
        DeliveryTrace::Delivered { floor, delivered } => format!(
            "delivered; the server does not say which of {floor} to {delivered} are acknowledged"
        ),
        DeliveryTrace::Acknowledged { floor } => {
            format!("everything up to {floor} is acknowledged")
        }
        DeliveryTrace::Before { beginning } => format!("its consumer begins {beginning}"),
        DeliveryTrace::Unknown { why } => why.clone(),
        other => format!("{other:?}"),
    };
    let outcome = match one.outcome {
        TracedOutcome::NotDelivered => "not delivered yet",
        TracedOutcome::Delivered => "in flight, or acknowledged",
        TracedOutcome::WaitsForRetry => "waits for its next attempt",
        TracedOutcome::DeadLetter => "dead-lettered",
        TracedOutcome::Handled => "handled, says the inbox",
        TracedOutcome::Acknowledged => {
            "acknowledged; the outcome is not recorded, and no retry and no dead letter of it exists"
        }
        TracedOutcome::Before => "never delivered by its present consumer",
        _ => "unknown",
    };
    match one.paused_until {
        Some(until) => format!(
            "{outcome}: {delivery}; paused until {}",
            output::time(until)
        ),
        None => format!("{outcome}: {delivery}"),
    }
}
