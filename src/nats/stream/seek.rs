//! Finds events in a part of a stream by their headers. Payloads are not read, and nothing is changed.

use std::ops::ControlFlow;

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};
use tidings_contract::Envelope;

use crate::{
    nats::{Bus, BusError, Reader, ReaderError, StartFrom, envelope_of},
    policy::start::shifted,
    position::Position,
};

/// The extent of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Expanse {
    /// When it was created, as the server writes it.
    pub(crate) incarnation: String,
    /// The oldest message that exists, or the next one when there is none.
    pub(crate) first: u64,
    pub(crate) last: u64,
    pub(crate) subjects: Vec<String>,
}

/// An event at its position in a stream, without its payload.
#[derive(Debug, Clone)]
pub(crate) struct Sighting {
    pub(crate) sequence: u64,
    pub(crate) stored_at: DateTime<Utc>,
    /// An identity that no other message ever has.
    pub(crate) identity: String,
    pub(crate) envelope: Envelope,
}

/// What was read in a search.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Read {
    pub(crate) messages: u64,
    /// When the first and the last of them were stored.
    pub(crate) from: Option<DateTime<Utc>>,
    pub(crate) to: Option<DateTime<Utc>>,
    /// Whether earlier messages were skipped, because of the limit.
    pub(crate) is_cut: bool,
}

impl Bus {
    /// The extent of a stream, if it exists.
    pub(crate) async fn expanse(&self, stream: &str) -> Result<Option<Expanse>, BusError> {
        Ok(self.stream_info(stream).await?.map(|info| {
            let subjects = info.config.get("subjects").and_then(Value::as_array);
            let subjects = subjects.into_iter().flatten().filter_map(Value::as_str);
            Expanse {
                subjects: subjects.map(str::to_owned).collect(),
                incarnation: info.created,
                first: info.state.first_seq,
                last: info.state.last_seq,
            }
        }))
    }

    /// The first sequence that holds other messages than before, when the stream ends before `seen`: an older copy of
    /// it was restored, and all messages from there on were stored later. `None` without the permission to read it, and
    /// for a work queue, whose consumer always starts at the beginning.
    pub(crate) async fn others_since(
        &self,
        stream: &str,
        seen: Position,
    ) -> Result<Option<u64>, BusError> {
        let info = self.stream_info(stream).await?;
        let retention = info.and_then(|info| info.config.get("retention").cloned());
        if retention == Some(json!("workqueue")) {
            return Ok(None);
        }
        let behind = shifted(seen.stored_at, TimeDelta::nanoseconds(1));
        match self.sequence_at(stream, behind).await {
            Ok(next) => Ok((next <= seen.sequence).then_some(next)),
            Err(error @ BusError::Denied { .. }) => {
                tracing::warn!(stream, %error, "stream age check denied: the stream may be an older copy of itself");
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Passes the events of a stream from `start` up to a sequence to a callback, until that breaks off; of more than
    /// `most` messages only the last ones.
    pub(crate) async fn seek(
        &self,
        stream: &str,
        start: StartFrom,
        up_to: u64,
        most: u64,
        mut see: impl FnMut(Sighting) -> ControlFlow<()> + Send,
    ) -> Result<Read, ReaderError> {
        let mut reader = Reader::open(self, stream, Vec::new(), start, true).await?;
        let mut read = Read::default();
        if reader.pending() > most {
            let start = StartFrom::Sequence(up_to.saturating_sub(most).saturating_add(1));
            reader = Reader::open(self, stream, Vec::new(), start, true).await?;
            read.is_cut = true;
        }
        while let Some((message, place)) = reader.next_up_to(up_to).await? {
            read.messages += 1;
            read.from.get_or_insert(place.stored_at);
            read.to = Some(place.stored_at);
            let identity = place.identity();
            // A message without a name is not an event.
            let Ok(envelope) = envelope_of(&message, || identity.clone()) else {
                continue;
            };
            let sighting = Sighting {
                sequence: place.sequence,
                stored_at: place.stored_at,
                identity,
                envelope,
            };
            if see(sighting).is_break() {
                break;
            }
        }
        reader.end().await;
        Ok(read)
    }
}
