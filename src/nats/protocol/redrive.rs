//! What an event that is redriven has in addition to its own headers. Never redrives, and never reads a dead letter.

use chrono::{DateTime, SecondsFormat, Utc};
use tidings_contract::wire;

use super::{
    authorship::is_reserved,
    headers::{redrive, replay, retry, server},
};
use crate::nats::StoredMessage;

/// What the event keeps of its dead letter. Its attempts count from 1 again.
pub(crate) struct Redriven<'a> {
    /// The sequence of the dead letter.
    pub(crate) sequence: u64,
    /// How often the event was redriven, this time included.
    pub(crate) count: u32,
    /// The stream position of the event.
    pub(crate) stream: Option<&'a str>,
    pub(crate) stream_sequence: Option<u64>,
    /// The unique identity of the event.
    pub(crate) identity: Option<&'a str>,
    /// The message id that the publisher has set.
    pub(crate) message_id: Option<&'a str>,
}

/// The edit of a payload.
pub(crate) struct Edited {
    pub(crate) by: String,
    pub(crate) at: DateTime<Utc>,
    /// The SHA-256 of the payload before it.
    pub(crate) from: String,
}

impl Redriven<'_> {
    /// The headers, with the message id by which the server recognises a repeated redrive.
    pub(crate) fn headers(&self, id: String) -> impl Iterator<Item = (String, String)> {
        let owned = |text: Option<&str>| text.map(str::to_owned);
        let headers = [
            (wire::MESSAGE_ID, Some(id)),
            (redrive::SEQUENCE, Some(self.sequence.to_string())),
            (redrive::COUNT, Some(self.count.to_string())),
            (retry::FAILURES, Some("0".to_owned())),
            (retry::STREAM, owned(self.stream)),
            (
                retry::SEQUENCE,
                self.stream_sequence.map(|sequence| sequence.to_string()),
            ),
            (retry::IDENTITY, owned(self.identity)),
            (retry::MESSAGE_ID, owned(self.message_id)),
        ];
        headers
            .into_iter()
            .filter_map(|(name, value)| Some((name.to_owned(), value?)))
    }
}

impl Edited {
    pub(crate) fn headers(self) -> impl Iterator<Item = (String, String)> {
        let at = self.at.to_rfc3339_opts(SecondsFormat::Micros, true);
        let headers = [
            (redrive::EDITED, "true".to_owned()),
            (redrive::EDITED_BY, self.by.replace(char::is_control, " ")),
            (redrive::EDITED_AT, at),
            (redrive::EDITED_FROM, self.from),
        ];
        headers
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value))
    }
}

/// The message id of a redriven event: the same when the dead letter is redriven again. An edit appends its own part.
pub(crate) fn message_id(incarnation: &str, sequence: u64, identity: &str) -> String {
    format!("redrive/{incarnation}/{sequence}/{identity}")
}

/// Whether a header describes an edit.
pub(crate) fn is_of_edit(name: &str) -> bool {
    name.starts_with(redrive::EDITED)
}

/// Whether a header belongs to the event, and not to the dead letter, the retry or the server.
pub(crate) fn is_carried(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    match is_reserved(&name) {
        true => is_of_edit(&name) || name.starts_with(replay::ID),
        false => !name.starts_with(server::PREFIX),
    }
}

/// The dead letter that an event was redriven from.
pub(crate) fn redriven_from(kept: &StoredMessage) -> Option<u64> {
    let mut headers = kept.headers.iter();
    let (_, sequence) = headers.find(|(name, _)| name == redrive::SEQUENCE)?;
    sequence.parse().ok()
}
