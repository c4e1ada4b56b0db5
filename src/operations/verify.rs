//! Verifies that the streams hold what the relay has published: every confirmed event, as it was written, once, and
//! in the order of its key. Only reads; a repair republishes what is missing.
//!
//! The rows that the outbox still keeps and the messages of a stream are read concurrently. The ledger records where
//! a row without a message was stored. The relay is not needed and may run meanwhile: rows that it passes after the
//! start are not compared.

mod compare;
mod places;
mod repair;
mod report;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    hash::RandomState,
};

use chrono::{DateTime, Utc};
use tidings_contract::{EventId, Name, Pattern};

use crate::{
    nats::{Bus, BusError, ReaderError, Removal, Stored, StreamSnapshot},
    outbox::{
        Ends, Entry, LedgerKind, Outbox, OutboxError, Passed, PassedQuery, Position, Range,
        Relayed, Store, StreamState, state_of,
    },
};
use compare::{Comparison, Finding, difference, is_same};
pub use repair::{Repair, RepairError};
pub use report::{Difference, DifferenceKind, Verification, VerifiedStream};

/// How many more rows than messages are read, so that small differences in order leave no message waiting.
const AHEAD: u64 = 10_000;

/// Compares the outbox with the streams.
///
/// It holds in memory what the two differ in, and 48 bytes for every key. Rows can be compared for as long as the
/// outbox keeps them (`relay.retention`).
///
/// ```no_run
/// use tidings::{Bus, Outbox, verify::Verify};
///
/// # async fn example(bus: Bus, outbox: Outbox<sqlx::Postgres>) -> Result<(), tidings::verify::VerifyError> {
/// let found = Verify::new(&bus, &outbox).run().await?;
/// assert!(found.is_ok(), "{found:?}");
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Verify<DB: Store> {
    bus: Bus,
    outbox: Outbox<DB>,
    range: Range,
    payloads: bool,
}

