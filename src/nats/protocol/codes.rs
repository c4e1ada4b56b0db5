//! The numbers by which nats-server refuses: the error codes of its JetStream API, and the statuses of its messages.
//! No other file has such a number. Never decides what follows from one.
//!
//! The codes are those of `server/errors.json` of nats-server, and never change their meaning. A code without a version
//! is in every server that Tidings works with (2.12.1 and newer).

use crate::nats::BusErrorKind;

/// The account has used up its storage or memory.
pub(in crate::nats) const ACCOUNT_RESOURCES_EXCEEDED: u64 = 10002;
/// Not all servers of the cluster have answered.
pub(in crate::nats) const CLUSTER_INCOMPLETE: u64 = 10004;
/// No server of the cluster has room for the stream or the consumer.
pub(in crate::nats) const CLUSTER_NO_PEERS: u64 = 10005;
/// The cluster has no leader at the moment.
pub(in crate::nats) const CLUSTER_NOT_AVAILABLE: u64 = 10008;
/// The server that was asked does not lead the cluster.
pub(in crate::nats) const CLUSTER_NOT_LEADER: u64 = 10009;
/// The request needs a cluster, and the server is not in one, or not yet.
pub(in crate::nats) const CLUSTER_REQUIRED: u64 = 10010;
/// A consumer of this name exists, of another kind.
pub(in crate::nats) const CONSUMER_NAME_EXISTS: u64 = 10013;
/// The stream has no such consumer.
pub(in crate::nats) const CONSUMER_NOT_FOUND: u64 = 10014;
/// The server has used up what JetStream may use.
pub(in crate::nats) const INSUFFICIENT_RESOURCES: u64 = 10023;
/// The account or the stream may have no more consumers.
pub(in crate::nats) const CONSUMERS_LIMIT: u64 = 10026;
/// The account may have no more streams.
pub(in crate::nats) const STREAMS_LIMIT: u64 = 10027;
/// The server has used up the memory of JetStream.
pub(in crate::nats) const MEMORY_EXCEEDED: u64 = 10028;
/// The server does not know the account.
pub(in crate::nats) const NO_ACCOUNT: u64 = 10035;
/// The stream has no such message.
pub(in crate::nats) const MESSAGE_NOT_FOUND: u64 = 10037;
/// JetStream is off for the account.
pub(in crate::nats) const NOT_ENABLED_FOR_ACCOUNT: u64 = 10039;
/// The server has used up the storage of JetStream.
pub(in crate::nats) const STORAGE_EXCEEDED: u64 = 10047;
/// A stream of this name exists with another configuration.
pub(in crate::nats) const STREAM_NAME_EXISTS: u64 = 10058;
/// There is no such stream.
pub(in crate::nats) const STREAM_NOT_FOUND: u64 = 10059;
/// The subjects of the stream overlap with those of another one.
pub(in crate::nats) const SUBJECTS_OVERLAP: u64 = 10065;
/// The last sequence of the stream or the subject is not the expected one.
pub(in crate::nats) const WRONG_LAST_SEQUENCE: u64 = 10071;
/// JetStream is off on the server.
pub(in crate::nats) const NOT_ENABLED: u64 = 10076;
/// A consumer of a work queue must begin at its beginning: acknowledged messages leave it, so everything that is in it
/// is left to do.
pub(in crate::nats) const CONSUMER_MUST_DELIVER_ALL: u64 = 10101;
/// A consumer of this name exists and is in use.
pub(in crate::nats) const CONSUMER_IN_USE: u64 = 10105;
/// The stream is sealed.
pub(in crate::nats) const STREAM_SEALED: u64 = 10109;
/// The account wants `max_bytes` set for each stream.
pub(in crate::nats) const MAX_BYTES_REQUIRED: u64 = 10113;
/// `max_ack_pending` exceeds the limit of the server, the account or the stream.
pub(in crate::nats) const MAX_ACK_PENDING_EXCEEDED: u64 = 10121;
/// `max_bytes` exceeds what the account allows a stream.
pub(in crate::nats) const MAX_BYTES_EXCEEDED: u64 = 10122;
/// A consumer of this name exists with other settings.
pub(in crate::nats) const CONSUMER_EXISTS: u64 = 10148;
/// `inactive_threshold` exceeds the limit of the stream.
pub(in crate::nats) const INACTIVE_THRESHOLD_EXCEEDED: u64 = 10153;
/// As [`WRONG_LAST_SEQUENCE`], but its description does not name the sequence.
pub(in crate::nats) const WRONG_LAST_SEQUENCE_CONSTANT: u64 = 10164;
/// The consumer cannot be reset to this sequence. From 2.14 on.
pub(in crate::nats) const INVALID_RESET: u64 = 10204;

