//! Compares two sequences of the same events in nearly the same order: rows of the outbox, and messages of a stream.
//! Pairs them and names the differences. Reads nothing and writes nothing.

use std::{
    collections::{
        HashMap,
        hash_map::{Entry, RandomState},
    },
    hash::BuildHasher,
};

use tidings_contract::EventId;

use super::report::{Difference, DifferenceKind};
use crate::{nats::Stored, outbox::Relayed};

/// A difference between a row and its messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Finding {
    /// The message differs from the row.
    Modified {
        row: Relayed,
        sequence: u64,
        what: &'static str,
    },
    /// The message lies behind a later event of its key.
    OutOfOrder { row: Relayed, sequence: u64 },
    /// The stream holds the event a second time.
    Duplicate { message: Stored },
}

impl Finding {
    pub(super) fn told(self) -> Difference {
        match self {
            Self::Modified {
                row,
                sequence,
                what,
            } => difference(DifferenceKind::Modified, row, Some(sequence), Some(what)),
            Self::OutOfOrder { row, sequence } => {
                difference(DifferenceKind::OutOfOrder, row, Some(sequence), None)
            }
            Self::Duplicate { message } => Difference {
                kind: DifferenceKind::Duplicate,
                event: message.event,
                name: message.name,
                key: message.key,
                id: None,
                sequence: Some(message.sequence),
                detail: None,
            },
        }
    }
}

/// Reports a difference of a row.
pub(super) fn difference(
    kind: DifferenceKind,
    row: Relayed,
    sequence: Option<u64>,
    detail: Option<&'static str>,
) -> Difference {
    Difference {
        kind,
        event: row.event,
        name: row.name,
        key: row.key,
        id: Some(row.id),
        sequence,
        detail,
    }
}

/// A pair: the row id, and the sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Pair {
    id: i64,
    sequence: u64,
}

/// The extremes of a key's pairs in the stream.
struct Ends {
    /// The pair with the highest id.
    by_id: Pair,
    /// The pair with the highest sequence.
    by_sequence: Pair,
    /// Of republished events: how many pairs have no later event before them, so far.
    in_order: u64,
}

/// Rows and messages that have no counterpart yet. It holds as much as the two sides differ, and 48 bytes for every
/// key.
#[derive(Default)]
pub(super) struct Comparison {
    rows: HashMap<EventId, Relayed>,
    messages: HashMap<EventId, Stored>,
    /// Rows and messages whose id an unpaired one already has.
    more_rows: HashMap<EventId, Vec<Relayed>>,
    more_messages: Vec<Stored>,
    keys: HashMap<u64, Ends>,
    /// The same for republished events.
    republished: HashMap<u64, Ends>,
    seed: RandomState,
    /// Pairs without a difference.
    pub(super) ok: u64,
    /// Republished events that lie behind later ones of their key.
    pub(super) late: u64,
}

impl Comparison {
    /// Takes the next row, in the order of ids.
    pub(super) fn row(&mut self, row: Relayed, findings: &mut Vec<Finding>) {
        match self.messages.remove(&row.event) {
            Some(message) => self.pair(row, &message, findings),
            None => match self.rows.entry(row.event) {
                Entry::Vacant(entry) => drop(entry.insert(row)),
                Entry::Occupied(_) => self.more_rows.entry(row.event).or_default().push(row),
            },
        }
    }

    /// Takes the next message, in the order of sequences.
    pub(super) fn message(&mut self, message: Stored, findings: &mut Vec<Finding>) {
        if let Some(row) = self.counterpart(&message) {
            return self.pair(row, &message, findings);
        }
        match self.messages.entry(message.event) {
            Entry::Vacant(entry) => drop(entry.insert(message)),
            Entry::Occupied(_) => self.more_messages.push(message),
        }
    }

