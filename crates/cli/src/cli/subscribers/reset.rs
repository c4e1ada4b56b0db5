//! `tidings subscribers reset`: moves a subscriber to another position of its streams. Never without printing the
//! effect.

use clap::Args;
use serde_json::json;
use tidings::{
    StartFrom,
    subscribers::{StreamReset, SubscriberReset, Subscribers},
};

use crate::{
    cli::{
        connect,
        consent::{Consent, NOTHING_CHANGED},
        output, place,
        report::Outcome,
    },
    config::Config,
};

#[derive(Args)]
pub(super) struct Reset {
    /// The subscriber's name
    name: String,
    /// The new position: events stored since 2h ago or TIME, a sequence, the beginning, or after the last event (now)
    #[arg(long, value_name = "2h|TIME|SEQ|beginning|now", value_parser = place::parse)]
    to: StartFrom,
    /// Only in this stream
    #[arg(long)]
    stream: Option<String>,
    /// Print which events would be delivered again or skipped, and change nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    consent: Consent,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

impl Reset {
    pub(super) async fn run(&self, config: &Config) -> Outcome {
        let bus = connect(config).await?;
        let subscribers = Subscribers::new(&bus);
        let stream = self.stream.as_deref();
        let plan = subscribers.plan_reset(&self.name, self.to, stream).await?;
        // Without `--yes` and a terminal the refusal contains the same.
        if !self.json && (self.dry_run || self.consent.is_possible()) {
            preview(&plan)?;
        }
        let is_done = !self.dry_run && self.consent.to(&what(&plan))?;
        if is_done {
            subscribers.reset(&plan).await?;
        }
        if self.json {
            let answer = json!({
                "subscriber": plan.subscriber,
                "done": is_done,
                "again": plan.again(),
                "skipped": plan.skipped(),
                "streams": plan.streams,
            });
            return Ok(output::json(&answer)?);
        }
        let name = &self.name;
        Ok(output::line(match is_done {
            true => format!("{name} is reset"),
            false => NOTHING_CHANGED.to_owned(),
        })?)
    }
}

/// The effect of a reset, in one line.
fn what(plan: &SubscriberReset) -> String {
    let (again, skipped) = (output::events(plan.again()), output::events(plan.skipped()));
    let name = &plan.subscriber;
    format!("delivers {again} to {name} again, and skips {skipped}")
}

fn preview(plan: &SubscriberReset) -> Outcome {
    let mut rows = vec![["subscriber".to_owned(), plan.subscriber.clone()]];
    for stream in &plan.streams {
        add_stream(&mut rows, stream);
    }
    output::table(&rows)?;
    let name = &plan.subscriber;
    if plan.again() > 0 {
        output::line(format!(
            "transactional handlers (.on_transactional) skip the events that they have handled, because the inbox has \
             them: to have those handled again, tidings replay start {name}"
        ))?;
    }
    if plan.skipped() > 0 {
        output::line(
            "skipped events are never delivered, unless the subscriber is reset again or they are replayed",
        )?;
    }
    Ok(())
}

fn add_stream(rows: &mut Vec<[String; 2]>, reset: &StreamReset) {
    let mut add = |what: &str, text: String| rows.push([what.to_owned(), text]);
    let StreamReset { from, to, .. } = reset;
    add("stream", reset.stream.clone());
    add("  position", format!("from sequence {from} to {to}"));
    let when = match (reset.first_at, reset.last_at) {
        (Some(first), Some(last)) => format!(
            ", stored from {} to {}",
            output::second(first),
            output::second(last)
        ),
        _ => String::new(),
    };
    match (reset.again, reset.skipped) {
        (0, 0) => add("  events", "none again, none skipped".to_owned()),
        (0, skipped) => add("  events", format!("{skipped} skipped{when}")),
        (again, _) => add("  events", format!("{again} again{when}")),
    }
    for (name, count) in &reset.names {
        add("  name", format!("{count} {name}"));
    }
    if reset.ack_pending > 0 {
        let count = reset.ack_pending;
        let text = format!(
            "{count}: in flight, or lost with their process; the lost ones are redelivered only from the new position on"
        );
        add("  ack_pending", text);
    }
}
