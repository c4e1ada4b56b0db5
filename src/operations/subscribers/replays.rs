//! The replays of subscribers, as far as they affect the status of a subscriber. Never begins one.

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};

use super::{SubscriberIssue, SubscriberState, Subscribers};
use crate::{
    nats::{Bus, BusError},
    policy::issue_kind::IssueKind,
    replay::{Replay, ReplayProgress, ReplayState},
};

/// The time after which the pace of a replay is known.
const SAMPLE: TimeDelta = TimeDelta::seconds(60);
/// A replay that takes longer than this is slow.
const LONG: TimeDelta = TimeDelta::days(1);
/// How long a replay may report nothing.
const SILENCE: TimeDelta = TimeDelta::seconds(5);

impl Subscribers {
    /// The issues of the running replays. Some do not run: their instance reports why, or there is no instance. Others
    /// are slow.
    pub(super) async fn replay_issues(
        &self,
        state: &SubscriberState,
        are_asked: bool,
        replays: &Result<Vec<Replay>, String>,
    ) -> Vec<SubscriberIssue> {
        let running = replays.iter().flatten();
        let running = running.filter(|replay| {
            replay.subscriber == state.name && replay.state == ReplayState::Running
        });
        let mut issues = Vec::new();
        for replay in running {
            let progress = self.bus.replay_progress(replay).await.ok().flatten();
            let progress = progress.map(|written| written.value);
            let heard_at = progress
                .as_ref()
                .map_or(replay.state_at, |progress| progress.at);
            let is_silent = Utc::now() - heard_at.max(replay.state_at) > SILENCE;
            let slow = progress
                .as_ref()
                .and_then(|progress| slow(replay, progress, Utc::now()));
            let written = progress.and_then(|progress| progress.issue);
            let why = match written {
                Some(issue) => Some(issue.why),
                None if is_silent && are_asked && state.instances.is_empty() => Some(
                    "no instance answers; an instance that starts continues the replay".to_owned(),
                ),
                None => None,
            };
            match why {
                Some(why) => issues.push(stuck(replay, &why)),
                None => issues.extend(slow),
            }
        }
        issues
    }
}

fn stuck(replay: &Replay, why: &str) -> SubscriberIssue {
    let id = replay.id;
    let cause = format!("the replay {id} does not continue: {why}");
    let cure = format!("tidings replay show {id}, or tidings replay cancel {id}");
    SubscriberIssue::stuck(IssueKind::ReplayStuck, cause).cure(cure)
}

/// A replay that takes longer than a day at its pace: a rate limit, or a handler, may be slower than was meant.
fn slow(replay: &Replay, progress: &ReplayProgress, now: DateTime<Utc>) -> Option<SubscriberIssue> {
    let (events, completed) = (replay.events(), progress.completed());
    let began_at = progress.began_at?;
    let lasts = (now - began_at).num_seconds();
    if lasts < SAMPLE.num_seconds() || completed >= events {
        return None;
    }
    let lasts = u64::try_from(lasts).ok()?;
    // One more may be nearly completed.
    let left_s = (events - completed).saturating_mul(lasts) / completed.saturating_add(1);
    let left = TimeDelta::try_seconds(i64::try_from(left_s).ok()?)?;
    if left <= LONG {
        return None;
    }
    let (id, days) = (replay.id, left.num_days());
    let cause = format!(
        "the replay {id} has completed {completed} of {events} events since {}: at this pace it takes another {days} days",
        began_at.to_rfc3339_opts(SecondsFormat::Secs, true)
    );
    let cure = format!(
        "nothing, when that is meant; else cancel it, and start it with a higher --rate, or raise the concurrency of the \
         subscriber: tidings replay show {id}"
    );
    Some(SubscriberIssue::minor(IssueKind::ReplaySlow, cause).cure(cure))
}

/// The unfinished replays of one subscriber, or of all.
pub(super) async fn unfinished(
    bus: &Bus,
    subscriber: Option<&str>,
) -> Result<Vec<Replay>, BusError> {
    let (mut replays, mut after) = (Vec::new(), 0);
    while let Some(entry) = bus.next_replay(subscriber, after).await? {
        after = entry.revision;
        replays.extend(
            entry
                .value
                .value()
                .filter(|replay: &Replay| !replay.state.is_final()),
        );
    }
    Ok(replays)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::replay::tag::ReplayId;

    #[test]
    fn a_replay_is_slow_when_it_takes_more_than_another_day() {
        let now = DateTime::UNIX_EPOCH + TimeDelta::days(20_000);
        let range = json!({
            "stream": "EVENTS", "incarnation": "", "names": ["user.created"], "first": 1, "last": 100_000,
            "events": 100_000,
        });
        let replay = json!({
            "id": ReplayId::new(), "subscriber": "s", "ranges": [range], "created_at": now,
            "request": {
                "from": "beginning", "to": null, "names": [], "key": null, "correlation": null, "rate": null,
                "shadow": null, "follow_ups": false, "rehearse": false, "force": false,
            },
            "state": "running", "reason": null, "state_at": now,
        });
        let replay: Replay = serde_json::from_value(replay).unwrap();
        let slow_after = |seconds, handled| {
            let progress = ReplayProgress {
                began_at: Some(now - TimeDelta::seconds(seconds)),
                handled,
                ..ReplayProgress::default()
            };
            slow(&replay, &progress, now).map(|issue| (issue.is_stuck, issue.cause))
        };
        assert_eq!(slow_after(59, 1), None, "its pace is not known");
        assert_eq!(slow_after(100, 200), None, "two a second");
        assert_eq!(slow_after(100, 100_000), None);
        let (is_stuck, cause) = slow_after(100, 49).unwrap();
        assert!(!is_stuck);
        assert!(cause.contains("49 of 100000 events"), "{cause}");
        assert!(cause.contains("another 2 days"), "{cause}");
        assert!(slow_after(100, 0).is_some());
    }
}
