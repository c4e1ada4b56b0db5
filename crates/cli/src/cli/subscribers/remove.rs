//! `tidings subscribers remove`: removes a subscriber that is no longer used. Never without printing what waits for it.

use clap::Args;
use serde_json::json;
use tidings::subscribers::{SubscriberRemoval, Subscribers};

use super::retries;
use crate::{
    cli::{
        connect,
        consent::{Consent, NOTHING_CHANGED},
        output,
        report::Outcome,
    },
    config::Config,
};

#[derive(Args)]
pub(super) struct Remove {
    /// The subscriber's name
    name: String,
    /// Print what would be removed and which events wait, and change nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    consent: Consent,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

impl Remove {
    pub(super) async fn run(&self, config: &Config) -> Outcome {
        let bus = connect(config).await?;
        let subscribers = Subscribers::new(&bus);
        let plan = subscribers.plan_remove(&self.name).await?;
        // Without `--yes` and a terminal the refusal contains the same.
        if !self.json && (self.dry_run || self.consent.is_possible()) {
            output::table(&preview(&plan))?;
        }
        let is_done = !self.dry_run && self.consent.to(&what(&plan))?;
        let made = match is_done {
            true => subscribers.remove(&plan).await?,
            false => 0,
        };
        if self.json {
            let answer = json!({ "done": is_done, "removal": plan, "dead_letters_made": made });
            return Ok(output::json(&answer)?);
        }
        let name = output::printable(&self.name);
        Ok(output::line(match (is_done, made) {
            (false, _) => NOTHING_CHANGED.to_owned(),
            (true, 0) => format!("{name} is removed"),
            (true, made) => format!("{name} is removed; {made} of its retries became dead letters"),
        })?)
    }
}

/// The effect of a removal, in one line.
fn what(plan: &SubscriberRemoval) -> String {
    let pending = plan.consumers.iter().map(|consumer| consumer.pending);
    let pending = pending.fold(0, u64::saturating_add);
    let (pending, waiting) = (output::events(pending), retries(Some(&plan.retries)));
    let name = &plan.subscriber;
    format!("removes {name} for good: {pending} pending are not handled, retries: {waiting}")
}

fn preview(plan: &SubscriberRemoval) -> Vec<[String; 2]> {
    let mut rows = Vec::new();
    let mut add = |what: &str, text: String| rows.push([what.to_owned(), text]);
    let last = plan.last_seen_at;
    add("subscriber", plan.subscriber.clone());
    add(
        "last seen",
        last.map_or_else(|| "-".to_owned(), output::second),
    );
    for consumer in &plan.consumers {
        add(
            "consumer",
            format!(
                "of {}: {} pending, {} ack pending, acknowledged to {}; it is deleted",
                consumer.stream, consumer.pending, consumer.ack_pending, consumer.acknowledged
            ),
        );
    }
    let waiting = retries(Some(&plan.retries));
    add("retries", format!("{waiting}; each becomes a dead letter"));
    let letters = plan
        .dead_letters
        .map_or_else(|| "unknown".to_owned(), |letters| letters.to_string());
    add("dead letters", format!("{letters}; they are kept"));
    add("parked keys", plan.parked_keys.to_string());
    for replay in &plan.replays {
        add("replay", format!("{replay}: it is cancelled"));
    }
    for entry in &plan.entries {
        add("entry", entry.clone());
    }
    rows
}