    /// The row of a message: among those with its id the one of the same event, else the first one.
    fn counterpart(&mut self, message: &Stored) -> Option<Relayed> {
        let first = self.rows.remove(&message.event);
        if self.more_rows.is_empty() || first.as_ref().is_some_and(|row| is_same(row, message)) {
            return first;
        }
        let Some(more) = self.more_rows.get_mut(&message.event) else {
            return first;
        };
        let same = more.iter().position(|row| is_same(row, message));
        let row = match (first, same) {
            (Some(first), None) => return Some(first),
            (Some(first), Some(same)) => std::mem::replace(&mut more[same], first),
            (None, same) => more.remove(same.unwrap_or(0)),
        };
        if more.is_empty() {
            self.more_rows.remove(&message.event);
        }
        Some(row)
    }

    /// Takes the messages that have no row, by their ids.
    pub(super) fn take_strays(&mut self) -> HashMap<EventId, Vec<Stored>> {
        let mut strays: HashMap<EventId, Vec<Stored>> = HashMap::new();
        let first = std::mem::take(&mut self.messages).into_values();
        for message in first.chain(std::mem::take(&mut self.more_messages)) {
            strays.entry(message.event).or_default().push(message);
        }
        strays
    }

    /// Whether the stream holds a later event of a row's key.
    pub(super) fn has_later(&self, row: &Relayed) -> bool {
        let Some(key) = &row.key else { return false };
        let hash = self.seed.hash_one(key);
        let ends = [self.keys.get(&hash), self.republished.get(&hash)];
        ends.into_iter()
            .flatten()
            .any(|ends| ends.by_id.id > row.id)
    }

    /// The rows that have no message.
    pub(super) fn missing(&self) -> impl Iterator<Item = &Relayed> {
        let more = self.more_rows.values().flatten();
        self.rows.values().chain(more)
    }

    /// The rows that have no message, in the order of ids.
    pub(super) fn into_missing(self) -> Vec<Relayed> {
        let more = self.more_rows.into_values().flatten();
        let mut missing: Vec<Relayed> = self.rows.into_values().chain(more).collect();
        missing.sort_unstable_by_key(|row| row.id);
        missing
    }

    fn pair(&mut self, row: Relayed, message: &Stored, findings: &mut Vec<Finding>) {
        let told = findings.len();
        let sequence = message.sequence;
        if let Some(what) = altered(&row, message) {
            let row = row.clone();
            findings.push(Finding::Modified {
                row,
                sequence,
                what,
            });
        }
        let pair = Pair {
            id: row.id,
            sequence,
        };
        if let Some(key) = &row.key
            && !self.follows(key, pair, message.is_republished)
        {
            findings.push(Finding::OutOfOrder { row, sequence });
        }
        self.ok += u64::from(findings.len() == told);
    }

    /// Whether a pair is in order with the others of its key. A stream only grows, so republished events may lie
    /// behind later ones: they are counted, and not reported as reordered by the relay.
    fn follows(&mut self, key: &str, pair: Pair, is_republished: bool) -> bool {
        let hash = self.seed.hash_one(key);
        let is_inverted = |ends: &HashMap<u64, Ends>| {
            let ends = ends.get(&hash);
            ends.is_some_and(|ends| ends.by_id.inverts(pair) || ends.by_sequence.inverts(pair))
        };
        let inverts_relayed = is_inverted(&self.keys);
        let inverts_republished = is_inverted(&self.republished);
        let keys = match is_republished {
            true => &mut self.republished,
            false => &mut self.keys,
        };
        let first = Ends {
            by_id: pair,
            by_sequence: pair,
            in_order: 0,
        };
        let ends = keys.entry(hash).or_insert(first);
        if pair.id > ends.by_id.id {
            ends.by_id = pair;
        }
        if pair.sequence > ends.by_sequence.sequence {
            ends.by_sequence = pair;
        }
        if is_republished {
            match inverts_relayed || inverts_republished {
                true => self.late += 1,
                false => ends.in_order += 1,
            }
            return true;
        }
        if inverts_republished && let Some(ends) = self.republished.get_mut(&hash) {
            self.late += std::mem::take(&mut ends.in_order);
        }
        !inverts_relayed
    }
}

