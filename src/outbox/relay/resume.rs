//! What the streams already hold when a tenure begins: stored by an earlier owner that died before writing it down;
//! and whether they are still the streams that this owner wrote to. Never writes.

use std::{collections::HashMap, time::Duration};

use chrono::TimeDelta;
use futures::{FutureExt, future::try_join_all};
use tokio::sync::watch;

use super::Fault;
use crate::{
    nats::{Bus, BusError, Found, Holder, Identity, StartFrom, StoredMessage, StreamSnapshot},
    outbox::{
        lane::Ledger,
        losses::state_of,
        store::{
            Entry, Position, Positions,
            ledger::LedgerKind,
            losses::{Losses, StoredLoss, StreamState},
        },
    },
    policy::start::shifted,
};

/// What the streams held when the tenure began.
#[derive(Debug, Default)]
pub(super) struct Stored {
    /// Per stream, the events behind its position.
    pub(super) found: HashMap<String, Found>,
    /// Per stream, its end.
    pub(super) ends: Positions,
    /// The streams that do not match their positions.
    pub(super) losses: Losses,
    /// The new positions of those streams.
    pub(super) resets: Positions,
    /// Per stream, the position that it was read from: everything before it is accounted for.
    behind: HashMap<String, u64>,
    /// The last message of each stream.
    last: HashMap<String, Option<StoredMessage>>,
}

/// The pause before a stream that seems to have lost messages is checked again.
const ASK_AGAIN: Duration = Duration::from_millis(500);
/// How many messages are read concurrently.
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
    /// Returns what a stream holds of an event. An id that was found is checked: it may be another event's.
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
                // It was there when the tail was read, and nothing shows that it was another event.
                Holder::Same | Holder::Nothing => return Ok(Known::Event(sequence)),
                Holder::Other(other) if known == Known::Nothing => known = Known::Other(other),
                Holder::Other(_) => {}
            }
        }
        Ok(known)
    }

    /// Does the same for several events, in their order.
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

    /// Whether a sequence was accounted for before the tenure began: then its message is no row that is still to be
    /// published.
    pub(super) fn is_written_down(&self, stream: &str, sequence: u64) -> bool {
        let behind = self.behind.get(stream);
        behind.is_some_and(|behind| sequence <= *behind)
    }

    /// Returns what any stream holds of an event, and its ledger entry.
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
                    let entry = end.map(|end| {
                        Ledger::new(LedgerKind::Relayed, stream, &end.incarnation)
                            .entry(id, sequence)
                    });
                    return Ok((Known::Event(sequence), entry));
                }
                other => known = other,
            }
        }
        Ok((known, None))
    }

    /// Whether the streams are still those that were read, with all their messages.
    async fn still_holds(&self, bus: &Bus) -> Result<bool, BusError> {
        for (stream, end) in &self.ends {
            let state = bus.stream_state(stream).await?;
            let is_there = state.is_some_and(|state| {
                state.incarnation == end.incarnation && state.last_sequence >= end.sequence
            });
            let last = at_end(bus, stream, end.sequence).await?;
            // The last message may have been deleted meanwhile.
            let is_same = last.is_none() || Some(&last) == self.last.get(stream);
            if !is_there || !is_same {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// Reads what the streams hold behind their positions. The receiver reports connections that are lost from then on.
///
/// Reading may itself cost connections, because some messages end them. The result is still valid when the streams
/// are the ones that were read.
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

/// Reads what an earlier owner stored but did not write down, and whether the streams match their positions.
async fn read_behind(bus: &Bus, streams: &Positions) -> Result<Stored, Fault> {
    let mut stored = Stored::default();
    for (stream, position) in streams {
        let (state, stream_state) = look(bus, stream, position).await?;
        if stream_state != StreamState::Intact {
            let loss = StoredLoss::new(stream_state.clone(), position.clone());
            stored.losses.insert(stream.clone(), loss);
        }
        let Some(state) = state else { continue };
        let last = at_end(bus, stream, state.last_sequence).await?;
        stored.last.insert(stream.clone(), last);
        let found = tail(bus, stream, position, &state, &stream_state).await?;
        let mut behind = position.sequence;
        if stream_state != StreamState::Intact {
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

/// The last message of a stream, if there is one.
async fn at_end(bus: &Bus, stream: &str, sequence: u64) -> Result<Option<StoredMessage>, BusError> {
    match sequence {
        0 => Ok(None),
        sequence => bus.kept(stream, sequence).await,
    }
}

/// The state of a stream. An apparent loss is checked again: a starting cluster may not know its last messages yet.
async fn look(
    bus: &Bus,
    stream: &str,
    position: &Position,
) -> Result<(Option<StreamSnapshot>, StreamState), Fault> {
    let mut is_sure = false;
    loop {
        let state = bus.stream_state(stream).await?;
        let stream_state = state_of(bus, stream, position, state.as_ref()).await?;
        if stream_state == StreamState::Intact || is_sure {
            return Ok((state, stream_state));
        }
        is_sure = true;
        tokio::time::sleep(ASK_AGAIN).await;
    }
}

/// Reads messages that a relay may have stored and that are not in the ledger. In a truncated stream they may also
/// lie before the position: stored after the loss, by an owner that did not know of it.
async fn tail(
    bus: &Bus,
    stream: &str,
    position: &Position,
    state: &StreamSnapshot,
    stream_state: &StreamState,
) -> Result<Found, Fault> {
    let end = state.last_sequence;
    let mut found = Found::default();
    let behind = match stream_state {
        StreamState::Recreated { .. } => 0,
        _ => position.sequence,
    };
    if end > behind {
        found = bus.ids_between(stream, behind, end).await?;
    }
    if let StreamState::Truncated { .. } | StreamState::Diverged { .. } = stream_state {
        let since = position
            .since
            .map(|since| StartFrom::Time(shifted(since, -SLACK)));
        let start = since.unwrap_or(StartFrom::Beginning);
        found.extend(bus.ids_from(stream, start, end).await?);
    }
    Ok(found)
}

/// The new position of a stream that is not intact: before everything that was found.
fn reset(position: &Position, state: &StreamSnapshot, found: &Found) -> Position {
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
