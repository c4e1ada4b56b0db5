//! What is published again, and how its messages are made. Never sends one.

use tidings_contract::{Envelope, EventId, wire};

use super::streams;
use crate::{
    bus::{Identity, Submission},
    outbox::store::Row,
};

/// A row and its event.
pub(super) struct Item {
    pub(super) row: Row,
    pub(super) envelope: Envelope,
    /// Another event of the run has its id; it goes beside that one.
    pub(super) is_beside: bool,
}

/// How the messages of a run are made.
#[derive(Clone)]
pub(super) struct Form {
    /// What stands before the event's name in the subject.
    pub(super) prefix: Option<String>,
    pub(super) source: String,
    /// What marks the messages of the run.
    pub(super) mark: String,
    /// Although the stream may hold what is sent.
    pub(super) is_forced: bool,
    /// What follows the event's id in the id of the message. Without it the server takes the message for the
    /// first one, and keeps it out for as long as it remembers that.
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
        let defaults = wire::Defaults {
            source: &self.source,
            time: item.row.at,
        };
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

/// What no other run has.
pub(super) fn fresh() -> String {
    EventId::now().as_uuid().simple().to_string()
}
