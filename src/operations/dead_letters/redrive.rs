//! Redrives a dead letter to the subscriber that failed it. Never chooses which one, or when.
//!
//! The event is published to the subject from which the subscriber takes its retries. Only when that is confirmed is
//! the dead letter deleted. A process that dies between the two leaves the dead letter. Redriving it again changes
//! nothing: the message's id is derived from the dead letter, so the retry stream recognizes the duplicate within its
//! window.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde::de::IgnoredAny;
use sha2::{Digest, Sha256};
use tidings_contract::wire;
use uuid::Uuid;

use super::{DeadLettersError, StoredDeadLetter, retried, stream};
use crate::{
    nats::{
        Bus, BusError, StoredMessage, StreamInfo, headers, is_reserved,
        redrive::{self, Edited, Redriven},
        stream::streams,
        subjects,
    },
    observer::{DeadLetterEnd, Observation, Observers},
};

/// Redrives dead letters, one after the other, in the order of the calls. The caller sets the pace.
#[derive(Debug, Clone)]
pub struct Redriver {
    pub(super) bus: Bus,
    /// Distinguishes this dead-letter stream from another one, whose dead letters have the same sequences.
    incarnation: String,
    takers: Arc<Mutex<Option<Takers>>>,
    observers: Observers,
}

/// The subscribers that take retries, and when the server reported them.
type Takers = (Instant, BTreeSet<String>);

/// How long the list of these subscribers is cached.
const KNOWN: Duration = Duration::from_secs(1);

/// Another payload for one dead letter, and who edited it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Edit {
    /// The payload: JSON.
    pub payload: Bytes,
    /// The name of the editor.
    pub by: String,
    /// When it was edited.
    pub at: DateTime<Utc>,
}

/// The message that is published for a dead letter.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Redrive {
    subject: String,
    pub(super) headers: Vec<(String, String)>,
    payload: Bytes,
}

impl Redrive {
    /// Checks that its subscriber will be able to read it as an event.
    pub(super) fn read(&self, subject: &str) -> Result<(), wire::ReadError> {
        let headers = self.headers.iter();
        let headers = headers.map(|(name, value)| (&**name, &**value));
        match wire::read(subject, headers, self.payload.clone(), String::new) {
            // An invalid name is not an error here.
            Err(error @ wire::ReadError::Malformed(_)) => Err(error),
            _ => Ok(()),
        }
    }

    fn let_pass(&mut self, park: Option<Uuid>) {
        let pass = park.map(|park| (headers::retry::PARK.to_owned(), park.to_string()));
        self.headers.extend(pass);
    }
}

impl Edit {
    /// A payload, edited now.
    #[must_use]
    pub fn new(payload: impl Into<Bytes>, by: impl Into<String>) -> Self {
        Self {
            payload: payload.into(),
            by: by.into(),
            at: Utc::now(),
        }
    }
}

impl Redriver {
    pub(super) async fn open(bus: &Bus) -> Result<Self, DeadLettersError> {
        let upkept = upkeep(bus, stream()).await?;
        upkeep(bus, streams::StreamSpec::retries().name).await?;
        if !upkept.can_remove {
            return Err(DeadLettersError::Undeletable { stream: stream() });
        }
        Ok(Self {
            bus: bus.clone(),
            incarnation: upkept.incarnation,
            takers: Arc::default(),
            observers: Observers::default(),
        })
    }

    /// Returns an event to the subscriber that failed it, and deletes the dead letter when that is confirmed. The event
    /// keeps its id, its lineage and its headers; its attempts count from 1 again. Of a parked key only the first dead
    /// letter can be redriven by itself; [`Redriver::redrive_key`] redrives all.
    ///
    /// # Errors
    /// [`DeadLettersError::Impossible`] when the dead letter names no subject or has lost its payload,
    /// [`DeadLettersError::NoSubscriber`] when its subscriber has no consumer, [`DeadLettersError::Gone`] when another
    /// process has redriven or discarded it, else [`DeadLettersError::Bus`]. The dead letter stays, and can be redriven
    /// again.
    ///
    /// # Cancel safety
    /// When the future is dropped, the event may have been published while the dead letter is still there. Redriving it
    /// again within the stream's window (2 min) changes nothing.
    pub async fn redrive(&self, letter: &StoredDeadLetter) -> Result<(), DeadLettersError> {
        self.bring_back(letter, None).await
    }

    /// Redrives the event with another payload. The editor, the time and the SHA-256 of the previous payload are in the
    /// headers of the event (`tidings-redrive-edited-by`, `-at`, `-from`), and stay there when it fails again.
    ///
    /// # Errors
    /// As [`Redriver::redrive`]; also [`DeadLettersError::Impossible`] when the payload is not JSON.
    ///
    /// # Cancel safety
    /// As [`Redriver::redrive`], when it is called again with the same payload. Another payload is another event: the
    /// subscriber may handle both.
    pub async fn redrive_edited(
        &self,
        letter: &StoredDeadLetter,
        edit: &Edit,
    ) -> Result<(), DeadLettersError> {
        self.bring_back(letter, Some(edit)).await
    }

