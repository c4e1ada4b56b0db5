//! `tidings outbox delayed` and `tidings outbox cancel`: lists and cancels delayed events.

use std::num::NonZeroU32;

use chrono::SecondsFormat;
use clap::{Args, builder::NonEmptyStringValueParser};
use serde_json::json;
use tidings::{
    EventId, Outbox,
    outbox::{DelayedEvent, OutboxError, Store},
};

use crate::{
    cli::{
        consent::{Consent, NOTHING_CHANGED},
        database::{Database, with_outbox},
        output,
        report::{Exit, Outcome, Report},
    },
    config::Config,
};

#[derive(Args)]
pub(super) struct ListDelayed {
    /// Only events with this key
    #[arg(long, value_parser = NonEmptyStringValueParser::new())]
    key: Option<String>,
    /// The most events to list
    #[arg(long, value_name = "N", default_value = "100")]
    limit: NonZeroU32,
    /// Print one JSON object per event
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
pub(super) struct Cancel {
    /// The ids of the events, as `publish` and `delayed` print them
    #[arg(required = true, value_name = "ID")]
    ids: Vec<EventId>,
    #[command(flatten)]
    consent: Consent,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

impl ListDelayed {
    pub(super) async fn run(&self, config: &Config) -> Outcome {
        let database = Database::open(config).await?;
        let key = self.key.as_deref();
        let coming =
            with_outbox!(&database, outbox => outbox.delayed(key, self.limit.get()).await)?;
        if self.json {
            for event in &coming {
                output::json(event)?;
            }
            return Ok(());
        }
        let rows: Vec<[String; 4]> = coming.iter().map(row).collect();
        Ok(output::table(&rows)?)
    }
}

impl Cancel {
    /// Cancels the events that are still delayed, in one transaction, and fails when these were not all.
    pub(super) async fn run(&self, config: &Config) -> Outcome {
        let database = Database::open(config).await?;
        let count = u64::try_from(self.ids.len()).unwrap_or(u64::MAX);
        let what = format!("cancels {} for good", output::events(count));
        if !self.consent.to(&what)? {
            return Ok(output::line(NOTHING_CHANGED)?);
        }
        let cancelled = with_outbox!(&database, outbox => cancel(outbox, &self.ids).await)?;
        let missing = self.ids.iter().filter(|id| !cancelled.contains(id));
        let missing: Vec<String> = missing.map(ToString::to_string).collect();
        if self.json {
            output::json(&json!({ "cancelled": cancelled, "missing": missing }))?;
        } else {
            for id in &cancelled {
                output::line(format!("{id} cancelled"))?;
            }
        }
        if missing.is_empty() {
            return Ok(());
        }
        let what = format!(
            "not delayed, or published meanwhile: {}",
            missing.join(", ")
        );
        Err(Report::new(Exit::Failed, what)
            .cure("tidings outbox delayed, which lists the delayed events"))
    }
}

/// Returns the ids that were delayed and are cancelled now.
async fn cancel<DB: Store>(
    outbox: &Outbox<DB>,
    ids: &[EventId],
) -> Result<Vec<EventId>, OutboxError> {
    let mut tx = outbox.begin().await?;
    let mut cancelled = Vec::new();
    for id in ids {
        if tx.cancel(*id).await? {
            cancelled.push(*id);
        }
    }
    tx.commit().await?;
    Ok(cancelled)
}

/// A row: due, name, key, id.
fn row(event: &DelayedEvent) -> [String; 4] {
    let key = event.key.as_deref().unwrap_or("-");
    [
        event.due.to_rfc3339_opts(SecondsFormat::Millis, true),
        event.name.clone(),
        key.to_owned(),
        event.id.to_string(),
    ]
}