/// Why the comparison failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// The outbox cannot be read.
    #[error(transparent)]
    Outbox(#[from] OutboxError),
    /// A stream cannot be read.
    #[error(transparent)]
    Stream(#[from] ReaderError),
    /// The server does not answer.
    #[error(transparent)]
    Bus(#[from] BusError),
}

/// What was found, and what a repair needs.
#[derive(Default)]
struct Examined {
    found: Verification,
    /// The row ids of confirmed events that are missing.
    missing: Vec<i64>,
    /// How many of them have a later event of their key in the stream.
    late: u64,
    /// Where the streams ended.
    ends: Ends,
    /// The relay's position in each stream.
    passed: BTreeMap<String, Position>,
}

/// A stream as it is and as the relay knows it.
struct Side {
    name: String,
    state: Option<StreamSnapshot>,
    stream_state: StreamState,
    covers: Vec<Pattern>,
    /// The sequence to start from.
    from: u64,
}

/// Why an event is not in the stream that should hold it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Absence {
    /// The ledger has no confirmation of it.
    Unconfirmed,
    /// A limit of the stream may have removed it.
    Expired,
    Missing(&'static str),
}

impl<DB: Store> Verify<DB> {
    /// Compares everything that the outbox keeps.
    #[must_use]
    pub fn new(bus: &Bus, outbox: &Outbox<DB>) -> Self {
        Self {
            bus: bus.clone(),
            outbox: outbox.clone(),
            range: Range::default(),
            payloads: false,
        }
    }

    /// Compares only rows that were written at this time or later.
    #[must_use]
    pub fn since(mut self, since: DateTime<Utc>) -> Self {
        self.range.since = Some(since);
        self
    }

    /// Also compares the payloads, byte for byte; by default only their sizes, which is a lot faster.
    #[must_use]
    pub fn payloads(mut self) -> Self {
        self.payloads = true;
        self
    }

    /// Reads both sides and compares them.
    ///
    /// # Errors
    /// [`VerifyError`] when one side cannot be read.
    pub async fn run(&self) -> Result<Verification, VerifyError> {
        Ok(self.examine().await?.found)
    }

    /// Does the same, and also returns what a repair needs.
    async fn examine(&self) -> Result<Examined, VerifyError> {
        self.outbox.check_home(&self.bus).await?;
        let passed = self.outbox.passed().await?;
        let first = PassedQuery {
            behind: self.range.first.saturating_sub(1),
            range: &self.range,
            passed: &passed,
            limit: 1,
            payloads: None,
        };
        let first = self.outbox.relayed(&first).await?;
        let first = first.first().map_or(i64::MAX, |row| row.id);
        let sides = self.sides(&passed, first).await?;
        let mut examined = Examined::default();
        for side in &sides {
            let stream = match &side.state {
                Some(state) => self.compare(side, state, &passed, &mut examined).await?,
                None => self.gone(side, &sides, &passed, &mut examined).await?,
            };
            examined.found.streams.push(stream);
        }
        examined.passed = passed.streams;
        Ok(examined)
    }

    /// Returns the streams that the relay knows.
    async fn sides(&self, passed: &Passed, first: i64) -> Result<Vec<Side>, VerifyError> {
        let beginnings = self.outbox.beginnings(first).await?;
        let mut names: Vec<&String> = passed.streams.keys().collect();
        names.extend(beginnings.iter().map(|beginning| &beginning.stream));
        names.sort();
        names.dedup();
        let losses = self.outbox.known_losses().await?;
        let mut sides = Vec::new();
        for name in names {
            let state = self.bus.stream_state(name).await?;
            let position = passed.streams.get(name);
            let stream_state = match position {
                Some(position) => state_of(&self.bus, name, position, state.as_ref()).await?,
                None if state.is_none() => StreamState::Missing,
                None => StreamState::Intact,
            };
            let stream_state = losses.judge(name, stream_state, position);
            let subjects = state.iter().flat_map(|state| &state.subjects);
            let from = beginnings
                .iter()
                .find(|beginning| {
                    let incarnation = state.as_ref().map(|state| &state.incarnation);
                    &beginning.stream == name && Some(&beginning.incarnation) == incarnation
                })
                .map_or(1, |beginning| beginning.sequence);
            sides.push(Side {
                name: name.clone(),
                covers: subjects
                    .filter_map(|subject| Pattern::parse(subject).ok())
                    .collect(),
                state,
                stream_state,
                from,
            });
        }
        Ok(sides)
    }

    async fn compare(
        &self,
        side: &Side,
        state: &StreamSnapshot,
        passed: &Passed,
        examined: &mut Examined,
    ) -> Result<VerifiedStream, VerifyError> {
        let hasher = self.payloads.then(RandomState::new);
        let mut stream = VerifiedStream::new(&side.name, side.stream_state.clone());
        stream.issue.clone_from(&state.transforms);
        let (mut comparison, mut findings) = (Comparison::default(), Vec::new());
        let mut rows = self
            .outbox
            .read_passed(&self.range, passed, hasher.as_ref());
        let messages =
            self.bus
                .read_stored(&side.name, side.from, state.last_sequence, hasher.clone());
        let mut messages = messages.await?;
        let (mut rows_read, mut messages_read) = (0_u64, 0_u64);
        let mut is_over = false;
        loop {
            while !is_over && rows_read < messages_read + AHEAD {
                let page = rows.next().await?;
                is_over = page.is_none();
                for row in page.into_iter().flatten() {
                    if side.has(&row.name) {
                        rows_read += 1;
                        comparison.row(row, &mut findings);
                    }
                }
            }
            match messages.next().await? {
                Some(message) => {
                    messages_read += 1;
                    comparison.message(message, &mut findings);
                }
                None if is_over => break,
                None => messages_read = messages_read.saturating_add(AHEAD).max(rows_read),
            }
            findings
                .drain(..)
                .for_each(|finding| stream.tell(finding.told()));
        }
        findings
            .drain(..)
            .for_each(|finding| stream.tell(finding.told()));
        let strays = comparison.take_strays();
        self.look_for_seconds(strays, &mut stream, passed).await?;
        stream.ok = comparison.ok;
        stream.late = comparison.late;
        let behind = comparison.missing().filter(|row| comparison.has_later(row));
        let behind: HashSet<i64> = behind.map(|row| row.id).collect();
        let missing = comparison.into_missing();
        let missing = self
            .look_up(&mut stream, side, missing, hasher.as_ref())
            .await?;
        examined.late += missing.iter().filter(|id| behind.contains(id)).count() as u64;
        examined.missing.extend(missing);
        let end = state.last_sequence;
        examined.ends.insert(side.name.clone(), end);
        Ok(stream)
    }

    /// Messages without a row may be duplicates of an event whose first message is already paired.
    async fn look_for_seconds(
        &self,
        mut strays: HashMap<EventId, Vec<Stored>>,
        stream: &mut VerifiedStream,
        passed: &Passed,
    ) -> Result<(), VerifyError> {
        let mut rows = self.outbox.read_passed(&self.range, passed, None);
        while !strays.is_empty()
            && let Some(page) = rows.next().await?
        {
            for row in page {
                for message in strays.remove(&row.event).into_iter().flatten() {
                    match is_same(&row, &message) {
                        true => stream.tell(Finding::Duplicate { message }.told()),
                        // Another publisher has used the id.
                        false => stream.foreign += 1,
                    }
                }
            }
        }
        stream.foreign += strays.into_values().flatten().count() as u64;
        Ok(())
    }

    /// Reports on a missing stream: the rows that no other stream takes.
    async fn gone(
        &self,
        side: &Side,
        sides: &[Side],
        passed: &Passed,
        examined: &mut Examined,
    ) -> Result<VerifiedStream, VerifyError> {
        let mut stream = VerifiedStream::new(&side.name, side.stream_state.clone());
        let mut rows = self.outbox.read_passed(&self.range, passed, None);
        let mut missing = Vec::new();
        while let Some(page) = rows.next().await? {
            missing.extend(
                page.into_iter()
                    .filter(|row| !sides.iter().any(|side| side.has(&row.name))),
            );
        }
        let missing = self.look_up(&mut stream, side, missing, None).await?;
        examined.missing.extend(missing);
        Ok(stream)
    }

    /// Looks up in the ledger where missing events were stored; returns the row ids of those that were confirmed and
    /// are gone.
    async fn look_up(
        &self,
        stream: &mut VerifiedStream,
        side: &Side,
        missing: Vec<Relayed>,
        hasher: Option<&RandomState>,
    ) -> Result<Vec<i64>, VerifyError> {
        let Some(first) = missing.first() else {
            return Ok(Vec::new());
        };
        // Messages that the stream has removed since the start are not missing either.
        let now = self.bus.stream_state(&side.name).await?;
        let oldest = now.map_or(0, |state| state.first_sequence);
        let mut behind = first.id.saturating_sub(1);
        let mut discarded = Vec::new();
        let unknown = |row: Relayed| (row.id, (row, Absence::Unconfirmed));
        let mut missing: BTreeMap<i64, (Relayed, Absence)> =
            missing.into_iter().map(unknown).collect();
        // The sequences at which they were confirmed, where exact and within the stream.
        let mut places: BTreeMap<i64, u64> = BTreeMap::new();
        loop {
            let entries = self.outbox.entries(behind).await?;
            let Some(last) = entries.last() else {
                break;
            };
            behind = last.last_id;
            let of_discarded = entries
                .iter()
                .filter(|entry| entry.kind == LedgerKind::Discarded);
            discarded.extend(of_discarded.map(|entry| entry.last_id));
            let of_this =
                |entry: &&Entry| entry.stream == side.name && entry.kind != LedgerKind::Copied;
            for entry in entries.iter().filter(of_this) {
                // An earlier version wrote the row ids of late commits in reverse.
                let first = entry.first_id.min(entry.last_id);
                for (id, (_, known)) in missing.range_mut(first..=entry.last_id.max(entry.first_id))
                {
                    // Rows that were committed late lie among the row ids of other entries.
                    if *known != Absence::Expired || is_without_gaps(entry) {
                        *known = side.absence(entry, *id, oldest);
                    }
                    if is_without_gaps(entry) && side.has_place(entry, *id, oldest) {
                        places.insert(*id, earliest(entry, *id));
                    }
                }
            }
        }
        let mut gone = Vec::new();
        for id in discarded {
            if let Some((_, absence)) = missing.get_mut(&id) {
                *absence = Absence::Unconfirmed;
            }
        }
        self.look_at(stream, &mut missing, places, hasher).await?;
        for (row, absence) in missing.into_values() {
            match absence {
                Absence::Expired => stream.expired += 1,
                // It may be in another stream.
                Absence::Unconfirmed if side.state.is_none() => {}
                Absence::Unconfirmed => {
                    stream.tell(difference(DifferenceKind::Unconfirmed, row, None, None));
                }
                Absence::Missing(why) => {
                    gone.push(row.id);
                    stream.tell(difference(DifferenceKind::Missing, row, None, Some(why)));
                }
            }
        }
        Ok(gone)
    }
}

impl Side {
    /// Whether the sequence of an event of an entry is within the stream.
    fn has_place(&self, entry: &Entry, id: i64, oldest: u64) -> bool {
        self.state.as_ref().is_some_and(|state| {
            let place = oldest..=state.last_sequence;
            entry.incarnation == state.incarnation && place.contains(&earliest(entry, id))
        })
    }

    fn has(&self, name: &str) -> bool {
        let name = Name::parse(name);
        name.is_ok_and(|name| self.covers.iter().any(|pattern| pattern.covers(&name)))
    }

    /// Why an event of an entry is not in the stream.
    fn absence(&self, entry: &Entry, id: i64, oldest: u64) -> Absence {
        let Some(state) = &self.state else {
            return Absence::Missing("the stream is gone");
        };
        if entry.incarnation != state.incarnation {
            return Absence::Missing("it was in a stream of this name that was deleted");
        }
        let earliest = earliest(entry, id);
        if earliest > state.last_sequence {
            return Absence::Missing("its position is after the present end of the stream");
        }
        match (state.removal, earliest < oldest) {
            (Removal::Anywhere, _) | (Removal::Oldest, true) => Absence::Expired,
            (Removal::Never, true) => {
                Absence::Missing("it was purged or deleted: the stream has no limit")
            }
            (_, false) => Absence::Missing("it was deleted"),
        }
    }
}

/// The lowest sequence that an event of an entry can have; its own, if the entry covers every row id of its range.
fn earliest(entry: &Entry, id: i64) -> u64 {
    let later = u64::try_from(entry.last_id.saturating_sub(id)).unwrap_or(u64::MAX);
    let lowest = entry.last_sequence.saturating_sub(later);
    lowest.max(entry.first_sequence)
}

/// Whether the entry covers every row id of its range.
fn is_without_gaps(entry: &Entry) -> bool {
    let places = entry.last_id.checked_sub(entry.first_id);
    places.and_then(|places| places.checked_add(1)) == Some(i64::from(entry.events))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(last_id: i64) -> Entry {
        Entry {
            first_id: 10,
            last_id,
            events: 3,
            stream: "A".to_owned(),
            incarnation: "then".to_owned(),
            first_sequence: 5,
            last_sequence: 7,
            kind: LedgerKind::Relayed,
        }
    }

    #[test]
    fn an_event_has_a_position_where_its_entry_has_no_gaps() {
        let whole = entry(12);
        assert!(is_without_gaps(&whole));
        assert_eq!([10, 11, 12].map(|id| earliest(&whole, id)), [5, 6, 7]);
        // The third has row id 14; 13 may be the second, and then 12 is none of them.
        let with_gaps = entry(14);
        assert!(!is_without_gaps(&with_gaps));
        assert_eq!(
            [10, 12, 13, 14].map(|id| earliest(&with_gaps, id)),
            [5, 5, 6, 7]
        );
    }

    #[test]
    fn fuzz_entries_of_the_ledger() {
        let seeds = [
            "10 12 3 5 7 11",
            "-9223372036854775808 9223372036854775807 3 0 18446744073709551615 17",
        ];
        tidings_fuzz::fuzz_text("entry of the ledger", &seeds, |text| {
            let numbers: Vec<i128> = text
                .split(' ')
                .filter_map(|text| text.parse().ok())
                .collect();
            let id = |at: usize| i64::try_from(*numbers.get(at)?).ok();
            let sequence = |at: usize| u64::try_from(*numbers.get(at)?).ok();
            let entry = Entry {
                first_id: id(0).unwrap_or(i64::MIN),
                events: id(2)
                    .and_then(|events| events.try_into().ok())
                    .unwrap_or(-1),
                first_sequence: sequence(3).unwrap_or(0),
                last_sequence: sequence(4).unwrap_or(u64::MAX),
                ..entry(id(1).unwrap_or(i64::MAX))
            };
            let row = id(5).unwrap_or(0);
            assert!(earliest(&entry, row) >= entry.first_sequence);
            is_without_gaps(&entry) || entry.events >= 0
        });
    }
}
