//! `tidings replay show`: one replay in full. Never changes anything.

use clap::Args;
use tidings::{
    StartFrom,
    replays::{Replay, ReplayId, ReplayIssue, ReplayProgress, ReplayStatus, Replays},
};

use super::rehearsal;
use crate::{
    cli::{connect, output, report::Outcome},
    config::Config,
};

#[derive(Args)]
pub(super) struct Show {
    /// The replay's id, as `list` prints it
    id: ReplayId,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

type Row = [String; 2];

impl Show {
    pub(super) async fn run(&self, config: &Config) -> Outcome {
        let replays = Replays::new(&connect(config).await?);
        let status = replays.find(self.id).await?;
        if self.json {
            return Ok(output::json(&status)?);
        }
        output::table(&rows(&status))?;
        let progress = status.progress.as_ref();
        match progress.and_then(|progress| progress.rehearsal.as_ref()) {
            Some(found) => rehearsal::print(found),
            None => Ok(()),
        }
    }
}

/// The state of a replay, with a note when it is a rehearsal.
pub(super) fn state(replay: &Replay) -> String {
    match replay.request.rehearse {
        true => format!("{} (rehearsal)", replay.state.as_str()),
        false => replay.state.as_str().to_owned(),
    }
}

/// What stops a replay, and since when.
pub(super) fn issue(issue: &ReplayIssue) -> String {
    format!("since {}: {}", output::second(issue.since), issue.why)
}

fn rows(status: &ReplayStatus) -> Vec<Row> {
    let replay = &status.replay;
    let mut rows = vec![
        row("replay", replay.id.to_string()),
        row("subscriber", &replay.subscriber),
        row(
            "state",
            format!(
                "{}, since {}",
                state(replay),
                output::second(replay.state_at)
            ),
        ),
    ];
    rows.extend(replay.reason.as_ref().map(|reason| row("reason", reason)));
    let issues = status.issue.iter();
    rows.extend(issues.map(|it| row("issue", issue(it))));
    rows.push(row("request", asked_for(replay)));
    rows.push(row("started", output::second(replay.created_at)));
    for range in &replay.ranges {
        let names = range.names.join(", ");
        let text = format!(
            "{} to {}: {} of {names}",
            range.first,
            range.last,
            output::events(range.events)
        );
        rows.push(row(&range.stream, text));
    }
    match &status.progress {
        None => rows.push(row("progress", "no instance has started it")),
        Some(progress) => {
            let over = format!(
                "{} of {} are done",
                progress.completed(),
                output::events(replay.events())
            );
            rows.push(row(
                "progress",
                format!("{over}, at {}", output::second(progress.at)),
            ));
            rows.extend(counts(progress));
        }
    }
    for consumer in &status.consumers {
        let text = format!(
            "{} in flight, {} not delivered, everything up to {} is done",
            consumer.in_flight, consumer.pending, consumer.floor
        );
        rows.push(row(&format!("consumer of {}", consumer.stream), text));
    }
    rows
}

/// The outcomes of its events.
fn counts(progress: &ReplayProgress) -> impl Iterator<Item = Row> + use<> {
    let counts = [
        ("handled", progress.handled, ""),
        (
            "duplicates",
            progress.duplicates,
            ": handled before in this replay",
        ),
        (
            "left out",
            progress.filtered,
            ": another key or conversation",
        ),
        (
            "skipped",
            progress.skipped,
            ": the handler takes no part in replays",
        ),
        (
            "retried",
            progress.retried,
            ": failed, and among the retries",
        ),
        ("dead letters", progress.dead_lettered, ""),
        (
            "gone",
            progress.gone,
            ": removed by their stream before they were delivered",
        ),
        (
            "not counted",
            progress.uncounted,
            ": ended while an instance died, or lost its lease, and among those of the other kinds",
        ),
        (
            "suppressed",
            progress.suppressed,
            ": follow-ups that handlers wanted to publish",
        ),
    ];
    let told = counts.into_iter().filter(|(_, count, _)| *count > 0);
    told.map(|(what, count, text)| row(&format!("  {what}"), format!("{count}{text}")))
}

fn asked_for(replay: &Replay) -> String {
    let request = &replay.request;
    let point = |point: &StartFrom| match point {
        StartFrom::Beginning => "the beginning".to_owned(),
        StartFrom::New => "now".to_owned(),
        StartFrom::Sequence(sequence) => format!("sequence {sequence}"),
        StartFrom::Time(at) => output::second(*at),
        _ => "a position of a later version".to_owned(),
    };
    let mut text = vec![format!("from {}", point(&request.from))];
    text.extend(request.to.as_ref().map(|to| format!("to {}", point(to))));
    text.extend(request.stream.as_ref().map(|stream| format!("in {stream}")));
    text.extend((!request.names.is_empty()).then(|| request.names.join(" and ")));
    text.extend(request.key.as_ref().map(|key| format!("key {key}")));
    let correlation = request.correlation.as_ref();
    text.extend(correlation.map(|correlation| format!("correlation {correlation}")));
    text.extend(request.rate.map(|rate| rate.to_string()));
    text.extend(
        request
            .shadow
            .as_ref()
            .map(|shadow| format!("shadow {shadow}")),
    );
    text.extend(request.follow_ups.then(|| "with follow-ups".to_owned()));
    text.extend(request.force.then(|| "forced".to_owned()));
    text.join(", ")
}

fn row(what: &str, text: impl AsRef<str>) -> Row {
    [what.to_owned(), text.as_ref().to_owned()]
}
