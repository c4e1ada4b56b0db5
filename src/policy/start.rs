//! Where reading a stream begins: a plain value. Never reads anything.

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

/// Where reading a stream begins: of a new subscriber, of a reset, of a replay. Also where a replay ends.
///
/// ```
/// use tidings::StartFrom;
///
/// let start = StartFrom::Sequence(4711);
/// assert_eq!(serde_json::to_string(&start)?, r#"{"sequence":4711}"#);
/// assert_eq!(serde_json::to_string(&StartFrom::Beginning)?, r#""beginning""#);
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum StartFrom {
    /// With the oldest event that the stream holds.
    Beginning,
    /// With the next event that is published.
    New,
    /// With this sequence of the stream.
    Sequence(u64),
    /// With the first event stored at or after this time, by the clock of the server that stored it.
    Time(DateTime<Utc>),
}

/// A time from another source, shifted by a duration and limited to the first and the last representable time.
pub(crate) fn shifted(time: DateTime<Utc>, by: TimeDelta) -> DateTime<Utc> {
    let end = match by < TimeDelta::zero() {
        true => DateTime::<Utc>::MIN_UTC,
        false => DateTime::<Utc>::MAX_UTC,
    };
    time.checked_add_signed(by).unwrap_or(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_moves_no_farther_than_to_the_last_one() {
        let (first, last) = (DateTime::<Utc>::MIN_UTC, DateTime::<Utc>::MAX_UTC);
        let minute = TimeDelta::minutes(1);
        assert_eq!(
            (shifted(first, -minute), shifted(last, minute)),
            (first, last)
        );
        assert_eq!(shifted(shifted(last, -minute), minute), last);
        assert_eq!(shifted(DateTime::UNIX_EPOCH, -TimeDelta::MAX), first);
    }
}
