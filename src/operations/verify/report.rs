//! What a verification found: figures, and examples of each difference. Never reads or writes anything else.

use std::fmt;

use serde::Serialize;
use tidings_contract::EventId;

use crate::outbox::StreamState;

/// The most differences of one kind that are listed for a stream; the figures count all.
const TOLD: u64 = 1000;

/// What a verification found.
#[derive(Debug, Clone, Default, Serialize)]
#[non_exhaustive]
pub struct Verification {
    /// The streams, in the order of their names.
    pub streams: Vec<VerifiedStream>,
}

/// What was found in one stream.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct VerifiedStream {
    /// Its name.
    pub stream: String,
    /// Whether it is the stream that the relay knows.
    pub state: StreamState,
    /// Events that are there as they were written.
    pub ok: u64,
    /// Events that were confirmed and are not there.
    pub missing: u64,
    /// Events of a part of the stream that its limits may have removed. A stream without a limit has none: there a
    /// purge is a loss.
    pub expired: u64,
    /// Events that the ledger does not record as confirmed; `outbox discard` leaves such rows.
    pub unconfirmed: u64,
    /// Events whose message differs from the row: another event has their id in the stream, so they are not stored.
    pub modified: u64,
    /// Messages whose event is already there.
    pub duplicates: u64,
    /// Events that lie behind a later one of their key.
    pub out_of_order: u64,
    /// Those of the `ok` events that were republished and lie behind later ones of their key.
    pub late: u64,
    /// Messages whose event is not in the outbox: from other publishers, or no longer kept.
    pub foreign: u64,
    /// A setting that keeps events from existing subscribers, with the cure.
    pub issue: Option<String>,
    /// The differences one by one: at most a thousand of each kind.
    pub differences: Vec<Difference>,
}

/// One event that is not as it was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Difference {
    /// What is wrong.
    pub kind: DifferenceKind,
    /// The event.
    pub event: EventId,
    /// Its name.
    pub name: String,
    /// Its key.
    pub key: Option<String>,
    /// Its row id, if it has a row in the outbox.
    pub id: Option<i64>,
    /// Its sequence, if it is in the stream.
    pub sequence: Option<u64>,
    /// What else is known.
    pub detail: Option<&'static str>,
}

/// What is wrong with an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum DifferenceKind {
    /// It was confirmed, and is not in the stream.
    Missing,
    /// It is not in the stream, and the ledger has no confirmation of it.
    Unconfirmed,
    /// Its message differs from its row: another event has its id in the stream.
    Modified,
    /// It is in the stream a second time.
    Duplicate,
    /// It lies behind a later event of its key.
    OutOfOrder,
}

impl DifferenceKind {
    /// The name of the difference.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Unconfirmed => "unconfirmed",
            Self::Modified => "modified",
            Self::Duplicate => "duplicate",
            Self::OutOfOrder => "out-of-order",
        }
    }
}

impl fmt::Display for DifferenceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl Verification {
    /// Whether every stream holds what was confirmed, as it was written, once and in order.
    #[must_use]
    pub fn is_ok(&self) -> bool {
        self.streams.iter().all(VerifiedStream::is_ok)
    }
}

impl VerifiedStream {
    pub(super) fn new(stream: &str, state: StreamState) -> Self {
        Self {
            stream: stream.to_owned(),
            state,
            ok: 0,
            missing: 0,
            expired: 0,
            unconfirmed: 0,
            modified: 0,
            duplicates: 0,
            out_of_order: 0,
            late: 0,
            foreign: 0,
            issue: None,
            differences: Vec::new(),
        }
    }

    /// Whether it holds what was confirmed, as it was written, once and in order, where subscribers find it.
    #[must_use]
    pub fn is_ok(&self) -> bool {
        let wrong = self.missing + self.modified + self.duplicates + self.out_of_order;
        self.state == StreamState::Intact && wrong == 0 && self.issue.is_none()
    }

    pub(super) fn tell(&mut self, difference: Difference) {
        let count = match difference.kind {
            DifferenceKind::Missing => &mut self.missing,
            DifferenceKind::Unconfirmed => &mut self.unconfirmed,
            DifferenceKind::Modified => &mut self.modified,
            DifferenceKind::Duplicate => &mut self.duplicates,
            DifferenceKind::OutOfOrder => &mut self.out_of_order,
        };
        *count += 1;
        if *count <= TOLD {
            self.differences.push(difference);
        }
    }
}