    /// Checks whether a dead letter can be redriven as it is. Changes nothing.
    ///
    /// # Errors
    /// As [`Redriver::redrive`] would fail.
    pub async fn check(&self, letter: &StoredDeadLetter) -> Result<(), DeadLettersError> {
        self.prepare(letter, None).await?;
        self.check_taken(&letter.subscriber).await
    }

    async fn bring_back(
        &self,
        letter: &StoredDeadLetter,
        edit: Option<&Edit>,
    ) -> Result<(), DeadLettersError> {
        let mut redrive = self.prepare(letter, edit).await?;
        redrive.let_pass(self.pass(letter).await?);
        self.carry_out(letter, &redrive).await
    }

    /// Redrives a dead letter of a parked key, wherever it is in the key's order.
    pub(super) async fn redrive_passing(
        &self,
        letter: &StoredDeadLetter,
        park: Uuid,
    ) -> Result<(), DeadLettersError> {
        let mut redrive = self.prepare(letter, None).await?;
        redrive.let_pass(Some(park));
        self.carry_out(letter, &redrive).await
    }

    async fn carry_out(
        &self,
        letter: &StoredDeadLetter,
        redrive: &Redrive,
    ) -> Result<(), DeadLettersError> {
        let sequence = letter.sequence;
        let Redrive {
            subject,
            headers,
            payload,
        } = redrive;
        // The dead letter was read earlier: another process may have redriven or discarded it, and the window may be
        // over.
        let dead_letters = stream();
        let kept = retried(|| self.bus.kept(&dead_letters, sequence)).await?;
        if kept.is_none_or(|kept| kept.stored_at != letter.stored_at) {
            return Err(DeadLettersError::Gone { sequence });
        }
        self.check_taken(&letter.subscriber).await?;
        let retries = streams::StreamSpec::retries().name;
        let storing = || self.bus.store_again(&retries, subject, headers, payload);
        retried(storing).await?;
        let deleted = retried(|| self.bus.remove(&dead_letters, sequence)).await;
        deleted.map_err(|error| match error {
            BusError::Refused { .. } => DeadLettersError::Undeletable { stream: stream() },
            error => error.into(),
        })?;
        let end = DeadLetterEnd::Redriven;
        self.observers
            .tell(&Observation::DeadLetter(letter.facts(), end));
        Ok(())
    }

    async fn prepare(
        &self,
        letter: &StoredDeadLetter,
        edit: Option<&Edit>,
    ) -> Result<Redrive, DeadLettersError> {
        let impossible = |reason: &str| DeadLettersError::Impossible {
            sequence: letter.sequence,
            reason: reason.to_owned(),
        };
        if letter.subscriber.is_empty() || letter.event_subject.is_empty() {
            return Err(impossible("it names no subscriber and event"));
        }
        let lost = letter.truncated.as_deref().unwrap_or_default();
        let original = match lost.contains("headers") || lost.contains("payload") {
            true => Some(self.original(letter).await?.ok_or_else(|| {
                impossible(
                    "it was too large to be kept whole, and its event is gone from the stream",
                )
            })?),
            false => None,
        };
        let redrive = redrive(letter, original.as_ref(), edit, &self.incarnation);
        if edit.is_some() && serde_json::from_slice::<IgnoredAny>(&redrive.payload).is_err() {
            return Err(impossible("the payload is not JSON"));
        }
        if edit.is_some()
            && let Err(reason) = redrive.read(&letter.event_subject)
        {
            return Err(impossible(&reason.to_string()));
        }
        let headers: usize = redrive.headers.iter().map(size).sum();
        if headers + FRAME > wire::MAX_HEADER_BYTES
            || headers + FRAME + redrive.payload.len() > self.bus.max_payload()
        {
            return Err(impossible("it is larger than the server takes"));
        }
        Ok(redrive)
    }

    async fn check_taken(&self, subscriber: &str) -> Result<(), DeadLettersError> {
        match self.is_taken(subscriber).await? {
            true => Ok(()),
            false => Err(DeadLettersError::NoSubscriber {
                subscriber: subscriber.to_owned(),
            }),
        }
    }

