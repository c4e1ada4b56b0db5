//! The identity of a message in a stream. A plain value.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

/// A message of one stream. The sequence alone does not identify it: when an older copy of the server's store is
/// restored, or the stream is recreated, another message, stored at another time, gets the same sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(from = "(u64, i64)", into = "(u64, i64)")]
pub(crate) struct Position {
    pub(crate) sequence: u64,
    pub(crate) stored_at: DateTime<Utc>,
}

impl From<(u64, i64)> for Position {
    /// From a sequence and nanoseconds since 1970, as stored in a lease.
    fn from((sequence, nanos): (u64, i64)) -> Self {
        Self {
            sequence,
            stored_at: DateTime::from_timestamp_nanos(nanos),
        }
    }
}

impl From<Position> for (u64, i64) {
    fn from(position: Position) -> Self {
        let nanos = position.stored_at.timestamp_nanos_opt();
        (position.sequence, nanos.unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_is_read_as_it_was_written_to_the_nanosecond() {
        let position = Position::from((7, 1_764_500_000_123_456_789));
        let written = serde_json::to_string(&position).unwrap();
        assert_eq!(written, "[7,1764500000123456789]");
        assert_eq!(
            serde_json::from_str::<Position>(&written).unwrap(),
            position
        );
    }
}
