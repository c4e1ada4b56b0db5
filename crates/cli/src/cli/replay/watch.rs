//! `tidings replay watch`: follows a replay to its end, even while NATS does not answer. Never changes it.

use std::{
    collections::VecDeque,
    io::{self, IsTerminal, Write},
    time::Duration,
};

use chrono::{DateTime, Utc};
use clap::Args;
use tidings::{
    nats::{BusError, BusErrorKind},
    replays::{ReplayError, ReplayId, ReplayState, ReplayStatus, Replays},
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{lasting, show};
use crate::{
    cli::{
        connect, output,
        report::{Exit, Outcome, Report},
        told_to_stop,
    },
    config::Config,
};

/// The interval between two looks at the progress; the instance reports at most once per second.
const LOOK: Duration = Duration::from_millis(250);
/// The interval between two lines, when the output is not a terminal.
const LINE: Duration = Duration::from_secs(2);
/// The span over which the speed is measured, in seconds.
const SPAN: f64 = 10.0;
/// The width of the bar, in characters.
const WIDTH: u64 = 30;

#[derive(Args)]
pub(super) struct Watch {
    /// The replay's id, as `list` prints it
    id: ReplayId,
    /// Print one JSON object whenever there is progress
    #[arg(long)]
    json: bool,
}

/// Where progress is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Told {
    /// A bar on stdout when it is a terminal, else lines.
    Lines,
    /// One JSON object per change.
    Objects,
    /// A bar on stderr when it is a terminal: stdout is for the result.
    Errors,
    Nothing,
}

/// The speed in the last seconds.
#[derive(Default)]
struct Speed {
    seen: VecDeque<(DateTime<Utc>, u64)>,
}

/// Prints the progress of a replay.
struct Teller {
    told: Told,
    is_drawn: bool,
    last: Option<ReplayStatus>,
    told_at: Option<Instant>,
    /// NATS does not answer, and this was reported.
    is_missed: bool,
    speed: Speed,
}

impl Watch {
    pub(super) async fn run(&self, config: &Config) -> Outcome {
        let replays = Replays::new(&connect(config).await?);
        to_the_end(&replays, self.id, self.json).await
    }
}

/// Follows a replay, and returns an error unless it was done.
pub(super) async fn to_the_end(replays: &Replays, id: ReplayId, json: bool) -> Outcome {
    let told = if json { Told::Objects } else { Told::Lines };
    let stop = told_to_stop();
    let followed = tokio::select! {
        followed = follow(replays, id, told, &stop) => followed?,
        // The replay itself continues.
        () = output::reader_left() => return Ok(()),
    };
    match followed {
        Some(status) => outcome(&status),
        None => Err(Report::new(
            Exit::Failed,
            "the replay continues, and is not watched any more",
        )
        .cure(format!(
            "tidings replay watch {id}, or tidings replay pause or cancel"
        ))),
    }
}

/// The final state of a replay; `None` when `stop` is cancelled first.
pub(super) async fn follow(
    replays: &Replays,
    id: ReplayId,
    told: Told,
    stop: &CancellationToken,
) -> Result<Option<ReplayStatus>, Report> {
    let mut teller = Teller::new(told);
    let look = async {
        loop {
            match replays.find(id).await {
                Ok(status) => {
                    let is_over = status.replay.state.is_final();
                    teller.tell(&status, is_over)?;
                    if is_over {
                        return Ok(status);
                    }
                }
                // An outage does not end the replay, so it does not end the watch either.
                Err(ReplayError::Bus(error)) if teller.last.is_some() && is_away(&error) => {
                    teller.miss(&error);
                }
                Err(error) => return Err(error.into()),
            }
            tokio::time::sleep(LOOK).await;
        }
    };
    match stop.run_until_cancelled(look).await {
        Some(status) => status.map(Some),
        None => {
            teller.end();
            Ok(None)
        }
    }
}

/// Whether the same request may succeed later.
fn is_away(error: &BusError) -> bool {
    matches!(
        error.kind(),
        BusErrorKind::Unavailable | BusErrorKind::Timeout | BusErrorKind::Broken
    )
}

/// Returns an error unless a finished replay was done.
pub(super) fn outcome(status: &ReplayStatus) -> Outcome {
    let replay = &status.replay;
    if replay.state == ReplayState::Done {
        return Ok(());
    }
    let (id, state) = (replay.id, replay.state.as_str());
    let what = match &replay.reason {
        Some(reason) => format!("the replay {id} is {state}: {reason}"),
        None => format!("the replay {id} is {state}"),
    };
    Err(Report::new(Exit::Failed, what).cure(format!("tidings replay show {id}")))
}

impl Teller {
    fn new(told: Told) -> Self {
        let is_drawn = match told {
            Told::Lines => io::stdout().is_terminal(),
            Told::Errors => io::stderr().is_terminal(),
            Told::Objects | Told::Nothing => false,
        };
        Self {
            told,
            is_drawn,
            last: None,
            told_at: None,
            is_missed: false,
            speed: Speed::default(),
        }
    }