/// The codes that refuse a publish.
#[cfg(feature = "outbox")]
pub(in crate::nats) mod publish {
    /// The message exceeds `max_msg_size` of the stream.
    pub(in crate::nats) const MESSAGE_TOO_LARGE: u64 = 10054;
    /// The subject belongs to another stream than the message expects.
    pub(in crate::nats) const NOT_THE_EXPECTED_STREAM: u64 = 10060;
    /// The last message id of the stream is not the expected one.
    pub(in crate::nats) const WRONG_LAST_MESSAGE_ID: u64 = 10070;
    /// The stream could not store the message: its limits with `discard: new`, or its disk, as the description says.
    pub(in crate::nats) const STORE_FAILED: u64 = 10077;
    /// The headers exceed 65,535 bytes.
    pub(in crate::nats) const HEADERS_TOO_LARGE: u64 = 10097;
    /// The header `Nats-TTL` is invalid.
    pub(in crate::nats) const TTL_INVALID: u64 = 10165;
    /// The stream does not allow `Nats-TTL`.
    pub(in crate::nats) const TTL_DISABLED: u64 = 10166;
    /// The server has not received every member of the atomic batch.
    pub(in crate::nats) const BATCH_INCOMPLETE: u64 = 10176;
    /// The atomic batch has more messages than the server allows.
    pub(in crate::nats) const BATCH_TOO_LARGE: u64 = 10199;
    /// The atomic batch has an id that the stream already has, or one id twice.
    pub(in crate::nats) const BATCH_HAS_DUPLICATE: u64 = 10201;
}

/// The statuses of messages that end a request, and have no payload.
pub(in crate::nats) mod status {
    /// The end of a page of a direct get.
    pub(in crate::nats) const END_OF_BATCH: u16 = 204;
    /// There is no message.
    pub(in crate::nats) const NO_MESSAGES: u16 = 404;
    /// A pull has expired.
    pub(in crate::nats) const EXPIRED: u16 = 408;
    /// A pull has ended for the reason in its description.
    pub(in crate::nats) const PULL_ENDED: u16 = 409;
}

/// What a code of the JetStream API means for a caller.
pub(in crate::nats) fn kind_of(code: u64) -> BusErrorKind {
    match code {
        STREAM_NOT_FOUND => BusErrorKind::StreamNotFound,
        CONSUMER_NOT_FOUND => BusErrorKind::ConsumerNotFound,
        MESSAGE_NOT_FOUND => BusErrorKind::MessageNotFound,
        CLUSTER_INCOMPLETE | CLUSTER_NOT_AVAILABLE | CLUSTER_NOT_LEADER | CLUSTER_REQUIRED => {
            BusErrorKind::Unavailable
        }
        NO_ACCOUNT | NOT_ENABLED_FOR_ACCOUNT | NOT_ENABLED => BusErrorKind::NotEnabled,
        WRONG_LAST_SEQUENCE | WRONG_LAST_SEQUENCE_CONSTANT => BusErrorKind::WrongLastSequence,
        ACCOUNT_RESOURCES_EXCEEDED
        | INSUFFICIENT_RESOURCES
        | MEMORY_EXCEEDED
        | STORAGE_EXCEEDED => BusErrorKind::StorageFull,
        CONSUMERS_LIMIT | STREAMS_LIMIT => BusErrorKind::LimitReached,
        STREAM_NAME_EXISTS | CONSUMER_NAME_EXISTS | CONSUMER_IN_USE | CONSUMER_EXISTS => {
            BusErrorKind::NameInUse
        }
        SUBJECTS_OVERLAP => BusErrorKind::SubjectsOverlap,
        MAX_BYTES_REQUIRED => BusErrorKind::MaxBytesRequired,
        INVALID_RESET => BusErrorKind::InvalidReset,
        _ => BusErrorKind::Other,
    }
}
