//! `tidings tail`: prints events as they arrive. Acknowledges nothing, so it disturbs no subscriber.

use std::{collections::BTreeSet, pin::pin};

use chrono::{DateTime, SecondsFormat, Utc};
use clap::Args;
use futures::{Stream, StreamExt, stream};
use serde_json::{Value, json};
use tidings::{
    Bus, Envelope, StartFrom, StreamSpec,
    event::Pattern,
    nats::{Reader, ReaderError, Seen},
};
use tokio_util::sync::CancellationToken;

use super::{
    connect, output,
    report::{Exit, Outcome, Report, no_stream},
    streams, told_to_stop,
};
use crate::config::{Config, duration};

#[derive(Args)]
pub(super) struct Tail {
    /// The events, such as "user.>" or user.created [default: all of the configured streams, or of all streams]
    pattern: Option<Pattern>,
    /// Start in the past: 5m ago, a time such as 2026-01-31T12:00:00Z, or the beginning
    #[arg(long, value_name = "5m|TIME|beginning", value_parser = start)]
    since: Option<StartFrom>,
    /// Print one JSON object per event
    #[arg(long)]
    json: bool,
}

impl Tail {
    pub(super) async fn run(&self, config: &Config) -> Outcome {
        let stop = told_to_stop();
        let bus = connect(config).await?;
        let followed = self.follow(&bus, config, &stop).await;
        // Closing the connection removes the consumers of the readers.
        let _ = bus.close().await;
        followed
    }

    async fn follow(&self, bus: &Bus, config: &Config, stop: &CancellationToken) -> Outcome {
        let mut seen = pin!(self.open(bus, config).await?);
        let mut reader_left = pin!(output::reader_left());
        loop {
            tokio::select! {
                Some(seen) = seen.next() => self.print(&seen?)?,
                () = &mut reader_left => return Ok(()),
                () = stop.cancelled() => return Ok(()),
            }
        }
    }

    /// The events of all selected streams, as they arrive.
    async fn open(
        &self,
        bus: &Bus,
        config: &Config,
    ) -> Result<impl Stream<Item = Result<Seen, ReaderError>> + use<>, Report> {
        let start = self.since.unwrap_or(StartFrom::New);
        let mut readers = Vec::new();
        for name in self.streams(bus, config).await? {
            let reader = bus.read(&name, self.pattern.as_slice(), start).await?;
            readers.push(Box::pin(events(reader)));
        }
        Ok(stream::select_all(readers))
    }

    async fn streams(&self, bus: &Bus, config: &Config) -> Result<BTreeSet<String>, Report> {
        let Some(pattern) = &self.pattern else {
            return streams::of_events(bus, config).await;
        };
        let mut streams = bus.streams_taking(pattern).await?;
        // The queue of retries cannot be read by other consumers, and buckets hold no events.
        let retries = StreamSpec::retries().name;
        let before = streams.len();
        streams.retain(|name| *name != retries && !streams::is_bucket(name));
        if streams.is_empty() && before > 0 {
            let what =
                format!("no stream of events takes {pattern}: only a queue or a bucket does");
            return Err(Report::new(Exit::Failed, what).cure("tidings trace, which shows retries"));
        }
        if streams.is_empty() {
            return Err(no_stream(pattern.as_str()));
        }
        Ok(streams.into_iter().collect())
    }

    fn print(&self, seen: &Seen) -> std::io::Result<()> {
        if self.json {
            return output::json(&as_json(seen));
        }
        output::line(output::printable(&as_text(seen)))
    }
}

/// The events of a reader; ends after an error.
fn events(reader: Reader) -> impl Stream<Item = Result<Seen, ReaderError>> {
    stream::unfold(Some(reader), |reader| async {
        let mut reader = reader?;
        match reader.next().await {
            Ok(seen) => Some((Ok(seen), Some(reader))),
            Err(error) => Some((Err(error), None)),
        }
    })
}

fn start(text: &str) -> Result<StartFrom, String> {
    if text == "beginning" {
        return Ok(StartFrom::Beginning);
    }
    if let Ok(ago) = duration::parse(text) {
        let time = chrono::TimeDelta::from_std(ago)
            .ok()
            .and_then(|ago| Utc::now().checked_sub_signed(ago));
        return Ok(time.map_or(StartFrom::Beginning, StartFrom::Time));
    }
    match DateTime::parse_from_rfc3339(text) {
        Ok(time) => Ok(StartFrom::Time(time.to_utc())),
        Err(_) => Err("write 5m, 2026-01-31T12:00:00Z or beginning".to_owned()),
    }
}

/// One line: time, name, key, id, payload.
fn as_text(seen: &Seen) -> String {
    match &seen.envelope {
        Ok(envelope) => format!(
            "{}  {}  {}  {}  {}",
            time_text(envelope.time().unwrap_or(seen.stored_at)),
            envelope.name(),
            envelope.key().unwrap_or("-"),
            envelope.id(),
            String::from_utf8_lossy(envelope.payload())
        ),
        Err(error) => format!(
            "{}  {}  not an event: {error}",
            time_text(seen.stored_at),
            seen.subject
        ),
    }
}

fn as_json(seen: &Seen) -> Value {
    let mut object = json!({
        "stream": seen.stream,
        "sequence": seen.sequence,
        "subject": seen.subject,
        "stored_at": time_text(seen.stored_at),
    });
    let more = match &seen.envelope {
        Ok(envelope) => envelope_json(envelope),
        Err(error) => json!({ "error": error.to_string() }),
    };
    if let (Value::Object(object), Value::Object(more)) = (&mut object, more) {
        object.extend(more);
    }
    object
}

fn envelope_json(envelope: &Envelope) -> Value {
    let extensions = envelope.extensions().iter();
    let extensions: serde_json::Map<String, Value> = extensions
        .map(|(name, value)| (name.to_owned(), value.into()))
        .collect();
    let headers: serde_json::Map<String, Value> = envelope
        .headers()
        .iter()
        .map(|(name, value)| (name.to_owned(), value.into()))
        .collect();
    // A foreign publisher's payload need not be JSON: then it is shown as text.
    let payload: Value = serde_json::from_slice(envelope.payload())
        .unwrap_or_else(|_| String::from_utf8_lossy(envelope.payload()).into());
    json!({
        "id": envelope.id(),
        "name": envelope.name().as_str(),
        "version": envelope.version(),
        "key": envelope.key(),
        "time": envelope.time().map(time_text),
        "source": envelope.source(),
        "correlation_id": envelope.correlation_id(),
        "causation_id": envelope.lineage().causation_id,
        "headers": headers,
        "extensions": extensions,
        "payload": payload,
    })
}

fn time_text(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Millis, true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_past_is_named_by_age_by_time_or_as_the_beginning() {
        assert_eq!(start("beginning"), Ok(StartFrom::Beginning));
        let time = DateTime::UNIX_EPOCH + std::time::Duration::from_secs(60);
        assert_eq!(
            start("1970-01-01T01:01:00+01:00"),
            Ok(StartFrom::Time(time))
        );
        let Ok(StartFrom::Time(ago)) = start("5m") else {
            panic!("an age is a time")
        };
        assert!((Utc::now() - ago).num_seconds() >= 300);
        assert_eq!(start("99999999999d"), Ok(StartFrom::Beginning));
        assert!(start("yesterday").is_err());
    }

    #[test]
    fn fuzz_starts() {
        let seeds = ["5m", "beginning", "2026-01-31T12:00:00Z"];
        tidings_fuzz::fuzz_text("start", &seeds, |text| start(text).is_ok());
    }
}
