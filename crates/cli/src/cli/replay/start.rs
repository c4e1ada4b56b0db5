//! `tidings replay start`: starts or rehearses a replay.

use clap::{Args, builder::NonEmptyStringValueParser};
use serde_json::json;
use tidings::{
    Rate, StartFrom,
    replays::{Replay, ReplayRequest, ReplayState, Replays},
};

use super::{
    rehearsal::{self, Estimate},
    watch::{self, Told},
};
use crate::{
    cli::{
        connect,
        consent::{Consent, NOTHING_CHANGED},
        output, place,
        report::{Exit, Outcome, Report},
        told_to_stop,
    },
    config::Config,
};

#[derive(Args)]
pub(super) struct Start {
    /// The subscriber's name
    subscriber: String,
    /// The start: events stored since 2h ago or TIME, a sequence, or the beginning
    #[arg(long, value_name = "2h|TIME|SEQ|beginning", value_parser = place::parse)]
    from: StartFrom,
    /// The end: events stored before 5m ago or TIME, or a sequence, inclusive [default: the newest event]
    #[arg(long, value_name = "5m|TIME|SEQ|now", value_parser = end)]
    to: Option<StartFrom>,
    /// Only events with this name; can be repeated [default: all names that the subscriber handles]
    #[arg(long = "name", value_name = "NAME")]
    names: Vec<String>,
    /// Only events of this stream; required when a sequence could belong to several
    #[arg(long)]
    stream: Option<String>,
    /// Only events with this key
    #[arg(long, value_parser = NonEmptyStringValueParser::new())]
    key: Option<String>,
    /// Only events with this correlation id
    #[arg(long, value_name = "ID", value_parser = NonEmptyStringValueParser::new())]
    correlation: Option<String>,
    /// The most events that begin in a time, over all instances [default: limited by concurrency only]
    #[arg(long, value_name = "500/s", value_parser = pace)]
    rate: Option<Pace>,
    /// Call the handlers of this shadow (.shadow) instead of the live ones
    #[arg(long, value_name = "NAME")]
    shadow: Option<String>,
    /// Publish the follow-up events of the handlers; by default they are only counted
    #[arg(long)]
    follow_ups: bool,
    /// Start even when another replay of the subscriber is running, the stream has lost the start of the range, or no
    /// instance answers
    #[arg(long)]
    force: bool,
    /// Only have an instance read and decode all events, and print what the replay would do
    #[arg(long)]
    dry_run: bool,
    /// Follow the replay to its end, as `watch` does
    #[arg(long, conflicts_with = "dry_run")]
    watch: bool,
    #[command(flatten)]
    consent: Consent,
    /// Print JSON objects
    #[arg(long)]
    json: bool,
}

/// A rate, and the same in events per second.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Pace {
    pub(super) rate: Rate,
    pub(super) per_second: f64,
}

impl Start {
    pub(super) async fn run(&self, config: &Config) -> Outcome {
        let request = self.request()?;
        let replays = Replays::new(&connect(config).await?);
        let planned = replays.plan(&self.subscriber, &request).await?;
        if !self.dry_run && !self.consent.to(&what(&planned))? {
            return Ok(output::line(NOTHING_CHANGED)?);
        }
        let replay = replays.begin(planned).await?;
        if self.dry_run {
            return self.rehearse(&replays, &replay).await;
        }
        if self.json {
            output::json(&replay)?;
        } else {
            tell(&replay)?;
        }
        match self.watch {
            true => watch::to_the_end(&replays, replay.id, self.json).await,
            false => Ok(()),
        }
    }

    fn request(&self) -> Result<ReplayRequest, Report> {
        if self.from == StartFrom::New {
            let what = "a replay handles events that are stored already, and --from now is after all of them";
            return Err(
                Report::new(Exit::Usage, what).cure("--from 2h, a time, a sequence or beginning")
            );
        }
        let mut request = ReplayRequest::new(self.from).names(&self.names);
        request.to = self.to.filter(|to| *to != StartFrom::New);
        request.stream.clone_from(&self.stream);
        request.key.clone_from(&self.key);
        request.correlation.clone_from(&self.correlation);
        request.rate = self.rate.map(|pace| pace.rate);
        request.shadow.clone_from(&self.shadow);
        request.follow_ups = self.follow_ups;
        request.force = self.force;
        request.rehearse = self.dry_run;
        Ok(request)
    }

