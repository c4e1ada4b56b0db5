//! What is republished, and how its messages are built. Never sends one.

use tidings_contract::{Envelope, EventId, wire};

use super::streams;
use crate::{
    nats::{Identity, Submission},
    outbox::store::Row,
};

/// A row and its event.
pub(super) struct Item {
    pub(super) row: Row,
    pub(super) envelope: Envelope,
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

impl Item {
    /// Whether another row is of the same event.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        Identity::from(&self.envelope).is(&Identity::from(&other.envelope))
    }
}

impl Form {
    fn subject(&self, name: &str) -> String {
        streams::subject(self.prefix.as_deref(), name)
    }

    pub(super) fn message(&self, item: &Item) -> Submission {
        let defaults = wire::Defaults::new(&self.source, item.row.at);
        let mut message = Submission::new(&item.envelope, defaults).republished(&self.mark);
        if self.prefix.is_some() {
            message = message.to(self.subject(&item.row.name));
        }
        let (id, row) = (item.row.event, item.row.id);
        match &self.suffix {
            Some(suffix) if item.is_beside => message.known_as(&format!("{id}/{suffix}/{row}")),
            Some(suffix) => message.known_as(&format!("{id}/{suffix}")),
            None => message,
        }
    }
}

/// A name that no other run has.
pub(super) fn fresh() -> String {
    EventId::now().as_uuid().simple().to_string()
}
