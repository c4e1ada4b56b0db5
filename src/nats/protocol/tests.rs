//! Every text of the wire as it is stored and sent: a rename by accident fails here.

use super::{
    api,
    codes::{self, status},
    headers::{self, dead, redrive, replay, retry, server},
    keys, names, subjects,
};

const EVENT: &str = "user.created";

fn same(found: &[(&str, &str)]) {
    for (text, expected) in found {
        assert_eq!(text, expected);
    }
}

#[test]
fn headers_of_tidings_are_as_they_are_stored() {
    same(&[
        (headers::RESERVED_PREFIX, "tidings-"),
        (&headers::extension("tenant"), "ce-tenant"),
        (dead::PREFIX, "tidings-dead-"),
        (dead::SUBSCRIBER, "tidings-dead-subscriber"),
        (dead::STREAM, "tidings-dead-stream"),
        (dead::SEQUENCE, "tidings-dead-sequence"),
        (dead::IDENTITY, "tidings-dead-identity"),
        (dead::SUBJECT, "tidings-dead-subject"),
        (dead::MESSAGE_ID, "tidings-dead-message-id"),
        (dead::CAUSE, "tidings-dead-cause"),
        (dead::ERROR, "tidings-dead-error"),
        (dead::FINGERPRINT, "tidings-dead-fingerprint"),
        (dead::ATTEMPTS, "tidings-dead-attempts"),
        (dead::AT, "tidings-dead-at"),
        (dead::FIRST_FAILED_AT, "tidings-dead-first-failed-at"),
        (dead::HANDLER, "tidings-dead-handler"),
        (dead::CONSUMER_SEQUENCE, "tidings-dead-consumer-sequence"),
        (dead::TRUNCATED, "tidings-dead-truncated"),
        (retry::PREFIX, "tidings-retry-"),
        (retry::FAILURES, "tidings-retry-failures"),
        (retry::DEFERRALS, "tidings-retry-deferrals"),
        (retry::FIRST_FAILED_AT, "tidings-retry-first-failed-at"),
        (retry::STREAM, "tidings-retry-stream"),
        (retry::SEQUENCE, "tidings-retry-sequence"),
        (retry::IDENTITY, "tidings-retry-identity"),
        (retry::MESSAGE_ID, "tidings-retry-message-id"),
        (retry::PARK, "tidings-retry-park"),
        (redrive::SEQUENCE, "tidings-redrive"),
        (redrive::COUNT, "tidings-redrives"),
        (redrive::EDITED, "tidings-redrive-edited"),
        (redrive::EDITED_BY, "tidings-redrive-edited-by"),
        (redrive::EDITED_AT, "tidings-redrive-edited-at"),
        (redrive::EDITED_FROM, "tidings-redrive-edited-from"),
        (replay::ID, "tidings-replay"),
        (replay::SHADOW, "tidings-replay-shadow"),
        (replay::FOLLOW_UPS, "tidings-replay-follow-ups"),
    ]);
    #[cfg(feature = "outbox")]
    assert_eq!(headers::REPUBLISHED, "tidings-republished");
}

#[test]
fn headers_of_the_server_are_as_it_reads_and_writes_them() {
    same(&[
        (server::PREFIX, "nats-"),
        (server::STREAM, "Nats-Stream"),
        (server::SUBJECT, "Nats-Subject"),
        (server::SEQUENCE, "Nats-Sequence"),
        (server::TIME, "Nats-Time-Stamp"),
        (server::PENDING, "Nats-Num-Pending"),
        (server::LAST_SEQUENCE, "Nats-Last-Sequence"),
        (server::UP_TO_SEQUENCE, "Nats-UpTo-Sequence"),
        (server::SIZE, "Nats-Msg-Size"),
        (server::MARKER_REASON, "Nats-Marker-Reason"),
        (server::PENDING_MESSAGES, "Nats-Pending-Messages"),
        (server::PENDING_BYTES, "Nats-Pending-Bytes"),
        (server::SCHEDULE, "Nats-Schedule"),
        (server::SCHEDULE_TARGET, "Nats-Schedule-Target"),
        (server::SCHEDULER, "Nats-Scheduler"),
        (server::TTL, "Nats-TTL"),
        (
            server::EXPECTED_LAST_SUBJECT_SEQUENCE.as_ref(),
            "Nats-Expected-Last-Subject-Sequence",
        ),
        (
            server::EXPECTED_LAST_SUBJECT_SEQUENCE_SUBJECT,
            "Nats-Expected-Last-Subject-Sequence-Subject",
        ),
        (server::KV_OPERATION, "KV-Operation"),
    ]);
    #[cfg(feature = "outbox")]
    same(&[
        (server::EXPECTED_STREAM.as_ref(), "Nats-Expected-Stream"),
        (server::BATCH_ID.as_ref(), "Nats-Batch-Id"),
        (server::BATCH_SEQUENCE.as_ref(), "Nats-Batch-Sequence"),
        (server::BATCH_COMMIT.as_ref(), "Nats-Batch-Commit"),
    ]);
}

