//! `tidings publish`: publishes one event from text. It checks the rules that hold for every event, and knows no event
//! type.

use std::{
    fs,
    io::{self, Read},
};

use chrono::{DateTime, TimeDelta, Utc};
use clap::{Args, builder::NonEmptyStringValueParser};
use serde::de::IgnoredAny;
use serde_json::json;
use tidings::{
    Envelope, EventId, EventPublisher,
    event::{EnvelopeError, HeaderError},
    nats::PublishError,
};

use super::{
    connect,
    database::{Database, with_outbox},
    output,
    report::{Exit, Outcome, Report},
};
use crate::config::{Config, duration};

#[derive(Args)]
pub(super) struct Publish {
    /// The event's name, such as user.created
    name: String,
    /// What the event is about; events of one key keep their order [default: no key]
    #[arg(long)]
    key: Option<String>,
    /// The payload: JSON, @FILE, or - for stdin
    #[arg(long, value_name = "JSON|@FILE|-", allow_hyphen_values = true)]
    data: String,
    /// The version of the payload's schema
    #[arg(long, default_value_t = 1)]
    version: u32,
    /// A header of the event; can be repeated
    #[arg(long, value_name = "NAME=VALUE", value_parser = header)]
    header: Vec<(String, String)>,
    /// The correlation id: the conversation that the event belongs to
    #[arg(long, value_name = "ID", value_parser = NonEmptyStringValueParser::new())]
    correlation: Option<String>,
    /// The event's id, a UUID; the same id again is the same event [default: a new id]
    #[arg(long, value_name = "UUID")]
    id: Option<EventId>,
    /// Publish the event at this time, such as 2026-01-31T12:00:00Z; at once when it has passed
    #[arg(long, value_name = "TIME", value_parser = time, conflicts_with_all = ["direct", "wait"])]
    at: Option<DateTime<Utc>>,
    /// Publish the event after this time, such as 30s, 5m or 18h
    #[arg(long = "in", value_name = "DURATION", value_parser = wait, conflicts_with = "direct")]
    wait: Option<TimeDelta>,
    /// Publish directly to NATS instead of through the outbox, and wait until the event is stored
    #[arg(long)]
    direct: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

impl Publish {
    pub(super) async fn run(&self, config: &Config) -> Outcome {
        let envelope = self.envelope()?;
        let id = envelope.id();
        let due = self.due()?;
        if self.direct {
            direct(envelope, config).await?;
        } else {
            let database = Database::open(config).await?;
            with_outbox!(&database, outbox => outbox.publish_alone(envelope, due).await)?;
        }
        if self.json {
            let mut printed = json!({ "id": id, "confirmed": self.direct });
            if let Some(due) = due {
                printed["due"] = json!(due);
            }
            return Ok(output::json(&printed)?);
        }
        Ok(match self.direct {
            true => output::line(format!("{id} confirmed")),
            false => output::line(id),
        }?)
    }

    /// The due time, for a delayed event.
    fn due(&self) -> Result<Option<DateTime<Utc>>, Report> {
        let Some(wait) = self.wait else {
            return Ok(self.at);
        };
        match Utc::now().checked_add_signed(wait) {
            Some(due) => Ok(Some(due)),
            None => Err(Report::new(Exit::Usage, "--in is too long")),
        }
    }

    fn envelope(&self) -> Result<Envelope, Report> {
        let payload = read(&self.data)?;
        check_json(&payload)?;
        let envelope = Envelope::raw(&self.name, self.version, self.key.as_deref(), payload);
        let envelope = self.with_headers(envelope.map_err(refused)?);
        Ok(match self.id {
            Some(id) => envelope.map_err(refused)?.with_id(id),
            None => envelope.map_err(refused)?,
        })
    }

