//! What cannot be published now and is parked so that the rest can: keys with a parked row, names that no stream
//! takes, streams that are closed. Never parks a row itself.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::outbox::store::{Parked, Row, parked::BlockedOn};

/// The most keys that may wait for a subject: their rows are in the database, but the keys are in memory. Beyond
/// this number, the relay waits instead of parking more.
const MOST_KEYS: usize = 100_000;

/// Shared by the router and the lanes of a tenure.
pub(super) struct ParkedKeys(Mutex<State>);

struct State {
    /// Keys that have a parked row, each with the id of the first one: later rows of the key are parked too.
    keys: HashMap<String, i64>,
    /// Names that no stream takes, or that the relay may not publish; each with the reason.
    names: BTreeMap<String, String>,
    /// Streams that take nothing; each with the reason. All their rows wait, so a closed stream blocks no key.
    streams: BTreeMap<String, String>,
    /// The streams that the outbox is known to feed.
    feeds: BTreeSet<String>,
}

impl ParkedKeys {
    pub(super) fn new(
        keys: Vec<(String, i64)>,
        closed: impl IntoIterator<Item = (BlockedOn, String)>,
        feeds: impl IntoIterator<Item = String>,
    ) -> Self {
        let mut state = State {
            keys: keys.into_iter().collect(),
            names: BTreeMap::new(),
            streams: BTreeMap::new(),
            feeds: feeds.into_iter().collect(),
        };
        for (closed, reason) in closed {
            match closed {
                BlockedOn::Subject(name) => state.names.insert(name, reason),
                BlockedOn::Stream(stream) => state.streams.insert(stream, reason),
            };
        }
        Self(Mutex::new(state))
    }

    /// Events of this name wait from now on.
    pub(super) fn close_name(&self, name: &str, reason: &str) {
        let mut state = self.lock();
        state.names.insert(name.to_owned(), reason.to_owned());
    }

    /// Events for this stream wait from now on.
    pub(super) fn close_stream(&self, stream: &str, reason: &str) {
        let mut state = self.lock();
        state.streams.insert(stream.to_owned(), reason.to_owned());
    }

    /// Whether a row that waits for this would be parked again.
    pub(super) fn is_closed(&self, blocked_on: &BlockedOn) -> bool {
        match blocked_on {
            BlockedOn::Subject(name) => self.is_closed_name(name),
            BlockedOn::Stream(stream) => self.is_closed_stream(stream),
        }
    }

    pub(super) fn is_closed_stream(&self, stream: &str) -> bool {
        self.lock().streams.contains_key(stream)
    }

    /// Notes that the outbox feeds this stream.
    pub(super) fn feeds(&self, stream: &str) {
        let mut state = self.lock();
        if !state.feeds.contains(stream) {
            state.feeds.insert(stream.to_owned());
        }
    }

    /// Whether a closed stream holds up other streams.
    pub(super) fn feeds_several(&self) -> bool {
        self.lock().feeds.len() > 1
    }

    /// Whether an event of this name has to wait, and no more keys may.
    pub(super) fn is_full_for(&self, name: &str) -> bool {
        let state = self.lock();
        state.keys.len() >= MOST_KEYS && state.names.contains_key(name)
    }

    /// Whether events of this name wait.
    pub(super) fn is_closed_name(&self, name: &str) -> bool {
        self.lock().names.contains_key(name)
    }

    /// A row is refused permanently: later rows of its key are parked.
    pub(super) fn refuse(&self, row: Row, error: String) -> Parked {
        block(&mut self.lock(), &row);
        Parked {
            row,
            error,
            blocked_on: None,
            follows: false,
        }
    }

    /// Returns the row as it is to be parked, if it cannot be published now; `stream` is its target.
    pub(super) fn take(&self, stream: Option<&str>, row: &Row) -> Option<Parked> {
        let mut state = self.lock();
        let parked = |error: String, blocked_on: Option<BlockedOn>| {
            Some(Parked {
                row: row.clone(),
                error,
                follows: blocked_on.is_none(),
                blocked_on,
            })
        };
        let first = row.key.as_ref().and_then(|key| state.keys.get(key));
        if let Some(first) = first
            && *first < row.id
        {
            let error = format!("it follows the parked event in row {first} under the same key");
            return parked(error, None);
        }
        if let Some(reason) = state.names.get(&row.name).cloned() {
            block(&mut state, row);
            return parked(reason, Some(BlockedOn::Subject(row.name.clone())));
        }
        let (stream, reason) = state.streams.get_key_value(stream?)?;
        parked(reason.clone(), Some(BlockedOn::Stream(stream.clone())))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn block(state: &mut State, row: &Row) {
    if let Some(key) = &row.key {
        let first = state.keys.entry(key.clone()).or_insert(row.id);
        *first = row.id.min(*first);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use chrono::DateTime;
    use tidings_contract::EventId;

    fn row(id: i64, name: &str, key: Option<&str>) -> Row {
        Row {
            id,
            at: DateTime::UNIX_EPOCH,
            event: EventId::now(),
            name: name.to_owned(),
            version: 1,
            key: key.map(str::to_owned),
            headers: "{}".to_owned(),
            payload: Bytes::new(),
            flaw: None,
        }
    }

    fn blocked_on(parked: Option<Parked>) -> Option<BlockedOn> {
        parked.expect("the event is parked").blocked_on
    }

    #[test]
    fn rows_after_a_parked_row_are_parked_and_rows_before_are_not() {
        let parked_keys = ParkedKeys::new(Vec::new(), [], []);
        parked_keys.refuse(row(5, "a.b", Some("k")), "too large".into());
        assert!(parked_keys.take(None, &row(4, "a.b", Some("k"))).is_none());
        assert!(parked_keys.take(None, &row(6, "a.b", Some("j"))).is_none());
        assert!(parked_keys.take(None, &row(6, "a.b", None)).is_none());
        assert_eq!(
            blocked_on(parked_keys.take(None, &row(6, "a.b", Some("k")))),
            None
        );
        // An earlier row is refused later.
        parked_keys.refuse(row(2, "a.b", Some("k")), "too large".into());
        assert!(parked_keys.take(None, &row(4, "a.b", Some("k"))).is_some());
    }

    #[test]
    fn a_blocked_name_blocks_its_keys_unlike_a_blocked_stream() {
        let stream = || BlockedOn::Stream("S".into());
        let parked_keys = ParkedKeys::new(Vec::new(), [(stream(), "full".into())], []);
        parked_keys.close_name("a.b", "no stream");
        let subject = blocked_on(parked_keys.take(Some("T"), &row(1, "a.b", Some("k"))));
        assert_eq!(subject, Some(BlockedOn::Subject("a.b".into())));
        assert!(
            parked_keys
                .take(Some("T"), &row(2, "c.d", Some("k")))
                .is_some()
        );
        let waiting = blocked_on(parked_keys.take(Some("S"), &row(3, "c.d", Some("j"))));
        assert_eq!(waiting, Some(stream()));
        assert!(
            parked_keys
                .take(Some("T"), &row(4, "c.d", Some("j")))
                .is_none()
        );
    }
}