#[test]
fn subjects_are_as_streams_take_them_and_permissions_name_them() {
    same(&[
        (subjects::DEAD_LETTERS, "dead-letter.>"),
        (
            &subjects::dead_letter("w", EVENT),
            "dead-letter.w.user.created",
        ),
        (&subjects::dead_letters_of("w"), "dead-letter.w.>"),
        (subjects::RETRIES, "tidings.retry.>"),
        (&subjects::retry("w", EVENT), "tidings.retry.w.user.created"),
        (
            &subjects::retry("w", subjects::UNPARK),
            "tidings.retry.w.UNPARK",
        ),
        (subjects::SCHEDULED_RETRIES, "tidings.retry-at.>"),
        (&subjects::scheduled_retry("w", "7"), "tidings.retry-at.w.7"),
        (&subjects::retries_of("w"), "tidings.*.w.>"),
        (subjects::STATUS, "tidings.status"),
        (&subjects::status_of("w"), "tidings.status.w"),
        (subjects::NO_LISTENER, "tidings.nobody"),
        (subjects::INBOX_PREFIX, "_INBOX"),
    ]);
    #[cfg(feature = "outbox")]
    same(&[
        (&subjects::relay_status("shop"), "tidings.status.relay.shop"),
        (&subjects::wake("shop"), "tidings.wake.shop"),
        (
            &subjects::lease_released("shop"),
            "tidings.wake.shop.released",
        ),
    ]);
}

#[test]
fn a_subject_is_read_as_it_was_written() {
    let letter = subjects::dead_letter("w", EVENT);
    assert_eq!(subjects::parts_of_dead_letter(&letter), ("w", EVENT));
    assert_eq!(subjects::parts_of_dead_letter("dead-letter.w"), ("w", ""));
    assert_eq!(subjects::parts_of_dead_letter(EVENT), ("", ""));
    assert_eq!(subjects::subscriber_of_dead_letter(&letter), Some("w"));
    assert_eq!(subjects::subscriber_of_dead_letter(EVENT), None);
    let retry = subjects::retry("w", EVENT);
    assert_eq!(subjects::parts_of_retry(&retry), Some(("w", EVENT)));
    assert_eq!(subjects::subscriber_of_retry(&retry), Some("w"));
    for other in [subjects::scheduled_retry("w", "7"), EVENT.to_owned()] {
        assert_eq!(subjects::parts_of_retry(&other), None);
        assert_eq!(subjects::subscriber_of_retry(&other), None);
    }
}

#[test]
fn subjects_of_the_jetstream_api_are_those_of_the_server() {
    same(&[
        (api::STREAM_NAMES, "$JS.API.STREAM.NAMES"),
        (&api::stream_info("S"), "$JS.API.STREAM.INFO.S"),
        (&api::stream_create("S"), "$JS.API.STREAM.CREATE.S"),
        (&api::stream_update("S"), "$JS.API.STREAM.UPDATE.S"),
        (&api::message_get("S"), "$JS.API.STREAM.MSG.GET.S"),
        (&api::message_delete("S"), "$JS.API.STREAM.MSG.DELETE.S"),
        (&api::direct_get("S"), "$JS.API.DIRECT.GET.S"),
        (
            &api::direct_get_last("S", EVENT),
            "$JS.API.DIRECT.GET.S.user.created",
        ),
        (&api::consumer_info("S", "c"), "$JS.API.CONSUMER.INFO.S.c"),
        (
            &api::consumer_create("S", "c"),
            "$JS.API.CONSUMER.CREATE.S.c",
        ),
        (
            &api::consumer_create_filtered("S", "c", EVENT),
            "$JS.API.CONSUMER.CREATE.S.c.user.created",
        ),
        (
            &api::consumer_delete("S", "c"),
            "$JS.API.CONSUMER.DELETE.S.c",
        ),
        (&api::consumer_list("S"), "$JS.API.CONSUMER.LIST.S"),
        (&api::consumer_pause("S", "c"), "$JS.API.CONSUMER.PAUSE.S.c"),
        (&api::consumer_reset("S", "c"), "$JS.API.CONSUMER.RESET.S.c"),
        (
            &api::consumer_next("S", "c"),
            "$JS.API.CONSUMER.MSG.NEXT.S.c",
        ),
        (
            &api::ack(&api::ack_prefix("S", "c"), (7, 3), 99),
            "$JS.ACK.S.c.1.7.3.99.0",
        ),
        (&api::any_ack("S", "c"), "$JS.ACK.S.c.1.1.1.1.0"),
    ]);
}

