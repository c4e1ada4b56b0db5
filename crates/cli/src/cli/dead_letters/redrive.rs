//! `tidings dead-letters redrive`: returns events to the subscriber that failed. Never more than one dead letter at a
//! time is published but not deleted yet.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{self, Read},
    time::Duration,
};

use clap::Args;
use serde_json::json;
use tidings::dead_letters::{
    DeadLetterReader, DeadLetters, DeadLettersError, Edit, ParkedKey, RedriveFates, RedriveWatch,
    Redriver, StoredDeadLetter,
};
use tokio::time::{Instant, Interval, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::{
    Which, not_there, or_dash,
    parked::{self, Key, Touched},
};
use crate::{
    cli::{
        connect, output,
        report::{Exit, Outcome, Report},
        told_to_stop,
    },
    config::{Config, duration},
};

/// The interval between progress reports.
const TOLD_EVERY: Duration = Duration::from_secs(2);
/// How many errors of dead letters that cannot be redriven are printed.
const NAMED: usize = 10;

#[derive(Args)]
pub(super) struct Redrive {
    /// The most events per second, minute or hour
    #[arg(long, value_name = "N/s", default_value = "100/s", value_parser = pause)]
    rate: Duration,
    /// Print what would be redriven, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// A new payload for the dead letter, from a file or from stdin (`-`); must be JSON
    #[arg(long, value_name = "FILE|-", requires_all = ["letter", "by"])]
    payload: Option<String>,
    /// The editor of the payload, recorded in the event's headers
    #[arg(long, value_name = "NAME", requires = "payload")]
    by: Option<String>,
    /// How long to wait for the outcomes of the redriven events; 0s does not wait
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = duration::parse)]
    wait: Duration,
    /// Print the report as one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    which: Which,
}

/// The results so far.
#[derive(Default)]
struct Done {
    /// By subscriber, name and fingerprint.
    redriven: BTreeMap<[String; 3], u64>,
    gone: u64,
    impossible: u64,
    /// Keys that stay parked because their redrive failed.
    parked: BTreeSet<Key>,
    /// The keys of the redriven dead letters.
    touched: Touched,
    /// Collects the outcomes of the redriven events.
    watch: Option<RedriveWatch>,
    /// The outcomes of the redriven events.
    fates: Option<RedriveFates>,
    /// The first errors of dead letters that could not be redriven.
    reasons: Vec<String>,
    /// The first missing subscriber: its error has a cure of its own.
    no_subscriber: Option<String>,
}

impl Redrive {
    pub(super) async fn run(&self, config: &Config) -> Outcome {
        let selection = self.which.selection()?;
        let edit = self.edit()?;
        let stop = told_to_stop();
        let bus = connect(config).await?;
        let dead_letters = DeadLetters::new(&bus);
        let redriver = dead_letters.redriver().await?;
        let mut done = Done {
            watch: Some(dead_letters.watch().await?).filter(|_| !self.dry_run),
            ..Done::default()
        };
        let is_whole = !self.dry_run && selection.is_of_whole_keys();
        let mut ended = Ok(());
        if is_whole {
            let parked = dead_letters.parked_keys(&selection).await?;
            ended = self.keys(&parked, &redriver, &mut done, &stop).await;
        }
        if !self.dry_run && !is_whole {
            done.touched = Touched::of(&dead_letters).await?;
        }
        let mut letters = dead_letters.read(selection).await?;
        if ended.is_ok() {
            let edit = edit.as_ref();
            ended = self
                .each(&mut letters, &redriver, edit, &mut done, &stop)
                .await;
        }
        if ended.is_ok() && !self.dry_run && !is_whole {
            ended = done.touched.unpark(&dead_letters).await;
        }
        if let (Ok(()), Some(letter), true) = (&ended, self.which.letter, done.is_nothing()) {
            return Err(not_there(letter));
        }
        let is_partial = ended.is_err() || stop.is_cancelled();
        if ended.is_ok() && done.count() > 0 {
            ended = done.await_fates(self.wait, &stop).await;
        }
        self.report(&done, is_partial)?;
        ended?;
        if stop.is_cancelled() {
            return Err(
                Report::new(Exit::Failed, "the command was stopped before its end")
                    .cure("run the same command again; it continues with what is left"),
            );
        }
        done.outcome()
    }

    /// Redrives parked keys, one after the other.
    async fn keys(
        &self,
        keys: &[ParkedKey],
        redriver: &Redriver,
        done: &mut Done,
        stop: &CancellationToken,
    ) -> Outcome {
        let mut pace = pace(self.rate);
        for key in keys {
            let tell = |letter: &StoredDeadLetter| done.redriven(letter);
            let redriven = parked::redrive(redriver, key, &mut pace, stop, tell).await;
            match redriven {
                Ok(()) => {}
                Err(DeadLettersError::Bus(error)) => {
                    return Err(Report::from(DeadLettersError::Bus(error))
                        .cure("run the same command again; it continues with what is left"));
                }
                Err(error) => {
                    done.parked
                        .insert((key.subscriber.clone(), key.key.clone()));
                    done.reason(&error);
                }
            }
        }
        Ok(())
    }