    /// Whether a consumer takes the retries of a subscriber. True when the credentials do not allow the lookup.
    async fn is_taken(&self, subscriber: &str) -> Result<bool, DeadLettersError> {
        let known = || self.takers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, takers)) = &*known()
            && at.elapsed() < KNOWN
        {
            return Ok(takers.contains(subscriber));
        }
        let retries = streams::StreamSpec::retries().name;
        let takers = match retried(|| self.bus.durables_of(&retries)).await {
            Ok(takers) => takers,
            Err(error @ BusError::Denied { .. }) => {
                tracing::warn!(subscriber, %error, "consumer list denied: redriven events may have no consumer");
                return Ok(true);
            }
            Err(error) => return Err(error.into()),
        };
        let is_taken = takers.contains(subscriber);
        *known() = Some((Instant::now(), takers));
        Ok(is_taken)
    }

    /// The original event, while its stream still has it.
    async fn original(
        &self,
        letter: &StoredDeadLetter,
    ) -> Result<Option<StoredMessage>, DeadLettersError> {
        let (Some(stream), Some(sequence)) = (&letter.stream, letter.stream_sequence) else {
            return Ok(None);
        };
        // Any publisher may have written the dead letter, so the name may be invalid.
        if streams::StreamSpec::new(stream.as_str(), []).is_err() {
            return Ok(None);
        }
        let kept = retried(|| self.bus.kept(stream, sequence)).await;
        let kept = match kept {
            Ok(kept) => kept,
            // The stream no longer exists.
            Err(BusError::Refused { .. }) => None,
            Err(error) => return Err(error.into()),
        };
        let is_it = |kept: &StoredMessage| {
            let stored_at = kept.stored_at.timestamp_nanos_opt().unwrap_or_default();
            let identity = format!("{stream}/{sequence}/{stored_at}");
            letter.identity.as_ref() == Some(&identity)
        };
        Ok(kept.filter(is_it))
    }
}

async fn upkeep(bus: &Bus, stream: String) -> Result<StreamInfo, DeadLettersError> {
    let upkeep = retried(|| bus.upkeep(&stream)).await?;
    upkeep.ok_or(DeadLettersError::NoStream { stream })
}

const FRAME: usize = "NATS/1.0\r\n\r\n".len();

fn size((name, value): &(String, String)) -> usize {
    name.len() + value.len() + ": \r\n".len()
}

/// Builds the message that redrives a dead letter.
pub(super) fn redrive(
    letter: &StoredDeadLetter,
    original: Option<&StoredMessage>,
    edit: Option<&Edit>,
    incarnation: &str,
) -> Redrive {
    let before = original.map_or(&letter.payload, |original| &original.payload);
    let sequence = letter.sequence;
    let identity = letter.identity.as_deref().unwrap_or_default();
    let mut id = redrive::message_id(incarnation, sequence, identity);
    let mut headers: Vec<(String, String)> = Vec::new();
    // The event's own headers come from the event; those of an earlier edit or of its replay come from the dead letter.
    let of_event = original.map_or(&letter.headers, |original| &original.headers);
    // The `tidings-` headers in the event's own message were never trusted.
    let is_believed = |name: &str| original.is_none() || !is_reserved(name);
    let of_event = of_event.iter().filter(|(name, _)| is_believed(name));
    let history = original.iter().flat_map(|_| letter.headers.iter());
    let history = history.filter(|(name, _)| is_reserved(name));
    for (name, value) in of_event.chain(history) {
        if redrive::is_carried(name) {
            headers.push((name.clone(), value.clone()));
        }
    }
    if let Some(edit) = edit {
        headers.retain(|(name, _)| !redrive::is_of_edit(name));
        reads_as_json(&mut headers);
        id += &format!("/{}", sha256(&edit.payload));
        let edited = Edited {
            by: edit.by.clone(),
            at: edit.at,
            from: sha256(before),
        };
        headers.extend(edited.headers());
    }
    let message_id = letter.header(headers::dead::MESSAGE_ID).or_else(|| {
        let mut own = original?.headers.iter();
        own.find_map(|(name, value)| (name == wire::MESSAGE_ID).then_some(&**value))
    });
    let redriven = Redriven {
        sequence,
        count: letter.redrives.saturating_add(1),
        stream: letter.stream.as_deref(),
        stream_sequence: letter.stream_sequence,
        identity: letter.identity.as_deref(),
        message_id,
    };
    headers.extend(redriven.headers(id));
    Redrive {
        subject: subjects::retry(&letter.subscriber, &letter.event_subject),
        headers,
        payload: edit.map_or(before, |edit| &edit.payload).clone(),
    }
}

/// An edited payload is JSON: the whole wrapper of an event in structured mode, else the event itself.
fn reads_as_json(headers: &mut Vec<(String, String)>) {
    headers.retain(|(name, _)| !name.eq_ignore_ascii_case("content-encoding"));
    for (name, value) in headers {
        let is_type = name.eq_ignore_ascii_case("content-type");
        let is_wrapper = || {
            wire::is_in_payload(value) && value.to_ascii_lowercase().contains("cloudevents+json")
        };
        if is_type && wire::is_in_payload(value) && !is_wrapper() {
            *value = "application/json".to_owned();
        }
    }
}

fn sha256(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}