#[test]
fn names_and_keys_are_as_they_are_stored() {
    same(&[
        (names::DEAD_LETTERS, "DEAD_LETTERS"),
        (names::RETRIES, "RETRIES"),
        (names::BUCKET, "TIDINGS"),
        (names::BUCKET_STREAM, "KV_TIDINGS"),
        (names::metadata::SUBSCRIBER, "tidings.subscriber"),
        (names::metadata::STREAMS, "tidings.streams"),
        (names::metadata::REPLAY, "tidings.replay"),
        (names::metadata::KIND, "tidings.kind"),
        (names::metadata::READER, "tidings.reader"),
        (&names::reader("relay-shop", 2), "relay-shop-2"),
        (keys::ALL, "$KV.TIDINGS.>"),
        (&keys::subject("a.b"), "$KV.TIDINGS.a.b"),
        (&keys::lease("w"), "lease.w"),
        (&keys::lease_of_replay("w", &7), "lease.w.7"),
        (
            &keys::parked("w", "ada"),
            "parked.w.c2aa3ecac1f35e8ba2a963cd417c9a6e",
        ),
        (&keys::all_parked("w"), "parked.w.>"),
        (&keys::replay("w", &"*"), "replay.w.*"),
        (&keys::replay_progress("w", &7), "replay-progress.w.7"),
        (&keys::crash_marker("w", "7"), "crash-marker.w.7"),
    ]);
    assert_eq!(
        keys::owned_by("w"),
        ["lease.w", "lease.w.*", "parked.w", "parked.w.*"]
    );
    #[cfg(feature = "outbox")]
    assert_eq!(names::relay_readers("shop"), "relay-shop");
}

#[test]
fn a_key_is_read_as_it_was_written() {
    let key = keys::parked("w", "ada");
    let subject = keys::subject(&key);
    assert_eq!(keys::of_subject(&subject), Some(&*key));
    assert_eq!(keys::of_subject(EVENT), None);
    assert_eq!(keys::subscriber_of(&key), Some("w"));
    assert!(keys::is_parked(&key) && !keys::is_parked(&keys::lease("parked")));
}

/// As in `server/errors.json` of nats-server.
#[test]
fn codes_and_statuses_are_those_of_the_server() {
    for (code, expected) in [
        (codes::ACCOUNT_RESOURCES_EXCEEDED, 10002),
        (codes::CLUSTER_INCOMPLETE, 10004),
        (codes::CLUSTER_NO_PEERS, 10005),
        (codes::CLUSTER_NOT_AVAILABLE, 10008),
        (codes::CLUSTER_NOT_LEADER, 10009),
        (codes::CLUSTER_REQUIRED, 10010),
        (codes::CONSUMER_NAME_EXISTS, 10013),
        (codes::CONSUMER_NOT_FOUND, 10014),
        (codes::INSUFFICIENT_RESOURCES, 10023),
        (codes::CONSUMERS_LIMIT, 10026),
        (codes::STREAMS_LIMIT, 10027),
        (codes::MEMORY_EXCEEDED, 10028),
        (codes::NO_ACCOUNT, 10035),
        (codes::MESSAGE_NOT_FOUND, 10037),
        (codes::NOT_ENABLED_FOR_ACCOUNT, 10039),
        (codes::STORAGE_EXCEEDED, 10047),
        (codes::STREAM_NAME_EXISTS, 10058),
        (codes::STREAM_NOT_FOUND, 10059),
        (codes::SUBJECTS_OVERLAP, 10065),
        (codes::WRONG_LAST_SEQUENCE, 10071),
        (codes::NOT_ENABLED, 10076),
        (codes::CONSUMER_MUST_DELIVER_ALL, 10101),
        (codes::CONSUMER_IN_USE, 10105),
        (codes::STREAM_SEALED, 10109),
        (codes::MAX_BYTES_REQUIRED, 10113),
        (codes::MAX_ACK_PENDING_EXCEEDED, 10121),
        (codes::MAX_BYTES_EXCEEDED, 10122),
        (codes::CONSUMER_EXISTS, 10148),
        (codes::INACTIVE_THRESHOLD_EXCEEDED, 10153),
        (codes::WRONG_LAST_SEQUENCE_CONSTANT, 10164),
        (codes::INVALID_RESET, 10204),
    ] {
        assert_eq!(code, expected);
    }
    #[cfg(feature = "outbox")]
    for (code, expected) in [
        (codes::publish::MESSAGE_TOO_LARGE, 10054),
        (codes::publish::NOT_THE_EXPECTED_STREAM, 10060),
        (codes::publish::WRONG_LAST_MESSAGE_ID, 10070),
        (codes::publish::STORE_FAILED, 10077),
        (codes::publish::HEADERS_TOO_LARGE, 10097),
        (codes::publish::TTL_INVALID, 10165),
        (codes::publish::TTL_DISABLED, 10166),
        (codes::publish::BATCH_INCOMPLETE, 10176),
        (codes::publish::BATCH_TOO_LARGE, 10199),
        (codes::publish::BATCH_HAS_DUPLICATE, 10201),
    ] {
        assert_eq!(code, expected);
    }
    assert_eq!(status::END_OF_BATCH, 204);
    assert_eq!(status::NO_MESSAGES, 404);
    assert_eq!(status::EXPIRED, 408);
    assert_eq!(status::PULL_ENDED, 409);
}
