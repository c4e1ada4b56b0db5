//! Ranges of a replay that no longer exist: their stream is another one, or an older copy of it. Never ends a replay.

use super::{End, Work};
use crate::{nats::BusError, position::Position, replay::ReplayRange};

impl<S: Send + Sync + 'static> Work<'_, S> {
    /// Why a range is no longer valid, if so.
    pub(super) async fn is_another(&self, range: &ReplayRange) -> Result<Option<String>, BusError> {
        let (bus, stream) = (&self.context.bus, &range.stream);
        let now = bus.part(stream).await?;
        let Some(now) = now.filter(|now| now.incarnation == range.incarnation) else {
            return Ok(Some(another(range)));
        };
        let has_gone_back = match range.last_at {
            Some(stored_at) => {
                let last = Position {
                    sequence: range.last,
                    stored_at,
                };
                bus.others_since(stream, last).await?.is_some()
            }
            None => now.last < range.last,
        };
        Ok(has_gone_back.then(|| older(range)))
    }

    /// How a replay ends whose ranges were all handled: done, if the streams still have the ranges.
    pub(super) async fn is_done(&self) -> Result<End, BusError> {
        for range in &self.replay.ranges {
            if let Some(why) = self.is_another(range).await? {
                return Ok(End::Failed(why));
            }
        }
        Ok(End::Done)
    }
}

pub(super) fn another(range: &ReplayRange) -> String {
    let (stream, incarnation) = (&range.stream, &range.incarnation);
    format!(
        "the stream {stream} is gone, or is not the one that was created at {incarnation}: start another replay"
    )
}

fn older(range: &ReplayRange) -> String {
    let (stream, last) = (&range.stream, range.last);
    format!(
        "the stream {stream} was replaced by an older copy, without the message that was {last}: start another \
         replay"
    )
}
