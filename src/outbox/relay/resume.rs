//! What the streams hold already when a tenure begins: stored by an owner who did not live to write it down; and
//! whether they are still the streams that it wrote to. Never writes.

use std::{collections::HashMap, time::Duration};

use chrono::TimeDelta;
use futures::{FutureExt, future::try_join_all};
use tokio::sync::watch;

use super::{Fault, ledger::Ledger};
use crate::{
    bus::{Bus, BusError, Found, Holder, Identity, Kept, Start, StreamState},
    outbox::{
        standing::{Losses, Standing, StoredLoss, standing},
        store::{Entry, Position, Positions},
    },
    start::shifted,
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
    /// Per stream, the position that it was read from: what lies before is written down.
    behind: HashMap<String, u64>,
    /// What lay at their ends.
    last: HashMap<String, Option<Kept>>,
}

/// Until a stream that seems to have lost something is asked for again.
const ASK_AGAIN: Duration = Duration::from_millis(500);
/// So many messages are looked at side by side.
const LOOKS: usize = 64;
/// By how much the server's clock may have gone back.
const SLACK: TimeDelta = TimeDelta::minutes(1);

/// What the streams hold under the id of an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Known {
    /// Nothing behind the position.
    Nothing,
    /// The event, at this sequence.
    Event(u64),
    /// Another event has its id; where, and which.
    Other(String),
}

impl Stored {
    /// What a stream holds of an event. An id that was found is looked at: it may be another event's.
    pub(super) async fn known(
        &self,
        bus: &Bus,
        stream: &str,
        identity: Identity<'_>,
    ) -> Result<Known, BusError> {
        let mut known = Known::Nothing;
        let found = self.found.get(stream);
        let sequences = found
            .iter()
            .flat_map(|found| found.sequences(&identity.event));
        for sequence in sequences {
            match bus.holder(stream, sequence, identity).await? {
                // It was there when the tail was read, and nothing says that it was another one.
                Holder::Same | Holder::Nothing => return Ok(Known::Event(sequence)),
                Holder::Other(other) if known == Known::Nothing => known = Known::Other(other),
                Holder::Other(_) => {}
            }
        }
        Ok(known)
    }

    /// The same of several, in their order.
    pub(super) async fn all_known(
        &self,
        bus: &Bus,
        stream: &str,
        identities: Vec<Identity<'_>>,
    ) -> Result<Vec<Known>, BusError> {
        let mut all = Vec::with_capacity(identities.len());
        for some in identities.chunks(LOOKS) {
            let looks = some.iter();
            let looks = looks.map(|identity| self.known(bus, stream, *identity).boxed());
            all.extend(try_join_all(looks).await?);
        }
        Ok(all)
    }

    /// Whether what lies at a sequence was written down before the tenure began: it is no row that is still to be
    /// carried.
    pub(super) fn is_written_down(&self, stream: &str, sequence: u64) -> bool {
        let behind = self.behind.get(stream);
        behind.is_some_and(|behind| sequence <= *behind)
    }

    /// What any stream holds of an event, and what is to be written down about it.
    pub(super) async fn anywhere(
        &self,
        bus: &Bus,
        id: i64,
        identity: Identity<'_>,
    ) -> Result<(Known, Option<Entry>), BusError> {
        let mut known = Known::Nothing;
        for stream in self.found.keys() {
            match self.known(bus, stream, identity).await? {
                Known::Nothing => {}
                Known::Event(sequence) => {
                    let end = self.ends.get(stream);
                    let entry =
                        end.map(|end| Ledger::new(stream, &end.incarnation).entry(id, sequence));
                    return Ok((Known::Event(sequence), entry));
                }
                other => known = other,
            }
        }
        Ok((known, None))
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
        let mut behind = position.sequence;
        if standing != Standing::Known {
            let reset = reset(position, &state, &found);
            behind = reset.sequence;
            stored.resets.insert(stream.clone(), reset);
        }
        stored.behind.insert(stream.clone(), behind);
        if !found.is_empty() {
            tracing::info!(
                stream,
                behind = position.sequence,
                events = found.len(),
                "stream tail read"
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
    let mut found = Found::default();
    let behind = match standing {
        Standing::Recreated { .. } => 0,
        _ => position.sequence,
    };
    if end > behind {
        found = bus.ids_between(stream, behind, end).await?;
    }
    if let Standing::RolledBack { .. } | Standing::Overwritten { .. } = standing {
        let since = position
            .since
            .map(|since| Start::Time(shifted(since, -SLACK)));
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
    let before = found
        .first_sequence()
        .map_or(u64::MAX, |first| first.saturating_sub(1));
    Position {
        sequence: position.sequence.min(state.last_sequence).min(before),
        last: None,
        ..position.clone()
    }
}
