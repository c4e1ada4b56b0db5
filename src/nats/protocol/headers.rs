//! The names of all headers that Tidings writes or reads, except those of the event itself, which are in
//! `tidings_contract::wire`. Never decides which of them are trusted.

/// What all headers begin with that only Tidings writes.
pub(in crate::nats) const RESERVED_PREFIX: &str = "tidings-";

/// Marks an event as published again, with the run that did so.
#[cfg(feature = "outbox")]
pub(in crate::nats) const REPUBLISHED: &str = "tidings-republished";

/// The header of an extension of CloudEvents.
pub(in crate::nats) fn extension(name: &str) -> String {
    format!("ce-{name}")
}

/// Headers of a dead letter.
pub(crate) mod dead {
    /// What they all begin with.
    pub(in crate::nats) const PREFIX: &str = "tidings-dead-";
    /// The subscriber that has dead-lettered the event.
    pub(in crate::nats) const SUBSCRIBER: &str = "tidings-dead-subscriber";
    /// The stream of the event.
    pub(crate) const STREAM: &str = "tidings-dead-stream";
    /// The sequence of the event in its stream.
    pub(crate) const SEQUENCE: &str = "tidings-dead-sequence";
    /// Identifies the message of the event, also among streams that were recreated.
    pub(crate) const IDENTITY: &str = "tidings-dead-identity";
    /// The subject under which the event was published.
    pub(in crate::nats) const SUBJECT: &str = "tidings-dead-subject";
    /// The message id that the publisher has set.
    pub(crate) const MESSAGE_ID: &str = "tidings-dead-message-id";
    /// Why the event was dead-lettered, in one word.
    pub(crate) const CAUSE: &str = "tidings-dead-cause";
    /// The error, on one line.
    pub(crate) const ERROR: &str = "tidings-dead-error";
    /// The same for all errors of one kind.
    pub(crate) const FINGERPRINT: &str = "tidings-dead-fingerprint";
    /// How many attempts were made.
    pub(crate) const ATTEMPTS: &str = "tidings-dead-attempts";
    /// When the event was dead-lettered.
    pub(crate) const AT: &str = "tidings-dead-at";
    /// When the first attempt failed.
    pub(crate) const FIRST_FAILED_AT: &str = "tidings-dead-first-failed-at";
    /// The handler that was called.
    pub(crate) const HANDLER: &str = "tidings-dead-handler";
    /// The consumer's count of its deliveries.
    pub(crate) const CONSUMER_SEQUENCE: &str = "tidings-dead-consumer-sequence";
    /// What was left out because the message was too large: `error`, then `headers`, then `payload`.
    pub(crate) const TRUNCATED: &str = "tidings-dead-truncated";
}

/// Headers of an event that waits for its next attempt.
pub(crate) mod retry {
    /// What they all begin with.
    pub(in crate::nats) const PREFIX: &str = "tidings-retry-";
    /// How many attempts have failed.
    pub(in crate::nats) const FAILURES: &str = "tidings-retry-failures";
    /// How often the event was deferred; absent when never.
    pub(in crate::nats) const DEFERRALS: &str = "tidings-retry-deferrals";
    /// When the first attempt failed.
    pub(in crate::nats) const FIRST_FAILED_AT: &str = "tidings-retry-first-failed-at";
    /// The stream of the event.
    pub(in crate::nats) const STREAM: &str = "tidings-retry-stream";
    /// The sequence of the event in its stream.
    pub(in crate::nats) const SEQUENCE: &str = "tidings-retry-sequence";
    /// Identifies the message of the event, also among streams that were recreated.
    pub(in crate::nats) const IDENTITY: &str = "tidings-retry-identity";
    /// The message id that the publisher has set.
    pub(in crate::nats) const MESSAGE_ID: &str = "tidings-retry-message-id";
    /// The park of its key that a redriven event may pass.
    pub(crate) const PARK: &str = "tidings-retry-park";
}

/// Headers of an event that was redriven.
pub(crate) mod redrive {
    /// The sequence of the dead letter that the event was redriven from; also the beginning of all headers of a
    /// redrive.
    pub(crate) const SEQUENCE: &str = "tidings-redrive";
    /// How often the event was redriven.
    pub(crate) const COUNT: &str = "tidings-redrives";
    /// `true` when the payload was edited; also the beginning of all headers of an edit.
    pub(in crate::nats) const EDITED: &str = "tidings-redrive-edited";
    /// Who has edited it.
    pub(in crate::nats) const EDITED_BY: &str = "tidings-redrive-edited-by";
    /// When it was edited.
    pub(in crate::nats) const EDITED_AT: &str = "tidings-redrive-edited-at";
    /// The SHA-256 of the payload before the edit.
    pub(in crate::nats) const EDITED_FROM: &str = "tidings-redrive-edited-from";
}

