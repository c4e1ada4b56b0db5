//! What NATS stores of a subscriber, whether or not an instance runs it: its waiting retries, its dead letters, its parked
//! keys, and the time when its lease was last written. Only reads, and never draws conclusions.

use std::collections::BTreeMap;

use async_nats::Request;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde_json::json;

use crate::nats::{
    Bus, BusError, Park, REQUEST_TIMEOUT, StartFrom, StoredMessage,
    kv::park,
    protocol::{
        api, codes, headers::server, keys, names, retry, server_headers::of_server, subjects,
    },
};

/// The number of retries whose times are read.
const TIMES: u64 = 10_000;

/// The number of parked keys of a subscriber that are read, and of all entries.
const PARKS: usize = 3;
const ENTRIES: u32 = 60;

/// The waiting retries of a subscriber.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct RetrySigns {
    /// Retries that are due.
    pub(crate) due: u64,
    /// Retries that are not due yet.
    pub(crate) scheduled: u64,
    /// How many scheduled retries were read for their times.
    pub(crate) read: u64,
    /// The earliest and the latest due time of the retries that were read.
    pub(crate) next_at: Option<DateTime<Utc>>,
    pub(crate) farthest_at: Option<DateTime<Utc>>,
}

/// The lease of a subscriber, by its entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LeaseSign {
    /// Its holder writes it every two seconds; an instance that stops cleanly writes it a last time.
    pub(crate) written_at: DateTime<Utc>,
    /// Whether an instance held it then.
    pub(crate) is_held: bool,
}

impl Bus {
    /// The waiting retries of a subscriber, in the stream of retries.
    pub(crate) async fn retry_signs(
        &self,
        stream: &str,
        subscriber: &str,
    ) -> Result<RetrySigns, BusError> {
        let later = subjects::scheduled_retry(subscriber, ">");
        let mut signs = RetrySigns {
            due: self
                .count_of(stream, &subjects::retry(subscriber, ">"))
                .await?,
            scheduled: self.count_of(stream, &later).await?,
            ..RetrySigns::default()
        };
        let mut next = 1;
        while signs.read < TIMES.min(signs.scheduled) {
            let page = self.page(stream, &later, StartFrom::Sequence(next)).await?;
            let Some(last) = page.last() else { break };
            next = last.sequence.saturating_add(1);
            for kept in &page {
                signs.read += 1;
                signs.note(retry::due_at(kept));
            }
        }
        // More retries may have arrived meanwhile.
        signs.scheduled = signs.scheduled.max(signs.read);
        Ok(signs)
    }

    /// How many retries of each subscriber are due, whether or not it has a consumer.
    pub(crate) async fn due_by_subscriber(
        &self,
        stream: &str,
    ) -> Result<BTreeMap<String, u64>, BusError> {
        let subscriber_of = subjects::subscriber_of_retry;
        self.count_by_subscriber(stream, subjects::RETRIES, subscriber_of)
            .await
    }

    /// How many dead letters each subscriber has; empty when their stream is missing.
    pub(crate) async fn dead_letters_by_subscriber(
        &self,
    ) -> Result<BTreeMap<String, u64>, BusError> {
        let (stream, all) = (names::DEAD_LETTERS, subjects::DEAD_LETTERS);
        let subscriber_of = subjects::subscriber_of_dead_letter;
        match self.count_by_subscriber(stream, all, subscriber_of).await {
            Err(BusError::Refused {
                code: codes::STREAM_NOT_FOUND,
                ..
            }) => Ok(BTreeMap::new()),
            counted => counted,
        }
    }

    /// Counts the messages of these subjects by the subscriber, which the subject names.
    async fn count_by_subscriber(
        &self,
        stream: &str,
        subjects: &str,
        subscriber_of: fn(&str) -> Option<&str>,
    ) -> Result<BTreeMap<String, u64>, BusError> {
        #[derive(Deserialize)]
        struct Counted {
            state: Counts,
        }
        #[derive(Deserialize)]
        struct Counts {
            #[serde(default)]
            subjects: Option<BTreeMap<String, u64>>,
        }
        let subject = api::stream_info(stream);
        let wanted = json!({ "subjects_filter": subjects });
        let counted: Counted = self.api(&subject, &wanted).await?;
        let mut by_subscriber: BTreeMap<String, u64> = BTreeMap::new();
        for (subject, count) in counted.state.subjects.unwrap_or_default() {
            if let Some(subscriber) = subscriber_of(&subject) {
                let of_it = by_subscriber.entry(subscriber.to_owned()).or_default();
                *of_it = of_it.saturating_add(count);
            }
        }
        Ok(by_subscriber)
    }