    /// Waits for the end of a rehearsal. When stopped, it cancels the rehearsal, because its result would not be read.
    async fn rehearse(&self, replays: &Replays, replay: &Replay) -> Outcome {
        let stop = told_to_stop();
        let told = if self.json {
            Told::Nothing
        } else {
            Told::Errors
        };
        let status = match watch::follow(replays, replay.id, told, &stop).await? {
            Some(status) => status,
            None => {
                replays.cancel(replay.id).await?;
                return Err(Report::new(
                    Exit::Failed,
                    "the rehearsal was stopped before its end",
                ));
            }
        };
        let progress = status.progress.as_ref();
        let found = progress.and_then(|progress| progress.rehearsal.as_ref());
        let (ReplayState::Done, Some(found)) = (status.replay.state, found) else {
            return watch::outcome(&status);
        };
        let estimate = Estimate::of(replays, &status, self.rate).await?;
        let filtered = progress.map_or(0, |progress| progress.filtered);
        if self.json {
            let answer = json!({
                "subscriber": replay.subscriber,
                "ranges": replay.ranges,
                "left_out": filtered,
                "gone": progress.map_or(0, |progress| progress.gone),
                "events": found.events,
                "errors": found.errors,
                "estimated_seconds": estimate.seconds(),
            });
            return Ok(output::json(&answer)?);
        }
        tell_ranges(replay)?;
        rehearsal::print(found)?;
        let gone = progress.map_or(0, |progress| progress.gone);
        if gone > 0 {
            let text = format!("{gone} gone: removed by their stream before they were delivered");
            output::line(text)?;
        }
        if filtered > 0 {
            output::line(format!("{filtered} left out: another key or conversation"))?;
        }
        Ok(output::line(estimate.text())?)
    }
}

fn tell(replay: &Replay) -> Outcome {
    let Replay { id, subscriber, .. } = replay;
    output::line(format!("the replay {id} of {subscriber} has started"))?;
    tell_ranges(replay)?;
    Ok(output::line(format!(
        "tidings replay watch {id} follows the replay"
    ))?)
}

/// The effect of a replay, in one line. Before the replay runs, only its ranges are known.
fn what(replay: &Replay) -> String {
    let request = &replay.request;
    let is_filtered = request.key.is_some() || request.correlation.is_some();
    let most = if is_filtered {
        "the matching ones of "
    } else {
        ""
    };
    let follow_ups = match request.follow_ups {
        true => ", and publishes what they publish",
        false => "",
    };
    format!(
        "has the handlers of {} handle {most}{} again{follow_ups}",
        replay.subscriber,
        output::events(replay.events())
    )
}

fn tell_ranges(replay: &Replay) -> Outcome {
    for range in &replay.ranges {
        let (stream, first, last) = (&range.stream, range.first, range.last);
        let names = range.names.join(", ");
        let text = format!(
            "{stream} {first} to {last}: {} of {names}",
            output::events(range.events)
        );
        output::line(output::printable(&text))?;
    }
    Ok(())
}

/// Parses the end of a replay.
fn end(text: &str) -> Result<StartFrom, String> {
    match place::parse(text)? {
        StartFrom::Beginning => Err(
            "there is nothing before the beginning: write 5m, a time, a sequence or now".to_owned(),
        ),
        place => Ok(place),
    }
}

fn pace(text: &str) -> Result<Pace, String> {
    let refused = || "write 500/s or 300/m".to_owned();
    let (number, unit) = text.split_once('/').ok_or_else(refused)?;
    let number: u32 = number.parse().map_err(|_| refused())?;
    let (rate, seconds) = match unit {
        "s" => (Rate::per_second(number), 1.0),
        "m" => (Rate::per_minute(number), 60.0),
        _ => return Err(refused()),
    };
    match number {
        1..=1_000_000 => Ok(Pace {
            rate,
            per_second: f64::from(number) / seconds,
        }),
        _ => Err("write a rate between 1 and 1000000".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_a_number_and_a_unit() {
        assert_eq!(pace("500/s").unwrap().rate, Rate::per_second(500));
        assert_eq!(pace("300/m").unwrap().rate, Rate::per_second(5));
        for text in ["500", "0/s", "-1/s", "1/d", "x/s", "9999999/s"] {
            assert!(pace(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn fuzz_rates() {
        let seeds = ["500/s", "300/m", "0/s", "1000000/s"];
        tidings_fuzz::fuzz_text("rate", &seeds, |text| pace(text).is_ok());
    }
}
