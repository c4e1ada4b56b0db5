//! The entries of parked keys, in the bucket of the workers, and the question whether a key may be unparked: the state
//! that workers and redrives share. Never decides that a key is parked or not.
//!
//! Entries are requested from the stream's leader: with a replica that lags, an event would overtake the parked ones.

use std::time::Duration;

use async_nats::HeaderMap;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tidings_contract::wire;
use uuid::Uuid;

use super::state::read_entry;
use crate::nats::{
    BadEntry, Bus, BusError, Holds, StoredMessage,
    protocol::{codes, keys, names, subjects},
};

/// How long a removed entry remains as an empty entry.
const EMPTY: Duration = Duration::from_secs(60);

/// A key whose events become dead letters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Park {
    /// Differs whenever another event has parked the key.
    pub(crate) id: Uuid,
    pub(crate) key: String,
    pub(crate) since: DateTime<Utc>,
    pub(crate) head: Head,
    /// The redrive that may ask whether the key may be unparked.
    pub(crate) redrive: Option<Uuid>,
}

/// The event that has parked a key, and the reason, for a reader who finds the entry without the dead letter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Head {
    pub(crate) life: String,
    pub(crate) stream: String,
    pub(crate) sequence: u64,
    pub(crate) cause: String,
    pub(crate) error: String,
    pub(crate) attempts: u32,
    pub(crate) first_failed_at: Option<DateTime<Utc>>,
}

/// Asks, after all redriven events of a key, whether the key may be unparked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Question {
    pub(crate) key: String,
    pub(crate) park: Uuid,
    /// Valid as long as this is the redrive of the park.
    pub(crate) redrive: Uuid,
    /// Up to this sequence there is no dead letter of the key.
    pub(crate) after: u64,
}

impl Question {
    /// Reads it from a message of the retries.
    pub(in crate::nats) fn of(message: &async_nats::Message) -> Option<Self> {
        let is_one = message.subject.as_str() == subjects::UNPARK;
        let question = is_one.then(|| serde_json::from_slice(&message.payload))?;
        question.ok()
    }
}

impl Bus {
    /// The parked keys with their subscribers, of one subscriber or of all; and the entries that cannot be read.
    pub(crate) async fn parks(
        &self,
        subscriber: Option<&str>,
    ) -> Result<(Vec<(String, Park)>, Vec<BadEntry>), BusError> {
        let subjects = keys::subject(&keys::all_parked(subscriber.unwrap_or("*")));
        let (mut parks, mut bad, mut after) = (Vec::new(), Vec::new(), 0_u64);
        while let Some(kept) = self
            .mark_at(&json!({ "seq": after.saturating_add(1), "next_by_subj": subjects }))
            .await?
        {
            after = kept.sequence;
            let subscriber = keys::of_subject(&kept.subject).and_then(keys::subscriber_of);
            let subscriber = subscriber.unwrap_or_default().to_owned();
            match read(&kept, &subscriber) {
                Holds::Value(park) => parks.push((subscriber, park)),
                Holds::Nothing => {}
                Holds::Bad(entry) => bad.push(entry),
            }
        }
        Ok((parks, bad))
    }

    /// Whether a key is parked, with the revision of its entry.
    pub(crate) async fn park_of(
        &self,
        subscriber: &str,
        key: &str,
    ) -> Result<(u64, Option<Park>), BusError> {
        let subject = keys::subject(&keys::parked(subscriber, key));
        let kept = self.mark_at(&json!({ "last_by_subj": subject })).await?;
        Ok(kept.map_or((0, None), |kept| {
            (kept.sequence, read(&kept, subscriber).value())
        }))
    }

    /// Writes an entry over the revision that was seen; false when another client has written since.
    pub(crate) async fn write_park(
        &self,
        subscriber: &str,
        park: &Park,
        seen: u64,
    ) -> Result<bool, BusError> {
        // Texts, numbers and times always serialise.
        let value = serde_json::to_vec(park).unwrap_or_default().into();
        let key = keys::parked(subscriber, &park.key);
        Ok(self.write_state(&key, value, seen).await?.is_some())
    }

    /// Removes an entry; false when another client has written since.
    pub(crate) async fn remove_park(
        &self,
        subscriber: &str,
        key: &str,
        seen: u64,
    ) -> Result<bool, BusError> {
        let key = keys::parked(subscriber, key);
        let writing = self.write_state_for(Some(EMPTY), &key, Bytes::new(), seen);
        Ok(writing.await?.is_some())
    }

    /// Publishes a question after the redriven events.
    pub(crate) async fn ask_to_go_on(
        &self,
        subscriber: &str,
        question: &Question,
    ) -> Result<(), BusError> {
        let payload = serde_json::to_vec(question).unwrap_or_default().into();
        let subject = subjects::retry(subscriber, subjects::UNPARK);
        let storing = self.store(subject, HeaderMap::new(), payload);
        storing.await.map(drop)
    }

    /// Whether a dead letter of a key comes after a sequence, requested from the leader.
    pub(crate) async fn is_letter_after(
        &self,
        subscriber: &str,
        key: &str,
        mut after: u64,
    ) -> Result<bool, BusError> {
        let subjects = subjects::dead_letters_of(subscriber);
        loop {
            let wanted = json!({ "seq": after.saturating_add(1), "next_by_subj": subjects });
            let Some(kept) = self.single(names::DEAD_LETTERS, &wanted).await? else {
                return Ok(false);
            };
            if key_of(&kept, subscriber).as_deref() == Some(key) {
                return Ok(true);
            }
            after = kept.sequence;
        }
    }

    /// The sequence of a subscriber's last dead letter, requested from the leader; 0 when there is none.
    pub(crate) async fn last_letter(&self, subscriber: &str) -> Result<u64, BusError> {
        let wanted = json!({ "last_by_subj": subjects::dead_letters_of(subscriber) });
        let last = self.single(names::DEAD_LETTERS, &wanted).await?;
        Ok(last.map_or(0, |kept| kept.sequence))
    }

    async fn mark_at(&self, wanted: &serde_json::Value) -> Result<Option<StoredMessage>, BusError> {
        match self.single(names::BUCKET_STREAM, wanted).await {
            // No key was parked yet.
            Err(BusError::Refused {
                code: codes::STREAM_NOT_FOUND,
                ..
            }) => Ok(None),
            kept => kept,
        }
    }
}

/// An entry parks only the key that it is named after; a removed or unreadable entry parks nothing.
pub(in crate::nats) fn read(kept: &StoredMessage, subscriber: &str) -> Holds<Park> {
    read_entry(kept, |park: &Park| {
        let is_its = kept.subject == keys::subject(&keys::parked(subscriber, &park.key));
        (!is_its).then(|| "it is named after another key".to_owned())
    })
}

fn key_of(letter: &StoredMessage, subscriber: &str) -> Option<String> {
    let (of, subject) = subjects::parts_of_dead_letter(&letter.subject);
    if of != subscriber {
        return None;
    }
    let headers = letter.headers.iter();
    let headers = headers.map(|(name, value)| (&**name, &**value));
    let envelope = wire::read(subject, headers, letter.payload.clone(), String::new).ok()?;
    envelope.key().map(str::to_owned)
}
