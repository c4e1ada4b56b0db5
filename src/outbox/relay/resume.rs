//! What the streams hold already when a tenure begins: stored by an owner who did not live to write it down; and
//! whether they are still the streams that it wrote to. Never writes.

use std::{collections::HashMap, time::Duration};

use chrono::TimeDelta;
use tidings_contract::EventId;
use tokio::sync::watch;

use super::{
    Fault,
    ledger::Ledger,
    progress::{Confirmation, Origin, by_page},
};
use crate::{
    bus::{Bus, BusError, Found, Kept, Start, StreamState},
    outbox::{
        standing::{Losses, Standing, StoredLoss, standing},
        store::{Entry, Position, Positions, Row},
    },
};

/// What the streams held when the tenure began.
#[derive(Debug, Default)]
pub(super) struct Stored {
    /// Per stream, the events behind its position.
    pub(super) found: HashMap<String, Found>,
    /// Per stream, its end.
    pub(super) ends: Positions,
    /// The streams that are not what their positions mean.
    pub(super) losses: Losses,
    /// And their new positions.
    pub(super) resets: Positions,
    /// What lay at their ends.
    last: HashMap<String, Option<Kept>>,
}

/// Until a stream that seems to have lost something is asked for again.
const ASK_AGAIN: Duration = Duration::from_millis(500);
/// By how much the server's clock may have gone back.
const SLACK: TimeDelta = TimeDelta::minutes(1);

impl Stored {
    /// What is to be written down about an event that a stream holds already.
    pub(super) fn entry(&self, id: i64, event: &EventId) -> Option<Entry> {
        let mut streams = self.found.iter();
        let (stream, sequence) =
            streams.find_map(|(stream, found)| Some((stream, *found.get(event)?)))?;
        let incarnation = &self.ends.get(stream)?.incarnation;
        Some(Ledger::new(stream, incarnation).entry(id, sequence))
    }

    /// Whether the streams are still those that were read, with all that was in them.
    async fn still_holds(&self, bus: &Bus) -> Result<bool, BusError> {
        for (stream, end) in &self.ends {
            let state = bus.stream_state(stream).await?;
            let is_there = state.is_some_and(|state| {
                state.incarnation == end.incarnation && state.last_sequence >= end.sequence
            });
            let last = at_end(bus, stream, end.sequence).await?;
            // It may have been removed meanwhile.
            let is_same = last.is_none() || Some(&last) == self.last.get(stream);
            if !is_there || !is_same {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The same for a row that is not on its way to a stream.
    pub(super) fn confirmation(&self, origin: Origin, row: &Row) -> Option<Confirmation> {
        let entry = self.entry(row.id, &row.event)?;
        let is_parked = origin == Origin::Parked;
        Some(Confirmation {
            pages: by_page([origin]),
            entries: vec![entry],
            last: None,
            returned: is_parked.then_some(row.id).into_iter().collect(),
        })
    }
}

/// What the streams hold behind their positions, and what tells of the first connection that is lost from then on.
///
/// Reading may cost connections, because there are messages that end them. What was read holds all the same, when
/// the streams are still the ones that were read.
pub(super) async fn stored_behind(
    bus: &Bus,
    streams: &Positions,
) -> Result<(Stored, watch::Receiver<u64>), Fault> {
    let mut interruptions = bus.interruptions();
    let stored = read_behind(bus, streams).await?;
    while interruptions.has_changed().unwrap_or(false) {
        interruptions.mark_unchanged();
        if !stored.still_holds(bus).await? {
            return Err(Fault::Disconnected);
        }
    }
    Ok((stored, interruptions))
}

/// What was stored by an owner who did not live to write it down; and whether they are the streams that the
/// positions mean.
async fn read_behind(bus: &Bus, streams: &Positions) -> Result<Stored, Fault> {
    let mut stored = Stored::default();
    for (stream, position) in streams {
        let (state, standing) = look(bus, stream, position).await?;
        if standing != Standing::Known {
            let loss = StoredLoss::new(standing.clone(), position.clone());
            stored.losses.insert(stream.clone(), loss);
        }
        let Some(state) = state else { continue };
        let last = at_end(bus, stream, state.last_sequence).await?;
        stored.last.insert(stream.clone(), last);
        let found = tail(bus, stream, position, &state, &standing).await?;
        if standing != Standing::Known {
            let reset = reset(position, &state, &found);
            stored.resets.insert(stream.clone(), reset);
        }
        if !found.is_empty() {
            tracing::info!(
                stream,
                behind = position.sequence,
                events = found.len(),
                "read the stream's tail"
            );
            stored.found.insert(stream.clone(), found);
        }
        let end = Position::new(state.incarnation, state.last_sequence);
        stored.ends.insert(stream.clone(), end);
    }
    Ok(stored)
}

/// What lies at the end of a stream, if anything does.
async fn at_end(bus: &Bus, stream: &str, sequence: u64) -> Result<Option<Kept>, BusError> {
    match sequence {
        0 => Ok(None),
        sequence => bus.kept(stream, sequence).await,
    }
}

/// How a stream stands. What looks like a loss is asked for again: a cluster that begins may not know all yet.
async fn look(
    bus: &Bus,
    stream: &str,
    position: &Position,
) -> Result<(Option<StreamState>, Standing), Fault> {
    let mut is_sure = false;
    loop {
        let state = bus.stream_state(stream).await?;
        let standing = standing(bus, stream, position, state.as_ref()).await?;
        if standing == Standing::Known || is_sure {
            return Ok((state, standing));
        }
        is_sure = true;
        tokio::time::sleep(ASK_AGAIN).await;
    }
}

/// What may be of a relay and is not in the ledger. In a stream that has lost its end it may also lie before the
/// position: stored after the loss, by an owner who did not know of it.
async fn tail(
    bus: &Bus,
    stream: &str,
    position: &Position,
    state: &StreamState,
    standing: &Standing,
) -> Result<Found, Fault> {
    let end = state.last_sequence;
    let mut found = Found::new();
    let behind = match standing {
        Standing::Recreated { .. } => 0,
        _ => position.sequence,
    };
    if end > behind {
        found = bus.ids_between(stream, behind, end).await?;
    }
    if let Standing::RolledBack { .. } | Standing::Overwritten { .. } = standing {
        let since = position.since.map(|since| Start::Time(since - SLACK));
        let start = since.unwrap_or(Start::Beginning);
        found.extend(bus.ids_from(stream, start, end).await?);
    }
    Ok(found)
}

/// Where a stream is from now on that is not what it was: before all that was found.
fn reset(position: &Position, state: &StreamState, found: &Found) -> Position {
    if state.incarnation != position.incarnation {
        return Position::new(state.incarnation.clone(), 0);
    }
    let before = found.values().min().map_or(u64::MAX, |first| first - 1);
    Position {
        sequence: position.sequence.min(state.last_sequence).min(before),
        last: None,
        ..position.clone()
    }
}
