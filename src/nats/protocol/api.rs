//! The subjects of the JetStream API, and of acks. Pure. Never sends anything.
//!
//! Permissions of users name these subjects: deploy/nats/permissions.conf lists those that each role needs.

use std::fmt::Display;

/// The limits of the account, and what it uses.
pub(crate) const ACCOUNT_INFO: &str = "$JS.API.INFO";

/// The streams that take a subject, or all.
pub(crate) const STREAM_NAMES: &str = "$JS.API.STREAM.NAMES";

/// The settings and the state of a stream.
pub(crate) fn stream_info(stream: &str) -> String {
    format!("$JS.API.STREAM.INFO.{stream}")
}

/// Creates a stream.
pub(in crate::nats) fn stream_create(stream: &str) -> String {
    format!("$JS.API.STREAM.CREATE.{stream}")
}

/// Changes the settings of a stream.
pub(in crate::nats) fn stream_update(stream: &str) -> String {
    format!("$JS.API.STREAM.UPDATE.{stream}")
}

/// Reads a message from the leader of a stream.
pub(crate) fn message_get(stream: &str) -> String {
    format!("$JS.API.STREAM.MSG.GET.{stream}")
}

/// Deletes a message from a stream.
pub(in crate::nats) fn message_delete(stream: &str) -> String {
    format!("$JS.API.STREAM.MSG.DELETE.{stream}")
}

/// Reads messages from any replica of a stream.
pub(in crate::nats) fn direct_get(stream: &str) -> String {
    format!("$JS.API.DIRECT.GET.{stream}")
}

/// Reads the last message of a subject from any replica of a stream. A permission can name the subject.
pub(crate) fn direct_get_last(stream: &str, subject: &str) -> String {
    format!("$JS.API.DIRECT.GET.{stream}.{subject}")
}

/// The settings and the state of a consumer.
pub(crate) fn consumer_info(stream: &str, consumer: &str) -> String {
    format!("$JS.API.CONSUMER.INFO.{stream}.{consumer}")
}

/// Creates or changes a consumer with any number of filters but one.
pub(crate) fn consumer_create(stream: &str, consumer: &str) -> String {
    format!("$JS.API.CONSUMER.CREATE.{stream}.{consumer}")
}

/// Creates or changes a consumer with one filter, which a permission can name.
pub(in crate::nats) fn consumer_create_filtered(
    stream: &str,
    consumer: &str,
    filter: &str,
) -> String {
    format!("$JS.API.CONSUMER.CREATE.{stream}.{consumer}.{filter}")
}

/// Deletes a consumer.
pub(in crate::nats) fn consumer_delete(stream: &str, consumer: &str) -> String {
    format!("$JS.API.CONSUMER.DELETE.{stream}.{consumer}")
}

/// The consumers of a stream, page by page.
pub(in crate::nats) fn consumer_list(stream: &str) -> String {
    format!("$JS.API.CONSUMER.LIST.{stream}")
}

/// Pauses a consumer, or ends its pause.
pub(in crate::nats) fn consumer_pause(stream: &str, consumer: &str) -> String {
    format!("$JS.API.CONSUMER.PAUSE.{stream}.{consumer}")
}

/// Resets a consumer to a sequence. From 2.14 on; an older server does not answer.
pub(crate) fn consumer_reset(stream: &str, consumer: &str) -> String {
    format!("$JS.API.CONSUMER.RESET.{stream}.{consumer}")
}

/// Requests messages from a consumer.
pub(crate) fn consumer_next(stream: &str, consumer: &str) -> String {
    format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}")
}

/// What the acks of a consumer begin with. A server with a domain inserts domain and account before the stream.
pub(in crate::nats) fn ack_prefix(stream: &str, consumer: &str) -> String {
    format!("$JS.ACK.{stream}.{consumer}")
}

/// The ack of one delivery: behind the prefix stand the number of deliveries, the sequence in the stream, that of the
/// consumer, the time in nanoseconds and the number of pending messages.
pub(in crate::nats) fn ack(
    prefix: &impl Display,
    (sequence, consumer_sequence): (u64, u64),
    nanos: i64,
) -> String {
    format!("{prefix}.1.{sequence}.{consumer_sequence}.{nanos}.0")
}

/// An ack of a consumer, to ask whether a user may publish it.
pub(crate) fn any_ack(stream: &str, consumer: &str) -> String {
    ack(&ack_prefix(stream, consumer), (1, 1), 1)
}
