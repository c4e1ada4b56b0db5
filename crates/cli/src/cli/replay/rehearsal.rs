//! The result of a rehearsal, and the estimated time of the replay. Never starts one.

use std::time::Duration;

use tidings::replays::{Rehearsal, Replay, ReplayState, ReplayStatus, Replays};

use super::{lasting, start::Pace};
use crate::cli::{
    output,
    report::{Outcome, Report},
};

const HEAD: [&str; 6] = [
    "name",
    "version",
    "events",
    "would call",
    "would skip",
    "undecodable",
];

/// The estimated time of a replay, and the basis of the estimate.
pub(super) struct Estimate {
    time: Option<Duration>,
    why: String,
}

pub(super) fn print(found: &Rehearsal) -> Outcome {
    let mut rows = vec![HEAD.map(str::to_owned)];
    for events in &found.events {
        rows.push([
            events.name.clone(),
            events.version.to_string(),
            events.events.to_string(),
            events.would_call.to_string(),
            events.would_skip.to_string(),
            events.undecodable.to_string(),
        ]);
    }
    let sum = |count: fn(&tidings::replays::RehearsedEvents) -> u64| {
        let counts = found.events.iter().map(count);
        counts.fold(0, u64::saturating_add)
    };
    let sums: [u64; 4] = [
        sum(|events| events.events),
        sum(|events| events.would_call),
        sum(|events| events.would_skip),
        sum(|events| events.undecodable),
    ];
    let [events, call, skip, undecodable] = sums.map(|sum| sum.to_string());
    let all = [
        "all".to_owned(),
        String::new(),
        events,
        call,
        skip,
        undecodable,
    ];
    rows.push(all);
    output::table(&rows)?;
    for error in &found.errors {
        let (name, version) = (&error.name, error.version);
        let place = format!("{} {}", error.stream, error.sequence);
        let text = format!("{place}: {name} version {version}: {}", error.error);
        output::line(output::printable(&text))?;
    }
    Ok(())
}

impl Estimate {
    /// Estimates from the requested rate, else from the speed of the subscriber's last replay without a rate.
    pub(super) async fn of(
        replays: &Replays,
        status: &ReplayStatus,
        rate: Option<Pace>,
    ) -> Result<Self, Report> {
        let found = status.progress.as_ref();
        let found = found.and_then(|progress| progress.rehearsal.as_ref());
        let events = found.map_or(0, |found| {
            let called = found.events.iter().map(|events| events.would_call);
            called.fold(0, u64::saturating_add)
        });
        if let Some(Pace { rate, per_second }) = rate {
            let time = taking(events, per_second);
            let why = format!("at {rate}");
            return Ok(Self { time, why });
        }
        for replay in before(replays, &status.replay).await? {
            if let Some(per_second) = speed(&replays.find(replay.id).await?) {
                let time = taking(events, per_second);
                let speed = match per_second {
                    slow if slow < 1.0 => format!("{:.1} per minute", slow * 60.0),
                    fast => format!("{fast:.1} per second"),
                };
                let why = format!("at {speed}, as the replay {} was", replay.id);
                return Ok(Self { time, why });
            }
        }
        Ok(Self {
            time: None,
            why: "no replay of the subscriber has reported a speed; --rate limits it".to_owned(),
        })
    }

    pub(super) fn seconds(&self) -> Option<f64> {
        self.time.map(|time| time.as_secs_f64())
    }

    pub(super) fn text(&self) -> String {
        let time = self.time.map_or("unknown".to_owned(), lasting);
        format!("estimated time: {time} ({})", self.why)
    }
}

fn taking(events: u64, per_second: f64) -> Option<Duration> {
    #[allow(clippy::cast_precision_loss)] // an estimate
    let seconds = events as f64 / per_second;
    Duration::try_from_secs_f64(seconds).ok()
}

/// The completed replays of the same subscriber without a rate, the newest first. Only replays of the same shadow are
/// comparable in speed.
async fn before(replays: &Replays, this: &Replay) -> Result<Vec<Replay>, Report> {
    let mut before = replays.list(Some(&this.subscriber)).await?;
    before.retain(|one| {
        one.state == ReplayState::Done
            && !one.request.rehearse
            && one.request.rate.is_none()
            && one.request.shadow == this.request.shadow
    });
    before.reverse();
    before.truncate(5);
    Ok(before)
}

/// How many events per second it has handled.
fn speed(status: &ReplayStatus) -> Option<f64> {
    let progress = status.progress.as_ref()?;
    let took = (progress.at - progress.began_at?).as_seconds_f64();
    #[allow(clippy::cast_precision_loss)] // an estimate
    let handled = progress.handled as f64;
    (took > 0.0 && handled > 0.0).then(|| handled / took)
}