    fn with_headers(&self, mut envelope: Envelope) -> Result<Envelope, EnvelopeError> {
        for (name, value) in &self.header {
            envelope = envelope.header(name, value)?;
        }
        match &self.correlation {
            Some(id) => envelope.with_correlation_id(id),
            None => Ok(envelope),
        }
    }
}

/// Reads the payload that `--data` gives or names.
fn read(data: &str) -> Result<Vec<u8>, Report> {
    let unreadable = |error: io::Error| {
        let what = format!("the payload cannot be read from {data}");
        Report::new(Exit::Usage, what).because(Some(&error))
    };
    let payload = match data.strip_prefix('@') {
        Some(path) => fs::read(path).map_err(unreadable)?,
        None if data == "-" => {
            let mut payload = Vec::new();
            let mut stdin = io::stdin().lock();
            stdin.read_to_end(&mut payload).map_err(unreadable)?;
            payload
        }
        None => data.as_bytes().to_vec(),
    };
    Ok(payload.trim_ascii().to_vec())
}

fn check_json(payload: &[u8]) -> Outcome {
    // The JSON parser does not check the UTF-8 of values that it skips.
    let text = std::str::from_utf8(payload).map_err(|error| {
        Report::new(
            Exit::Usage,
            "the payload is not UTF-8, and therefore not JSON",
        )
        .because(Some(&error))
        .cure("a file in UTF-8; iconv -t UTF-8 makes one")
    })?;
    match serde_json::from_str::<IgnoredAny>(text) {
        Ok(_) => Ok(()),
        Err(error) => Err(Report::new(Exit::Usage, "the payload is not JSON")
            .because(Some(&error))
            .cure("--data @FILE, when the shell removes the quotes")),
    }
}

fn header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("write it as NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

fn time(text: &str) -> Result<DateTime<Utc>, String> {
    let time = DateTime::parse_from_rfc3339(text);
    time.map(|time| time.to_utc())
        .map_err(|_| "write 2026-01-31T12:00:00Z".to_owned())
}

fn wait(text: &str) -> Result<TimeDelta, String> {
    let duration = duration::parse(text).map_err(|error| error.to_string())?;
    TimeDelta::from_std(duration).map_err(|error| error.to_string())
}

async fn direct(envelope: Envelope, config: &Config) -> Outcome {
    let id = envelope.id();
    let bus = connect(config).await?;
    let publisher = EventPublisher::new(&bus).source(&config.source);
    let published = publisher.publish(envelope).await;
    published.map(drop).map_err(|error| match error {
        PublishError::Unconfirmed { .. } => Report::from(error).cure(format!(
            "run the same command with --id {id}, which stores the event once"
        )),
        error => error.into(),
    })
}

fn refused(error: EnvelopeError) -> Report {
    let report = Report::of(Exit::Usage, &error);
    match error {
        EnvelopeError::Name(_) => report.cure("a name such as user.created"),
        EnvelopeError::Key { .. } => report.cure("the id of what the event is about"),
        EnvelopeError::Header(HeaderError::Attribute(_)) => {
            report.cure("another --correlation, such as the id of an order")
        }
        EnvelopeError::Header(_) => report.cure("another header, such as --header tenant=acme"),
        _ => report,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fuzz_payloads() {
        let seeds = [
            "{\"id\":\"7\",\"n\":[1.5,null,true]}",
            "\"\\ud83d\\ude00\"",
            "17",
        ];
        tidings_fuzz::fuzz_json("payload", &seeds, |payload| check_json(payload).is_ok());
    }

    #[test]
    fn fuzz_arguments() {
        let seeds = [
            "tenant=acme",
            "2026-01-31T12:00:00Z",
            "x==",
            "+262142-12-31T23:59:59Z",
        ];
        tidings_fuzz::fuzz_text("argument", &seeds, |text| {
            let header = header(text);
            if let Ok((name, value)) = &header {
                assert_eq!(format!("{name}={value}"), text);
            }
            header.is_ok() || time(text).is_ok()
        });
    }
}