    fn tell(&mut self, status: &ReplayStatus, is_last: bool) -> io::Result<()> {
        self.is_missed = false;
        match &status.progress {
            Some(progress) if status.replay.state == ReplayState::Running => {
                self.speed.note(progress.at, progress.completed());
            }
            _ => self.speed.rest(),
        }
        let is_new = self.last.as_ref() != Some(status);
        let text = || line(status, self.speed.per_second());
        if self.is_drawn {
            let text = format!("\r{}  {}\x1b[K", bar(status), output::printable(&text()));
            match self.told {
                // An error is ignored, because stderr is the only place to report it.
                Told::Errors => drop(write!(io::stderr(), "{text}")),
                _ => draw(&text)?,
            }
            if is_last {
                self.end();
            }
        } else if self.told == Told::Objects && is_new {
            output::json(status)?;
        } else if self.told == Told::Lines {
            let is_time = self.told_at.is_none_or(|at| at.elapsed() >= LINE);
            if is_last || is_new && is_time {
                output::line(text())?;
                self.told_at = Some(Instant::now());
            }
        }
        self.last = Some(status.clone());
        Ok(())
    }

    /// Reports once that NATS does not answer.
    fn miss(&mut self, error: &BusError) {
        self.speed.rest();
        if !self.is_missed {
            self.end();
            output::note(format!(
                "NATS does not answer, and the program asks again: {error}"
            ));
            self.is_missed = true;
        }
    }

    /// Ends the line of the bar.
    fn end(&self) {
        match (self.is_drawn, self.told) {
            (true, Told::Errors) => eprintln!(),
            (true, _) => println!(),
            (false, _) => {}
        }
    }
}

impl Speed {
    /// Notes how many events were over at a time.
    fn note(&mut self, at: DateTime<Utc>, over: u64) {
        if self.seen.back().is_none_or(|(last, _)| *last < at) {
            self.seen.push_back((at, over));
        }
        let is_old = |(then, _): &(DateTime<Utc>, u64)| (at - *then).as_seconds_f64() > SPAN;
        while self.seen.len() > 2 && self.seen.get(1).is_some_and(is_old) {
            self.seen.pop_front();
        }
    }

    /// Forgets the measurements: the replay does not run, and this time must not count.
    fn rest(&mut self) {
        self.seen.clear();
    }

    fn per_second(&self) -> Option<f64> {
        let (first, last) = (self.seen.front()?, self.seen.back()?);
        let took = (last.0 - first.0).as_seconds_f64();
        #[allow(clippy::cast_precision_loss)] // only displayed
        let events = last.1.saturating_sub(first.1) as f64;
        (took > 0.0).then(|| events / took)
    }
}

fn line(status: &ReplayStatus, per_second: Option<f64>) -> String {
    let (over, all) = (status.completed(), status.replay.events());
    let state = status.replay.state;
    let mut text = format!("{}: {over} of {all}", state.as_str());
    let gone = status.progress.as_ref().map_or(0, |progress| progress.gone);
    if gone > 0 {
        text += &format!(", {gone} gone: removed by their stream");
    }
    let progress = status.progress.as_ref();
    let uncounted = progress.map_or(0, |progress| progress.uncounted);
    if uncounted > 0 {
        text += &format!(
            ", {uncounted} ended without being counted: an instance died, or lost its lease"
        );
    }
    if status.progress.is_none() && !state.is_final() {
        text += ", no instance has started it";
    }
    if let Some(issue) = &status.issue {
        return text + ", it makes no progress " + &show::issue(issue);
    }
    if state.is_final() {
        return text + &became(status);
    }
    if let Some(per_second) = per_second {
        text += &format!(", {per_second:.0}/s");
        if per_second > 0.0 {
            #[allow(clippy::cast_precision_loss)] // only displayed
            let left = all.saturating_sub(over) as f64 / per_second;
            let left = Duration::try_from_secs_f64(left).unwrap_or(Duration::MAX);
            text += &format!(", {} left", lasting(left));
        }
    }
    text
}

/// The outcomes of its events, once the replay has ended.
fn became(status: &ReplayStatus) -> String {
    let Some(progress) = &status.progress else {
        return String::new();
    };
    if status.replay.request.rehearse {
        return String::new();
    }
    let left_out = progress.filtered.saturating_add(progress.skipped);
    let (handled, letters) = (progress.handled, progress.dead_lettered);
    let mut text = format!(", {handled} handled, {left_out} left out, {letters} dead letters");
    for (count, what) in [
        (progress.duplicates, "handled before in this replay"),
        (progress.retried, "among the retries"),
    ] {
        if count > 0 {
            text += &format!(", {count} {what}");
        }
    }
    text
}

fn bar(status: &ReplayStatus) -> String {
    let all = status.replay.events().max(1);
    let over = status.completed().min(all);
    let [done, percent] =
        [WIDTH, 100].map(|of| u128::from(over) * u128::from(of) / u128::from(all));
    let done = usize::try_from(done).unwrap_or(0);
    let left = usize::try_from(WIDTH).unwrap_or(0).saturating_sub(done);
    format!("[{}{}] {percent:3} %", "#".repeat(done), "-".repeat(left))
}

fn draw(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;

    use super::*;

    #[test]
    fn the_speed_covers_the_last_seconds_without_pauses() {
        let second = |second| DateTime::UNIX_EPOCH + TimeDelta::seconds(second);
        let mut speed = Speed::default();
        speed.note(second(0), 1000);
        assert_eq!(
            speed.per_second(),
            None,
            "what was over before is not counted"
        );
        speed.note(second(1), 1100);
        assert_eq!(speed.per_second(), Some(100.0));
        for at in 2..=20 {
            speed.note(second(at), 1100 + 10 * (at.unsigned_abs() - 1));
        }
        assert_eq!(speed.per_second(), Some(10.0));
        speed.rest();
        speed.note(second(600), 1290);
        assert_eq!(speed.per_second(), None);
        speed.note(second(601), 1340);
        assert_eq!(speed.per_second(), Some(50.0));
    }
}