    async fn each(
        &self,
        letters: &mut DeadLetterReader,
        redriver: &Redriver,
        edit: Option<&Edit>,
        done: &mut Done,
        stop: &CancellationToken,
    ) -> Outcome {
        let mut pace = pace(self.rate);
        let mut told = Instant::now();
        loop {
            let letter = tokio::select! {
                letter = letters.next() => letter?,
                () = stop.cancelled() => return Ok(()),
            };
            let Some(letter) = letter else { return Ok(()) };
            if parked::key_of(&letter).is_some_and(|key| done.parked.contains(&key)) {
                continue;
            }
            if !self.dry_run {
                tokio::select! {
                    _ = pace.tick() => {}
                    () = stop.cancelled() => return Ok(()),
                }
            }
            // Not cancelled: between publishing and deletion a dead letter exists twice.
            let redriven = match (self.dry_run, edit) {
                (true, _) => redriver.check(&letter).await,
                (false, Some(edit)) => redriver.redrive_edited(&letter, edit).await,
                (false, None) => redriver.redrive(&letter).await,
            };
            done.note(&letter, redriven)?;
            if told.elapsed() >= TOLD_EVERY {
                told = Instant::now();
                let (read, last) = letters.progress();
                let count = done.count();
                output::note(format!(
                    "{count} {}, dead letter {read} of {last}",
                    self.verb()
                ));
            }
        }
    }

    fn report(&self, done: &Done, is_partial: bool) -> Outcome {
        let groups = done.redriven.iter();
        if self.json {
            let group = |([subscriber, name, fingerprint], count): (&[String; 3], &u64)| {
                json!({
                    "subscriber": subscriber, "name": name, "fingerprint": fingerprint, "count": count,
                })
            };
            return Ok(output::json(&json!({
                "dry_run": self.dry_run,
                "complete": !is_partial,
                "redriven": done.count(),
                "handled": done.fates.as_ref().map(|fates| fates.handled),
                "failed_again": done.fates.as_ref().map(|fates| fates.failed_again),
                "open": done.fates.as_ref().map(|fates| fates.open),
                "dead_letters": done.fates.as_ref().map(|fates| &fates.dead_letters),
                "gone": done.gone,
                "impossible": done.impossible,
                "parked_keys": done.parked.iter().map(|(subscriber, key)| {
                    json!({ "subscriber": subscriber, "key": key })
                }).collect::<Vec<_>>(),
                "reasons": done.reasons,
                "groups": groups.map(group).collect::<Vec<_>>(),
            }))?);
        }
        let head = ["count", "subscriber", "name", "fingerprint"].map(str::to_owned);
        let row = |([subscriber, name, fingerprint], count): (&[String; 3], &u64)| {
            let cells = [subscriber, name, fingerprint].map(|cell| or_dash(Some(cell)));
            let [subscriber, name, fingerprint] = cells;
            [count.to_string(), subscriber, name, fingerprint]
        };
        let rows: Vec<[String; 4]> = [head].into_iter().chain(groups.map(row)).collect();
        if rows.len() > 1 {
            output::table(&rows)?;
        }
        output::line(format!("{} {}", done.count(), self.verb()))?;
        if let Some(fates) = &done.fates {
            let RedriveFates {
                handled,
                failed_again,
                open,
                ..
            } = fates;
            output::line(format!(
                "{handled} handled, {failed_again} failed again, {open} still open"
            ))?;
        }
        if done.gone > 0 {
            output::line(format!("{} were removed meanwhile", done.gone))?;
        }
        if !done.parked.is_empty() {
            output::line(format!("{} keys stay parked", done.parked.len()))?;
        }
        if done.impossible > 0 {
            output::line(format!("{} stay: they cannot be redriven", done.impossible))?;
        }
        Ok(())
    }

    fn verb(&self) -> &'static str {
        match self.dry_run {
            true => "would be redriven",
            false => "redriven",
        }
    }

    fn edit(&self) -> Result<Option<Edit>, Report> {
        let (Some(from), Some(by)) = (&self.payload, &self.by) else {
            return Ok(None);
        };
        let mut payload = Vec::new();
        let read = match from.as_str() {
            "-" => io::stdin().lock().read_to_end(&mut payload).map(drop),
            path => fs::read(path).map(|read| payload = read),
        };
        read.map_err(|error| {
            Report::new(
                Exit::Usage,
                format!("the payload cannot be read from {from}"),
            )
            .because(Some(&error))
        })?;
        let payload = payload.trim_ascii().to_vec();
        match serde_json::from_slice::<serde::de::IgnoredAny>(&payload) {
            Ok(_) => Ok(Some(Edit::new(payload, by))),
            Err(error) => {
                Err(Report::new(Exit::Usage, "the payload is not JSON").because(Some(&error)))
            }
        }
    }
}

