//! `tidings outbox status`: how the outbox stands.

use std::time::Duration;

use chrono::SecondsFormat;
use clap::Args;
use tidings::{HeldSlot, LastBatch, LeaseStatus, Loss, Status, Trouble};

use crate::{
    cli::{
        database::{Database, with_outbox},
        output,
        report::{Exit, Outcome, Report},
    },
    config::Config,
};

/// What helps when a stream has lost something.
const REPAIR: &str = "tidings verify --repair, or tidings outbox accept STREAM";

/// Prints what waits, who relays, what was confirmed last, what is parked, what hinders the relay, and which
/// streams have lost something. Ends with 1 in that last case, until somebody has seen to it.
#[derive(Args)]
pub(super) struct ShowStatus {
    /// Print a JSON object
    #[arg(long)]
    json: bool,
}

impl ShowStatus {
    pub(super) async fn run(&self, config: &Config) -> Outcome {
        let database = Database::open(config).await?;
        let status = with_outbox!(&database, outbox => outbox.status().await)?;
        match self.json {
            true => output::json(&status)?,
            false => output::table(&rows(&status))?,
        }
        let [loss, ..] = &status.losses[..] else {
            return Ok(());
        };
        let Loss {
            stream, standing, ..
        } = loss;
        Err(Report::new(Exit::Failed, format!("stream {stream} {standing}")).cure(REPAIR))
    }
}

fn rows(status: &Status) -> Vec<[String; 2]> {
    let oldest = status.oldest_unpublished_seconds;
    let mut rows = vec![
        ["backlog".into(), output::events(status.backlog)],
        ["oldest".into(), oldest.map_or_else(|| "-".into(), seconds)],
        ["relay".into(), relay(&status.lease)],
        ["last batch".into(), last_batch(status.last_batch.as_ref())],
        ["parked".into(), parked(status.parked, status.waiting)],
        ["delayed".into(), delayed(status)],
    ];
    let troubles = status.troubles.iter();
    rows.extend(troubles.map(|trouble| ["trouble".into(), self::trouble(trouble)]));
    rows.extend(status.losses.iter().map(|loss| ["lost".into(), lost(loss)]));
    rows.extend(status.held.iter().map(|slot| ["held".into(), held(slot)]));
    rows.extend(status.refuses.clone().map(|why| ["refuses".into(), why]));
    rows
}

/// How many are put aside, and how many of these for a stream or a subject that does not take them now.
fn parked(parked: u64, waiting: u64) -> String {
    let count = output::events(parked);
    match waiting {
        0 => count,
        1 if parked == 1 => format!("{count}, which goes back by itself"),
        all if parked == all => format!("{count}, which go back by themselves"),
        1 => format!("{count}; 1 goes back by itself, with what follows it under its key"),
        some => format!(
            "{count}; {some} go back by themselves, with what follows them under their keys"
        ),
    }
}

fn trouble(trouble: &Trouble) -> String {
    let Trouble {
        place, cause, cure, ..
    } = trouble;
    let since = trouble.since.to_rfc3339_opts(SecondsFormat::Secs, true);
    output::printable(&format!("{place}, since {since}: {cause}; try: {cure}"))
}

fn lost(loss: &Loss) -> String {
    let since = loss.since.to_rfc3339_opts(SecondsFormat::Secs, true);
    format!(
        "stream {}, since {since}: it {}; try: {REPAIR}",
        loss.stream, loss.standing
    )
}

fn held(held: &HeldSlot) -> String {
    output::printable(&held.to_string())
}

fn relay(lease: &LeaseStatus) -> String {
    match &lease.owner {
        None => "none is running".to_owned(),
        Some(owner) if lease.remaining_seconds < 0.0 => {
            let since = seconds(-lease.remaining_seconds);
            format!("{owner} stopped renewing its lease, which ended {since} ago")
        }
        Some(owner) => format!(
            "{owner}, epoch {}, a lease of {} that lasts another {}",
            lease.epoch,
            seconds(lease.lasts_seconds),
            seconds(lease.remaining_seconds)
        ),
    }
}

fn last_batch(batch: Option<&LastBatch>) -> String {
    let Some(batch) = batch else {
        return "none".to_owned();
    };
    format!(
        "{} into {}, up to sequence {}, at {}",
        output::events(batch.events),
        batch.stream,
        batch.last_sequence,
        batch.at.to_rfc3339_opts(SecondsFormat::Millis, true)
    )
}

fn delayed(status: &Status) -> String {
    let count = output::events(status.delayed);
    match status.next_due_seconds {
        None => count,
        Some(wait) if wait < 0.0 => format!("{count}, the next due since {}", seconds(-wait)),
        Some(wait) => format!("{count}, the next in {}", seconds(wait)),
    }
}

fn seconds(seconds: f64) -> String {
    let duration = Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(Duration::MAX);
    format!("{:.1} s", duration.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_parked_is_said_in_words_that_fit_its_number() {
        let said = [
            (0, 0, "0 events"),
            (1, 0, "1 event"),
            (1, 1, "1 event, which goes back by itself"),
            (2, 2, "2 events, which go back by themselves"),
            (
                3,
                1,
                "3 events; 1 goes back by itself, with what follows it under its key",
            ),
            (
                9,
                2,
                "9 events; 2 go back by themselves, with what follows them under their keys",
            ),
        ];
        for (all, waiting, expected) in said {
            assert_eq!(parked(all, waiting), expected);
        }
    }
}
