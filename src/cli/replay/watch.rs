//! `tidings replay watch`: following one to its end. Never changes it.

use std::{
    collections::VecDeque,
    io::{self, IsTerminal},
    time::Duration,
};

use chrono::{DateTime, Utc};
use clap::Args;
use tidings::{ReplayId, ReplayProgress, ReplayState, ReplayStatus, Replays};
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

/// How often it is looked how far it is; its replica tells once a second at most.
const LOOK: Duration = Duration::from_millis(250);
/// How often a line is printed where there is no terminal.
const LINE: Duration = Duration::from_secs(2);
/// Over which time the speed is counted.
const SPAN: f64 = 10.0;
/// How wide the bar is.
const WIDTH: u64 = 30;

#[derive(Args)]
pub(super) struct Watch {
    /// The replay, as `list` prints it
    id: ReplayId,
    /// Print a JSON object whenever it has come further
    #[arg(long)]
    json: bool,
}

/// Where it is told how far a replay is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Told {
    /// A bar on stdout, where that is a terminal, else lines.
    Lines,
    /// A JSON object a time.
    Objects,
    /// A bar on stderr, where that is a terminal: stdout is for the result.
    Errors,
    Nothing,
}

/// How fast it is.
#[derive(Default)]
struct Speed {
    seen: VecDeque<(DateTime<Utc>, u64)>,
}

/// Tells how far a replay is.
struct Teller {
    told: Told,
    is_drawn: bool,
    last: Option<ReplayStatus>,
    told_at: Option<Instant>,
    speed: Speed,
}

impl Watch {
    pub(super) async fn run(&self, config: &Config) -> Outcome {
        let replays = Replays::over(&connect(config).await?);
        to_the_end(&replays, self.id, self.json).await
    }
}

/// Follows a replay, and says whether it was done.
pub(super) async fn to_the_end(replays: &Replays, id: ReplayId, json: bool) -> Outcome {
    let told = if json { Told::Objects } else { Told::Lines };
    match follow(replays, id, told, &told_to_stop()).await? {
        Some(status) => outcome(&status),
        None => Err(
            Report::new(Exit::Failed, "it goes on, and nobody follows it")
                .cure(format!("tidings replay watch {id}, or pause or cancel it")),
        ),
    }
}

/// How a replay is when it is over; `None` when told to stop before.
pub(super) async fn follow(
    replays: &Replays,
    id: ReplayId,
    told: Told,
    stop: &CancellationToken,
) -> Result<Option<ReplayStatus>, Report> {
    let mut teller = Teller::new(told);
    loop {
        let status = replays.find(id).await?;
        let is_over = status.replay.state.is_final();
        teller.tell(&status, is_over)?;
        if is_over {
            return Ok(Some(status));
        }
        if stop
            .run_until_cancelled(tokio::time::sleep(LOOK))
            .await
            .is_none()
        {
            teller.end();
            return Ok(None);
        }
    }
}

/// Whether a replay that is over was done.
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
            speed: Speed::default(),
        }
    }

    fn tell(&mut self, status: &ReplayStatus, is_last: bool) -> io::Result<()> {
        if let Some(progress) = &status.progress {
            self.speed.note(progress);
        }
        let is_new = self.last.as_ref() != Some(status);
        let text = || line(status, self.speed.per_second());
        if self.is_drawn {
            let text = format!("\r{}  {}\x1b[K", bar(status), text());
            match self.told {
                Told::Errors => eprint!("{text}"),
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

    /// Leaves the line of the bar.
    fn end(&self) {
        match (self.is_drawn, self.told) {
            (true, Told::Errors) => eprintln!(),
            (true, _) => println!(),
            (false, _) => {}
        }
    }
}

impl Speed {
    fn note(&mut self, progress: &ReplayProgress) {
        if self.seen.is_empty() {
            self.seen
                .extend(progress.began_at.map(|began_at| (began_at, 0)));
        }
        let last = self.seen.back().map(|(at, _)| *at);
        if last.is_none_or(|last| last < progress.at) {
            self.seen.push_back((progress.at, progress.over()));
        }
        let is_old = |(at, _): &(DateTime<Utc>, u64)| (progress.at - *at).as_seconds_f64() > SPAN;
        while self.seen.len() > 2 && self.seen.get(1).is_some_and(is_old) {
            self.seen.pop_front();
        }
    }

    fn per_second(&self) -> Option<f64> {
        let (first, last) = (self.seen.front()?, self.seen.back()?);
        let took = (last.0 - first.0).as_seconds_f64();
        #[allow(clippy::cast_precision_loss)] // it is shown
        let events = last.1.saturating_sub(first.1) as f64;
        (took > 0.0).then(|| events / took)
    }
}

fn line(status: &ReplayStatus, per_second: Option<f64>) -> String {
    let (over, all) = (status.over(), status.replay.events());
    let state = status.replay.state;
    let mut text = format!("{}: {over} of {all}", state.as_str());
    let gone = status.progress.as_ref().map_or(0, |progress| progress.gone);
    if gone > 0 {
        text += &format!(", {gone} were gone: their stream had removed them");
    }
    if status.progress.is_none() && !state.is_final() {
        text += ", no replica has begun with it";
    }
    if let Some(trouble) = &status.trouble {
        return text + ", it does not go on " + &show::trouble(trouble);
    }
    if let Some(per_second) = per_second {
        text += &format!(", {per_second:.0}/s");
        if state == ReplayState::Running && per_second > 0.0 {
            #[allow(clippy::cast_precision_loss)] // it is shown
            let left = all.saturating_sub(over) as f64 / per_second;
            let left = Duration::try_from_secs_f64(left).unwrap_or(Duration::MAX);
            text += &format!(", {} left", lasting(left));
        }
    }
    text
}

fn bar(status: &ReplayStatus) -> String {
    let all = status.replay.events().max(1);
    let over = status.over().min(all);
    let [done, percent] =
        [WIDTH, 100].map(|of| u128::from(over) * u128::from(of) / u128::from(all));
    let done = usize::try_from(done).unwrap_or(0);
    let left = usize::try_from(WIDTH).unwrap_or(0).saturating_sub(done);
    format!("[{}{}] {percent:3} %", "#".repeat(done), "-".repeat(left))
}

fn draw(text: &str) -> io::Result<()> {
    use io::Write;
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}
