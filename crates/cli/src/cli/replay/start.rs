//! `tidings replay start`: beginning one, or rehearsing it.

use clap::{Args, builder::NonEmptyStringValueParser};
use serde_json::json;
use tidings::{Rate, Replay, ReplayPoint, ReplayRequest, ReplayState, Replays, Start as Place};

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
    /// The subscriber
    subscriber: String,
    /// The first event: what was stored since 2h or TIME, a sequence, or the beginning
    #[arg(long, value_name = "2h|TIME|SEQ|beginning", value_parser = place::parse)]
    from: Place,
    /// The end: what was stored before 5m or TIME, or a sequence, itself included [default: the newest event there is]
    #[arg(long, value_name = "5m|TIME|SEQ|now", value_parser = end)]
    to: Option<Place>,
    /// Only events of this name; may be given several times [default: all that it handles]
    #[arg(long = "name", value_name = "NAME")]
    names: Vec<String>,
    /// Only events of this stream; needed where a sequence may be in several
    #[arg(long)]
    stream: Option<String>,
    /// Only events with this key
    #[arg(long, value_parser = NonEmptyStringValueParser::new())]
    key: Option<String>,
    /// Only events of this conversation
    #[arg(long, value_name = "ID", value_parser = NonEmptyStringValueParser::new())]
    correlation: Option<String>,
    /// How many of them begin in a time, over all replicas [default: as many as there is place for]
    #[arg(long, value_name = "500/s", value_parser = pace)]
    rate: Option<Pace>,
    /// Call the handlers of this name (.shadow) instead of the others
    #[arg(long, value_name = "NAME")]
    shadow: Option<String>,
    /// Publish what the handlers publish; without it that is only counted
    #[arg(long)]
    follow_ups: bool,
    /// Begin although another replay of it is not over, the stream has lost the beginning, or no replica answers
    #[arg(long)]
    force: bool,
    /// Only have a replica read and decode everything, and print what it would do
    #[arg(long)]
    dry_run: bool,
    /// Follow it to its end, as `watch` does
    #[arg(long, conflicts_with = "dry_run")]
    watch: bool,
    #[command(flatten)]
    consent: Consent,
    /// Print JSON objects
    #[arg(long)]
    json: bool,
}

/// A rate, and what it is a second.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Pace {
    pub(super) rate: Rate,
    pub(super) per_second: f64,
}

impl Start {
    pub(super) async fn run(&self, config: &Config) -> Outcome {
        let request = self.request()?;
        let replays = Replays::over(&connect(config).await?);
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
        let from = point(self.from).ok_or_else(|| {
            let what = "a replay is of what is there already, and --from now is behind all of it";
            Report::new(Exit::Usage, what).cure("--from 2h, a time, a sequence or beginning")
        })?;
        let mut request = ReplayRequest::new(from).names(&self.names);
        request.to = self.to.and_then(point);
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

    /// Waits for its end, and ends it when told to stop: nobody else would want it.
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
                return Err(Report::new(Exit::Failed, "it was stopped before its end"));
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
            let text = format!("{gone} gone: removed by their stream before they came");
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
    output::line(format!("the replay {id} of {subscriber} has begun"))?;
    tell_ranges(replay)?;
    Ok(output::line(format!(
        "tidings replay watch {id} follows it"
    ))?)
}

/// What a replay means, in one line. Before it runs, only its ranges are known.
fn what(replay: &Replay) -> String {
    let request = &replay.request;
    let is_filtered = request.key.is_some() || request.correlation.is_some();
    let most = if is_filtered {
        "those that match of "
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

/// A place among what there is; `None` behind it.
fn point(place: Place) -> Option<ReplayPoint> {
    match place {
        Place::Beginning => Some(ReplayPoint::Beginning),
        Place::Sequence(sequence) => Some(ReplayPoint::Sequence(sequence)),
        Place::Time(time) => Some(ReplayPoint::Time(time)),
        _ => None,
    }
}

/// Where a replay ends.
fn end(text: &str) -> Result<Place, String> {
    match place::parse(text)? {
        Place::Beginning => Err(
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
