//! How far two clocks are apart. Never reads one.

use chrono::{DateTime, Utc};

use super::{About, Concern, Severity};
use crate::policy::issue_kind::IssueKind;

/// From how many seconds on a difference is a note, and a danger.
const NOTE_S: f64 = 1.0;
const DANGER_S: f64 = 5.0;

/// By how many seconds a server is ahead that said `told` between `asked` and `answered`; 0 when the round trip may be
/// all of it.
pub(crate) fn offset(asked: DateTime<Utc>, told: DateTime<Utc>, answered: DateTime<Utc>) -> f64 {
    let micros = |span: chrono::TimeDelta| {
        #[allow(clippy::cast_precision_loss)] // a difference of clocks
        let micros = span.num_microseconds().unwrap_or(i64::MAX) as f64;
        micros / 1e6
    };
    let half = micros(answered - asked).max(0.0) / 2.0;
    let ahead = micros(told - asked) - half;
    ahead.signum() * (ahead.abs() - half).max(0.0)
}

/// The concern about a clock that is ahead of the one of this process.
pub(super) fn concern(about: About, server: &str, ahead_s: f64) -> Option<Concern> {
    let severity = match ahead_s.abs() {
        off if off > DANGER_S => Severity::Danger,
        off if off > NOTE_S => Severity::Note,
        _ => return None,
    };
    let which = if ahead_s > 0.0 { "ahead of" } else { "behind" };
    let off = ahead_s.abs();
    Some(Concern::new(
        IssueKind::Clock,
        severity,
        about,
        format!(
            "the clock of {server} is {off:.1} s {which} the clock of this process: delayed events, retries and ages are \
             wrong by as much"
        ),
        "synchronise the clocks of both hosts with NTP: timedatectl, chronyc tracking",
    ))
}