impl Pair {
    fn inverts(self, other: Self) -> bool {
        (other.id < self.id) != (other.sequence < self.sequence) && self != other
    }
}

/// Whether a message is a row's event, as far as both were read.
pub(super) fn is_same(row: &Relayed, message: &Stored) -> bool {
    row.event == message.event && altered(row, message).is_none()
}

/// How a message differs from the row that has its id.
pub(super) fn altered(row: &Relayed, message: &Stored) -> Option<&'static str> {
    if row.name != message.name {
        return Some("name");
    }
    if u32::try_from(row.version).unwrap_or(0) != message.version {
        return Some("version");
    }
    if row.key != message.key {
        return Some("key");
    }
    if row.bytes != message.bytes {
        return Some("size of the payload");
    }
    let both = row.payload.as_ref().zip(message.payload.as_ref());
    both.is_some_and(|(row, message)| row != message)
        .then_some("payload")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(n: u8) -> EventId {
        EventId::from(uuid::Uuid::from_bytes([n; 16]))
    }

    fn row(id: u8, key: &str) -> Relayed {
        Relayed {
            id: id.into(),
            event: event(id),
            name: "user.created".into(),
            version: 1,
            key: Some(key.into()),
            bytes: 2,
            payload: None,
        }
    }

    fn stored(id: u8, sequence: u64, key: &str) -> Stored {
        Stored {
            sequence,
            event: event(id),
            name: "user.created".into(),
            version: 1,
            key: Some(key.into()),
            bytes: 2,
            payload: None,
            is_republished: false,
        }
    }

    fn compare(rows: &[Relayed], messages: &[Stored]) -> (Vec<Finding>, Comparison) {
        let (mut findings, mut comparison) = (Vec::new(), Comparison::default());
        let mut messages = messages.iter().cloned();
        for row in rows {
            comparison.row(row.clone(), &mut findings);
            if let Some(message) = messages.next() {
                comparison.message(message, &mut findings);
            }
        }
        for message in messages {
            comparison.message(message, &mut findings);
        }
        (findings, comparison)
    }

    #[test]
    fn the_same_in_any_order_of_keys_differs_in_nothing() {
        let rows = [row(1, "a"), row(2, "b"), row(3, "a")];
        let messages = [stored(2, 7, "b"), stored(1, 8, "a"), stored(3, 9, "a")];
        let (findings, comparison) = compare(&rows, &messages);
        assert_eq!((findings, comparison.ok), (vec![], 3));
        assert!(comparison.messages.is_empty());
        assert_eq!(comparison.into_missing(), []);
    }

    #[test]
    fn missing_and_foreign_events_are_left_over() {
        let rows = [row(1, "a"), row(2, "b")];
        let (findings, mut comparison) = compare(&rows, &[stored(2, 1, "b"), stored(9, 2, "x")]);
        assert_eq!(findings, []);
        assert_eq!(
            comparison.take_strays().remove(&event(9)),
            Some(vec![stored(9, 2, "x")])
        );
        assert_eq!(comparison.into_missing(), [row(1, "a")]);
    }

    /// In whatever order they are read, no row is lost because of another one.
    #[test]
    fn of_two_rows_with_one_id_the_message_is_the_one_that_it_is() {
        let other = Relayed {
            event: event(1),
            name: "user.deleted".into(),
            ..row(2, "b")
        };
        let deleted = Stored {
            name: "user.deleted".into(),
            ..stored(1, 7, "b")
        };
        let rows = [row(1, "a"), other.clone()];
        for (message, left) in [(stored(1, 7, "a"), &other), (deleted.clone(), &rows[0])] {
            let (mut findings, mut comparison) = (Vec::new(), Comparison::default());
            rows.iter()
                .for_each(|row| comparison.row(row.clone(), &mut findings));
            comparison.message(message, &mut findings);
            assert_eq!((&findings[..], comparison.ok), (&[][..], 1));
            assert_eq!(comparison.into_missing(), std::slice::from_ref(left));
        }
        // Both are there, whichever was read first.
        for messages in [
            [stored(1, 7, "a"), deleted.clone()],
            [deleted.clone(), stored(1, 8, "a")],
        ] {
            let (mut findings, mut comparison) = (Vec::new(), Comparison::default());
            rows.iter()
                .for_each(|row| comparison.row(row.clone(), &mut findings));
            messages
                .into_iter()
                .for_each(|message| comparison.message(message, &mut findings));
            assert_eq!((findings.len(), comparison.ok), (0, 2));
            assert!(comparison.take_strays().is_empty());
        }
    }

    #[test]
    fn a_foreign_duplicate_is_no_duplicate_of_a_row() {
        let messages = [
            stored(9, 1, "x"),
            stored(9, 2, "x"),
            stored(1, 3, "a"),
            stored(1, 4, "a"),
        ];
        let (findings, mut comparison) = compare(&[], &messages);
        assert_eq!(findings, []);
        let mut findings = Vec::new();
        comparison.row(row(1, "a"), &mut findings);
        assert_eq!((findings, comparison.ok), (vec![], 1));
        let strays = comparison.take_strays();
        let count = |n| strays.get(&event(n)).map(Vec::len);
        assert_eq!((count(9), count(1)), (Some(2), Some(1)));
    }

    #[test]
    fn an_event_out_of_order_within_its_key_is_named() {
        let rows = [row(1, "a"), row(2, "a"), row(3, "a")];
        let messages = [stored(1, 1, "a"), stored(3, 2, "a"), stored(2, 3, "a")];
        let (findings, _) = compare(&rows, &messages);
        let expected = Finding::OutOfOrder {
            row: row(2, "a"),
            sequence: 3,
        };
        assert_eq!(findings, [expected]);
    }

    #[test]
    fn a_republished_event_is_late_and_reorders_nothing() {
        let again = |id, sequence| Stored {
            is_republished: true,
            ..stored(id, sequence, "a")
        };
        let rows = [row(1, "a"), row(2, "a"), row(3, "a")];
        let messages = [stored(3, 1, "a"), again(1, 2), again(2, 3)];
        let (findings, comparison) = compare(&rows, &messages);
        assert_eq!((findings, comparison.late, comparison.ok), (vec![], 2, 3));
        assert!(comparison.has_later(&row(2, "a")) && !comparison.has_later(&row(3, "a")));
        assert!(!comparison.has_later(&row(1, "b")));
        let messages = [stored(2, 1, "a"), stored(1, 2, "a"), again(3, 3)];
        let (findings, comparison) = compare(&rows, &messages);
        assert_eq!((findings.len(), comparison.late), (1, 0), "{findings:?}");
    }

    #[test]
    fn a_modified_and_reordered_event_is_counted_once() {
        let mut late = stored(1, 2, "a");
        late.bytes = 1;
        let (findings, comparison) =
            compare(&[row(1, "a"), row(2, "a")], &[stored(2, 1, "a"), late]);
        assert_eq!((findings.len(), comparison.ok), (2, 1));
    }

    #[test]
    fn another_key_size_or_payload_is_a_modification() {
        let mut other_key = stored(1, 1, "b");
        other_key.key = None;
        let mut shorter = stored(2, 2, "a");
        shorter.bytes = 1;
        let (mut read, mut changed) = (row(3, "a"), stored(3, 3, "a"));
        (read.payload, changed.payload) = (Some(1), Some(2));
        let rows = [row(1, "a"), row(2, "a"), read];
        let (findings, _) = compare(&rows, &[other_key, shorter, changed]);
        let what = findings.into_iter().map(|finding| finding.told().detail);
        let expected = [Some("key"), Some("size of the payload"), Some("payload")];
        assert_eq!(what.collect::<Vec<_>>(), expected);
    }
}
