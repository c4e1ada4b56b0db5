//! What a verification found: figures, and examples of each difference. Never reads or writes anything else.

use serde::Serialize;
use tidings_contract::EventId;

use crate::outbox::Standing;

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
    pub standing: Standing,
    /// Events that are there as they were written.
    pub sound: u64,
    /// Events that were confirmed and are not there.
    pub missing: u64,
    /// Events of a part of the stream that its limits may have removed. A stream without a limit has none: there a
    /// purge is a loss.
    pub expired: u64,
    /// Events that the ledger does not record as confirmed; `outbox discard` leaves such rows.
    pub unconfirmed: u64,
    /// Events whose message differs from the row: another event has their id in the stream, so they are not stored.
    pub altered: u64,
    /// Messages whose event is already there.
    pub duplicated: u64,
    /// Events that lie behind a later one of their key.
    pub out_of_order: u64,
    /// Those of the `sound` events that were republished and lie behind later ones of their key.
    pub late: u64,
    /// Messages whose event is not in the outbox: from other publishers, or no longer kept.
    pub others: u64,
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
    Altered,
    /// It is in the stream a second time.
    Duplicated,
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
            Self::Altered => "altered",
            Self::Duplicated => "duplicated",
            Self::OutOfOrder => "out-of-order",
        }
    }
}

impl Verification {
    /// Whether every stream holds what was confirmed, as it was written, once and in order.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.streams.iter().all(VerifiedStream::is_sound)
    }
}

impl VerifiedStream {
    pub(super) fn new(stream: &str, standing: Standing) -> Self {
        Self {
            stream: stream.to_owned(),
            standing,
            sound: 0,
            missing: 0,
            expired: 0,
            unconfirmed: 0,
            altered: 0,
            duplicated: 0,
            out_of_order: 0,
            late: 0,
            others: 0,
            issue: None,
            differences: Vec::new(),
        }
    }

    /// Whether it holds what was confirmed, as it was written, once and in order, where subscribers find it.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        let wrong = self.missing + self.altered + self.duplicated + self.out_of_order;
        self.standing == Standing::Known && wrong == 0 && self.issue.is_none()
    }

    pub(super) fn tell(&mut self, difference: Difference) {
        let count = match difference.kind {
            DifferenceKind::Missing => &mut self.missing,
            DifferenceKind::Unconfirmed => &mut self.unconfirmed,
            DifferenceKind::Altered => &mut self.altered,
            DifferenceKind::Duplicated => &mut self.duplicated,
            DifferenceKind::OutOfOrder => &mut self.out_of_order,
        };
        *count += 1;
        if *count <= TOLD {
            self.differences.push(difference);
        }
    }
}
