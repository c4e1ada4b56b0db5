//! What the streams hold already when a tenure begins: stored by an owner who did not live to write it down.
//! Never writes.

use std::collections::HashMap;

use tidings_contract::EventId;

use super::{
    Fault,
    ledger::Ledger,
    progress::{Confirmation, Origin, by_page},
};
use crate::{
    bus::{Bus, Found, StreamState},
    outbox::store::{Entry, Position, Positions, Row},
};

/// What the streams held when the tenure began.
#[derive(Debug, Default)]
pub(super) struct Stored {
    /// Per stream, the events behind its position.
    pub(super) found: HashMap<String, Found>,
    /// Per stream, its end.
    pub(super) ends: Positions,
}

impl Stored {
    /// What is to be written down about an event that a stream holds already.
    pub(super) fn entry(&self, id: i64, event: &EventId) -> Option<Entry> {
        let mut streams = self.found.iter();
        let (stream, sequence) =
            streams.find_map(|(stream, found)| Some((stream, *found.get(event)?)))?;
        let incarnation = &self.ends.get(stream)?.incarnation;
        Some(Ledger::new(stream, incarnation).entry(id, sequence))
    }

    /// The same for a row that is not on its way to a stream.
    pub(super) fn confirmation(&self, origin: Origin, row: &Row) -> Option<Confirmation> {
        let entry = self.entry(row.id, &row.event)?;
        let is_parked = origin == Origin::Parked;
        Some(Confirmation {
            pages: by_page([origin]),
            entries: vec![entry],
            returned: is_parked.then_some(row.id).into_iter().collect(),
        })
    }
}

/// What the streams hold behind their positions: stored by an owner who did not live to write it down.
pub(super) async fn stored_behind(bus: &Bus, streams: &Positions) -> Result<Stored, Fault> {
    let mut stored = Stored::default();
    for (stream, position) in streams {
        let Some(state) = bus.stream_state(stream).await? else {
            tracing::error!(
                stream,
                "the stream is gone: what was published into it is gone too"
            );
            continue;
        };
        let known = known_place(stream, position, &state);
        if state.last_sequence > known {
            let found = bus.ids_between(stream, known, state.last_sequence).await?;
            tracing::info!(
                stream,
                behind = known,
                events = found.len(),
                "read the stream's tail"
            );
            stored.found.insert(stream.clone(), found);
        }
        let end = Position {
            incarnation: state.incarnation,
            sequence: state.last_sequence,
        };
        stored.ends.insert(stream.clone(), end);
    }
    Ok(stored)
}

/// Up to where everything in the stream is known; its beginning when it is not the stream it was.
fn known_place(stream: &str, position: &Position, state: &StreamState) -> u64 {
    if state.incarnation != position.incarnation {
        tracing::error!(
            stream,
            was = position.incarnation,
            is = state.incarnation,
            "the stream was created anew: what was published into its predecessor is not in it"
        );
        return 0;
    }
    if state.last_sequence < position.sequence {
        tracing::error!(
            stream,
            known = position.sequence,
            is = state.last_sequence,
            "the stream has lost confirmed events: its last sequence went back"
        );
    }
    position.sequence
}
