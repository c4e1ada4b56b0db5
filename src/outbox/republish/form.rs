//! What is republished, and how its messages are built. Never sends one.

use tidings_contract::{EventId, wire};

use super::streams;
use crate::{
    nats::{Identity, Submission},
    outbox::{
        lane::{self, Messages},
        store::ledger::LedgerKind,
    },
};

/// A row of the run.
pub(super) type Item = lane::Item<RunNote>;
pub(super) type InFlight = lane::InFlight<RunNote>;

/// What is known of a row beside its event.
#[derive(Default)]
pub(super) struct RunNote {
    /// Another event of the run has its id; this one is stored in addition.
    pub(super) is_beside: bool,
}

/// How the messages of a run are built.
#[derive(Clone)]
pub(super) struct Form {
    /// The prefix of the event's name in the subject.
    pub(super) prefix: Option<String>,
    pub(super) source: String,
    /// The mark of the run's messages.
    pub(super) mark: String,
    /// Sends even what the stream may hold.
    pub(super) is_forced: bool,
    /// The suffix of the event's id in the message id. Without it the server takes the message for a duplicate of
    /// the first one, for as long as it remembers that one.
    pub(super) suffix: Option<String>,
}

/// Whether two rows are of the same event.
pub(super) fn are_same(one: &Item, other: &Item) -> bool {
    Identity::from(&one.envelope).is(&Identity::from(&other.envelope))
}

impl Form {
    fn subject(&self, name: &str) -> String {
        streams::subject(self.prefix.as_deref(), name)
    }
}

impl Messages for Form {
    type Note = RunNote;
    const SIDE_BY_SIDE: usize = 0;

    fn kind(&self) -> LedgerKind {
        match self.prefix {
            Some(_) => LedgerKind::Copied,
            None => LedgerKind::Republished,
        }
    }

    fn message(&self, item: &Item) -> Submission {
        let defaults = wire::Defaults::new(&self.source, item.row.at);
        let mut message = Submission::new(&item.envelope, defaults).republished(&self.mark);
        if self.prefix.is_some() {
            message = message.to(self.subject(&item.row.name));
        }
        let (id, row) = (item.row.event, item.row.id);
        match &self.suffix {
            Some(suffix) if item.note.is_beside => {
                message.known_as(&format!("{id}/{suffix}/{row}"))
            }
            Some(suffix) => message.known_as(&format!("{id}/{suffix}")),
            None => message,
        }
    }
}

/// A name that no other run has.
pub(super) fn fresh() -> String {
    EventId::now().as_uuid().simple().to_string()
}
