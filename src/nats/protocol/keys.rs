//! The keys of the entries in the bucket: how each is written, and how it is read back. Pure. What the entries hold is
//! with their owners.

use std::fmt::Display;

use uuid::Uuid;

/// The subjects of all entries.
pub(in crate::nats) const ALL: &str = "$KV.TIDINGS.>";
const PREFIX: &str = "$KV.TIDINGS.";

const LEASE: &str = "lease";
const PARKED: &str = "parked";

/// The lease of an ordered subscriber.
pub(crate) fn lease(subscriber: &str) -> String {
    format!("{LEASE}.{subscriber}")
}

/// The lease of a replay of an ordered subscriber.
pub(crate) fn lease_of_replay(subscriber: &str, replay: &impl Display) -> String {
    format!("{LEASE}.{subscriber}.{replay}")
}

/// A parked key. An event's key may be any text; the key of an entry may not, so it has a hash of it.
pub(in crate::nats) fn parked(subscriber: &str, key: &str) -> String {
    let key = Uuid::new_v5(&Uuid::NAMESPACE_OID, key.as_bytes());
    format!("{PARKED}.{subscriber}.{}", key.simple())
}

/// The parked keys of a subscriber; `*` matches any.
pub(in crate::nats) fn all_parked(subscriber: &str) -> String {
    format!("{PARKED}.{subscriber}.>")
}

/// Whether an entry is a parked key.
pub(crate) fn is_parked(key: &str) -> bool {
    key.split('.').next() == Some(PARKED)
}

/// A replay; `*` matches any.
pub(crate) fn replay(subscriber: &str, id: &impl Display) -> String {
    format!("replay.{subscriber}.{id}")
}

/// The progress of a replay.
pub(in crate::nats) fn replay_progress(subscriber: &str, id: &impl Display) -> String {
    format!("replay-progress.{subscriber}.{id}")
}

/// Marks an event as one that may have killed its process.
pub(crate) fn crash_marker(subscriber: &str, event: &str) -> String {
    format!("crash-marker.{subscriber}.{event}")
}

/// The keys of the entries that are useless without their subscriber: leases and parked keys. Replays and crash markers
/// end by themselves.
pub(in crate::nats) fn owned_by(subscriber: &str) -> [String; 4] {
    [
        format!("{LEASE}.{subscriber}"),
        format!("{LEASE}.{subscriber}.*"),
        format!("{PARKED}.{subscriber}"),
        format!("{PARKED}.{subscriber}.*"),
    ]
}

/// The subscriber that an entry belongs to.
pub(crate) fn subscriber_of(key: &str) -> Option<&str> {
    key.split('.').nth(1)
}

/// The subject of an entry.
pub(crate) fn subject(key: &str) -> String {
    format!("{PREFIX}{key}")
}

/// The key of an entry, by its subject.
pub(in crate::nats) fn of_subject(subject: &str) -> Option<&str> {
    subject.strip_prefix(PREFIX)
}