    /// How many dead letters a subscriber has; `None` when their stream is missing.
    pub(crate) async fn dead_letter_count(
        &self,
        subscriber: &str,
    ) -> Result<Option<u64>, BusError> {
        let subject = subjects::dead_letters_of(subscriber);
        match self.count_of(names::DEAD_LETTERS, &subject).await {
            Ok(count) => Ok(Some(count)),
            Err(BusError::NoResponders { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The lease of an ordered subscriber; `None` when there is no entry.
    pub(crate) async fn lease_sign(&self, subscriber: &str) -> Result<Option<LeaseSign>, BusError> {
        #[derive(Deserialize)]
        struct Written {
            owner: Option<String>,
        }
        let subject = keys::subject(&keys::lease(subscriber));
        let kept = self.entry(&json!({ "last_by_subj": subject })).await?;
        let kept = kept.filter(|kept| !kept.payload.is_empty());
        Ok(kept.map(|kept| LeaseSign {
            written_at: kept.stored_at,
            is_held: serde_json::from_slice::<Written>(&kept.payload)
                .is_ok_and(|written| written.owner.is_some()),
        }))
    }

    /// The entries of the bucket that belong to a subscriber and are useless without it: leases and parked keys.
    /// Replays and crash markers end by themselves.
    pub(crate) async fn entries_of(&self, subscriber: &str) -> Result<Vec<String>, BusError> {
        let mut found = Vec::new();
        for of in keys::owned_by(subscriber) {
            let subjects = keys::subject(&of);
            let mut next = 1;
            while let Some(kept) = self
                .entry(&json!({ "seq": next, "next_by_subj": subjects }))
                .await?
            {
                next = kept.sequence.saturating_add(1);
                let key = keys::of_subject(&kept.subject);
                let key = key.filter(|_| !kept.payload.is_empty());
                found.extend(key.map(str::to_owned));
            }
        }
        Ok(found)
    }

    /// How many messages of a stream have one of these subjects. It reads only one message that the client can read,
    /// however many there are.
    async fn count_of(&self, stream: &str, subjects: &str) -> Result<u64, BusError> {
        /// The maximum number of unreadable messages that are skipped.
        const MOST: u64 = 32;
        let (mut from, mut passed) = (1, 0);
        loop {
            match self.count_since(stream, subjects, from).await {
                Err(error) if error.is_loss() && passed < MOST => {
                    let wanted = json!({ "seq": from, "next_by_subj": subjects });
                    let Some(raw) = self.raw(stream, &wanted).await? else {
                        return Ok(passed);
                    };
                    from = raw.sequence.saturating_add(1);
                    passed += 1;
                }
                counted => return counted.map(|count| count.saturating_add(passed)),
            }
        }
    }

    async fn count_since(&self, stream: &str, subjects: &str, from: u64) -> Result<u64, BusError> {
        let subject = api::direct_get(stream);
        let wanted = json!({ "seq": from, "next_by_subj": subjects, "batch": 1 });
        let request = Request::new()
            .payload(Bytes::from(wanted.to_string()))
            .timeout(Some(REQUEST_TIMEOUT));
        let message = self.answer(&subject, request).await?;
        // No message matches.
        if message
            .status
            .is_some_and(|status| status.as_u16() == codes::status::NO_MESSAGES)
        {
            return Ok(0);
        }
        let headers = message.headers.as_ref();
        let behind = headers.and_then(|headers| of_server(headers, server::PENDING));
        let behind = behind.and_then(|behind| behind.parse::<u64>().ok());
        behind
            .map(|behind| behind.saturating_add(1))
            .ok_or(BusError::Broken {
                subject,
                reason: "the answer does not say how many messages match".to_owned(),
            })
    }

    /// The first parked keys, and how many each subscriber has. It reads no more than so many, however many there are.
    pub(crate) async fn park_signs(&self) -> Result<BTreeMap<String, (u64, Vec<Park>)>, BusError> {
        fn subscriber_of(subject: &str) -> Option<&str> {
            keys::subscriber_of(keys::of_subject(subject)?)
        }
        let all = keys::subject(&keys::all_parked("*"));
        let counting = self.count_by_subscriber(names::BUCKET_STREAM, &all, subscriber_of);
        let counts = match counting.await {
            // The bucket was not needed yet.
            Err(BusError::Refused {
                code: codes::STREAM_NOT_FOUND,
                ..
            }) => return Ok(BTreeMap::new()),
            counted => counted?,
        };
        let (mut signs, mut read) = (BTreeMap::new(), 0);
        for (subscriber, mut count) in counts {
            let of_it = keys::subject(&keys::all_parked(&subscriber));
            let (mut next, mut parks) = (1, Vec::new());
            while parks.len() < PARKS && read < ENTRIES {
                let wanted = json!({ "seq": next, "next_by_subj": of_it });
                let Some(kept) = self.entry(&wanted).await? else {
                    break;
                };
                (next, read) = (kept.sequence.saturating_add(1), read + 1);
                match park::read(&kept, &subscriber).value() {
                    Some(park) => parks.push(park),
                    // An entry that was removed stays for a minute as an empty one.
                    None => count = count.saturating_sub(1),
                }
            }
            if !parks.is_empty() {
                signs.insert(subscriber, (count, parks));
            }
        }
        Ok(signs)
    }

    async fn entry(&self, wanted: &serde_json::Value) -> Result<Option<StoredMessage>, BusError> {
        match self.single(names::BUCKET_STREAM, wanted).await {
            // The bucket was not needed yet.
            Err(BusError::Refused {
                code: codes::STREAM_NOT_FOUND,
                ..
            }) => Ok(None),
            kept => kept,
        }
    }
}

impl RetrySigns {
    fn note(&mut self, due: Option<DateTime<Utc>>) {
        self.next_at = self.next_at.into_iter().chain(due).min();
        self.farthest_at = self.farthest_at.max(due);
    }
}
