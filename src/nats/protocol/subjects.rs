//! The subjects of Tidings: how each is written, and how it is read back. Pure. An event's own subject is its name.

/// All dead letters: `dead-letter.<subscriber>.<name>`.
pub(crate) const DEAD_LETTERS: &str = "dead-letter.>";
const DEAD_LETTER: &str = "dead-letter.";

/// All events that are due for another attempt: `tidings.retry.<subscriber>.<name>`.
pub(in crate::nats) const RETRIES: &str = "tidings.retry.>";
const RETRY: &str = "tidings.retry.";

/// All events that wait until they are due, as schedules of the server:
/// `tidings.retry-at.<subscriber>.<id>`.
pub(in crate::nats) const SCHEDULED_RETRIES: &str = "tidings.retry-at.>";

/// In place of an event's name among the retries: asks whether a key may be unparked.
pub(in crate::nats) const UNPARK: &str = "UNPARK";

/// Every worker answers with the names of its subscribers.
pub(crate) const STATUS: &str = "tidings.status";

/// No client listens on it: a server answers at once that there are no responders.
pub(in crate::nats) const NO_LISTENER: &str = "tidings.nobody";

/// What inboxes begin with, unless the options name another prefix.
pub(in crate::nats) const INBOX_PREFIX: &str = "_INBOX";

/// The dead letter of an event.
pub(crate) fn dead_letter(subscriber: &str, subject: &str) -> String {
    format!("{DEAD_LETTER}{subscriber}.{subject}")
}

/// The dead letters of a subscriber.
pub(crate) fn dead_letters_of(subscriber: &str) -> String {
    dead_letter(subscriber, ">")
}

/// The subscriber of a dead letter and the subject of its event; empty where they are missing.
pub(crate) fn parts_of_dead_letter(subject: &str) -> (&str, &str) {
    let rest = subject.strip_prefix(DEAD_LETTER).unwrap_or_default();
    rest.split_once('.').unwrap_or((rest, ""))
}

/// The subscriber of a dead letter.
pub(in crate::nats) fn subscriber_of_dead_letter(subject: &str) -> Option<&str> {
    subject.strip_prefix(DEAD_LETTER)?.split('.').next()
}

/// An event that is due for another attempt by a subscriber.
pub(crate) fn retry(subscriber: &str, name: &str) -> String {
    format!("{RETRY}{subscriber}.{name}")
}

/// The subscriber of a retry that is due.
pub(in crate::nats) fn subscriber_of_retry(subject: &str) -> Option<&str> {
    subject.strip_prefix(RETRY)?.split('.').next()
}

/// The subscriber of a retry that is due, and the name of its event.
pub(in crate::nats) fn parts_of_retry(subject: &str) -> Option<(&str, &str)> {
    subject.strip_prefix(RETRY)?.split_once('.')
}

/// An event that waits until its next attempt.
pub(crate) fn scheduled_retry(subscriber: &str, id: &str) -> String {
    format!("tidings.retry-at.{subscriber}.{id}")
}

/// The retries of a subscriber, due or not.
pub(crate) fn retries_of(subscriber: &str) -> String {
    format!("tidings.*.{subscriber}.>")
}

/// Every instance of a subscriber answers with its state.
pub(crate) fn status_of(subscriber: &str) -> String {
    format!("{STATUS}.{subscriber}")
}

/// Every relay of an outbox answers with its state.
#[cfg(feature = "outbox")]
pub(crate) fn relay_status(schema: &str) -> String {
    format!("{STATUS}.relay.{schema}")
}

/// A transaction of an outbox was committed.
#[cfg(feature = "outbox")]
pub(crate) fn wake(schema: &str) -> String {
    format!("tidings.wake.{schema}")
}

/// A relay of an outbox has released its lease.
#[cfg(feature = "outbox")]
pub(crate) fn lease_released(schema: &str) -> String {
    format!("tidings.wake.{schema}.released")
}