/// Headers of a retry or a dead letter that belongs to a replay.
pub(crate) mod replay {
    /// The id of the replay; also the beginning of all headers of a replay.
    pub(in crate::nats) const ID: &str = "tidings-replay";
    /// The shadow that handles the event.
    pub(in crate::nats) const SHADOW: &str = "tidings-replay-shadow";
    /// `true` when the events that handlers publish are published.
    pub(in crate::nats) const FOLLOW_UPS: &str = "tidings-replay-follow-ups";
}

/// Headers of NATS: instructions to the server, and what it states. Their letter case counts.
pub(in crate::nats) mod server {
    /// What they all begin with, in lower case.
    pub(in crate::nats) const PREFIX: &str = "nats-";

    /// The stream of a message that is read with a direct get.
    pub(in crate::nats) const STREAM: &str = "Nats-Stream";
    /// Its subject.
    pub(in crate::nats) const SUBJECT: &str = "Nats-Subject";
    /// Its sequence.
    pub(in crate::nats) const SEQUENCE: &str = "Nats-Sequence";
    /// When it was stored.
    pub(in crate::nats) const TIME: &str = "Nats-Time-Stamp";
    /// How many messages match after it.
    pub(in crate::nats) const PENDING: &str = "Nats-Num-Pending";
    /// The sequence of the message before it in a page.
    pub(in crate::nats) const LAST_SEQUENCE: &str = "Nats-Last-Sequence";
    /// The last sequence that a page covers.
    pub(in crate::nats) const UP_TO_SEQUENCE: &str = "Nats-UpTo-Sequence";
    /// The size of a payload that the server has omitted.
    pub(in crate::nats) const SIZE: &str = "Nats-Msg-Size";
    /// Why the server has written the message itself, in place of one that expired or was deleted.
    pub(in crate::nats) const MARKER_REASON: &str = "Nats-Marker-Reason";

    /// How many messages of a pull were not delivered when it ended.
    pub(in crate::nats) const PENDING_MESSAGES: &str = "Nats-Pending-Messages";
    /// How many bytes of a pull were not delivered when it ended.
    pub(in crate::nats) const PENDING_BYTES: &str = "Nats-Pending-Bytes";

    /// When the server publishes the message: `@at TIME`.
    pub(in crate::nats) const SCHEDULE: &str = "Nats-Schedule";
    /// The subject to which it publishes then.
    pub(in crate::nats) const SCHEDULE_TARGET: &str = "Nats-Schedule-Target";
    /// In what a schedule has published: the subject of the schedule.
    pub(in crate::nats) const SCHEDULER: &str = "Nats-Scheduler";

    /// How long the message is kept.
    pub(in crate::nats) const TTL: &str = "Nats-TTL";
    /// The message is stored only behind this sequence of its subject, or of the subjects of the next header.
    pub(in crate::nats) use async_nats::header::NATS_EXPECTED_LAST_SUBJECT_SEQUENCE as EXPECTED_LAST_SUBJECT_SEQUENCE;
    /// The subjects, with wildcards, whose last sequence is expected.
    pub(in crate::nats) const EXPECTED_LAST_SUBJECT_SEQUENCE_SUBJECT: &str =
        "Nats-Expected-Last-Subject-Sequence-Subject";
    /// An operation on an entry of a bucket.
    pub(in crate::nats) const KV_OPERATION: &str = "KV-Operation";

    /// `1` in the last message of the batch.
    #[cfg(feature = "outbox")]
    pub(in crate::nats) use async_nats::header::NATS_BATCH_COMMIT as BATCH_COMMIT;
    /// The atomic batch that the message belongs to.
    #[cfg(feature = "outbox")]
    pub(in crate::nats) use async_nats::header::NATS_BATCH_ID as BATCH_ID;
    /// Its number in the batch, from 1.
    #[cfg(feature = "outbox")]
    pub(in crate::nats) use async_nats::header::NATS_BATCH_SEQUENCE as BATCH_SEQUENCE;
    /// The message is stored only in this stream.
    #[cfg(feature = "outbox")]
    pub(in crate::nats) use async_nats::header::NATS_EXPECTED_STREAM as EXPECTED_STREAM;
}