impl Done {
    fn note(
        &mut self,
        letter: &StoredDeadLetter,
        redriven: Result<(), DeadLettersError>,
    ) -> Outcome {
        match redriven {
            Ok(()) => self.redriven(letter),
            Err(DeadLettersError::Gone { .. }) => self.gone += 1,
            Err(
                error @ (DeadLettersError::Impossible { .. }
                | DeadLettersError::NoSubscriber { .. }),
            ) => {
                self.impossible += 1;
                self.reason(&error);
            }
            Err(error) => {
                return Err(Report::from(error)
                    .cure("run the same command again; it continues with what is left"));
            }
        }
        Ok(())
    }

    fn redriven(&mut self, letter: &StoredDeadLetter) {
        let fingerprint = letter.fingerprint.clone().unwrap_or_default();
        let group = [letter.subscriber.clone(), letter.name.clone(), fingerprint];
        *self.redriven.entry(group).or_default() += 1;
        self.touched.note(letter);
        self.watch.iter_mut().for_each(|watch| watch.add(letter));
    }

    /// Waits for the outcomes of the redriven events. When `stop` is cancelled, it takes those that are known by then.
    async fn await_fates(&mut self, wait: Duration, stop: &CancellationToken) -> Outcome {
        let Some(watch) = &self.watch else {
            return Ok(());
        };
        let fates = match stop.run_until_cancelled(watch.wait(wait)).await {
            Some(fates) => fates,
            None => watch.wait(Duration::ZERO).await,
        };
        self.fates = Some(fates?);
        Ok(())
    }

    fn reason(&mut self, error: &DeadLettersError) {
        if let DeadLettersError::NoSubscriber { subscriber } = error {
            self.no_subscriber.get_or_insert_with(|| subscriber.clone());
            // One line for each missing subscriber, however many dead letters it has.
            if self.reasons.contains(&error.to_string()) {
                return;
            }
        }
        if self.reasons.len() < NAMED {
            self.reasons.push(error.to_string());
        }
    }

    fn count(&self) -> u64 {
        self.redriven.values().sum()
    }

    fn is_nothing(&self) -> bool {
        self.count() == 0 && self.impossible == 0
    }

    fn outcome(&self) -> Outcome {
        let failed = self.fates.as_ref().map_or(0, |fates| fates.failed_again);
        match &*self.reasons {
            [] if failed > 0 => {
                let count = self.count();
                let why = format!("{failed} of {count} redriven events failed again");
                let letters = self
                    .fates
                    .iter()
                    .flat_map(|fates| fates.dead_letters.first());
                let letter = letters.map(ToString::to_string).next().unwrap_or_default();
                let cure = format!("tidings dead-letters show {letter}, which says why");
                Err(Report::new(Exit::Failed, why).cure(cure))
            }
            [] => Ok(()),
            [first, ..] => {
                let cure = match &self.no_subscriber {
                    Some(subscriber) => format!(
                        "start a worker that runs {subscriber}, then run the same command again; or tidings dead-letters discard \
                         --subscriber {subscriber}"
                    ),
                    None => {
                        "tidings dead-letters show SEQUENCE, then discard the dead letter, or redrive it with --payload".to_owned()
                    }
                };
                Err(Report::new(Exit::Failed, first).cure(cure))
            }
        }
    }
}

/// Ticks once for each event; the first tick comes at once.
fn pace(pause: Duration) -> Interval {
    let mut interval = tokio::time::interval(pause);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

/// Parses a rate into the time between two events.
fn pause(text: &str) -> Result<Duration, String> {
    let refused = || "write 100/s, 30/m or 500/h".to_owned();
    let (number, unit) = text.split_once('/').ok_or_else(refused)?;
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => return Err(refused()),
    };
    match number.parse::<u32>() {
        Ok(number) if (1..=1_000_000).contains(&number) => {
            Ok(Duration::from_secs(seconds) / number)
        }
        _ => Err(refused()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_a_number_and_a_unit() {
        assert_eq!(pause("100/s"), Ok(Duration::from_millis(10)));
        assert_eq!(pause("30/m"), Ok(Duration::from_secs(2)));
        assert_eq!(pause("1/h"), Ok(Duration::from_secs(3600)));
        for text in ["100", "0/s", "-1/s", "1/d", "x/s", "9999999/s"] {
            assert!(pause(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn fuzz_rates_of_redrives() {
        let seeds = ["100/s", "30/m", "1/h", "1000001/s", "0/h"];
        tidings_fuzz::fuzz_text("rate of a redrive", &seeds, |text| {
            pause(text).is_ok_and(|pause| !pause.is_zero())
        });
    }
}
