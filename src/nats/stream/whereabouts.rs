//! Finds the dead letter of an event that was dead-lettered before, according to the note in its handler's database.
//! Never stores a dead letter, and never decides that an event becomes one.
//!
//! If a dead letter is not where it was stored, it was redriven or discarded, as long as the stream is the same. If an
//! older copy of the stream has replaced it (a restored disk, a power failure), the dead letter is lost with everything
//! that was stored since, and no other copy of the event exists.

use chrono::{DateTime, Utc};
use serde_json::json;

use crate::{
    handler::memory::{Noted, Whereabouts},
    nats::{
        Bus, BusError, StoredMessage,
        consume::delivery::AckHandle,
        protocol::{
            authorship::count,
            dead_letter::CLOCKS_DIFFER,
            headers::{dead, redrive, replay, retry},
            names, position, subjects,
        },
    },
    policy::start::shifted,
};

impl AckHandle {
    /// Looks for the dead letter of the noted event.
    pub(in crate::nats) async fn find_letter(
        &self,
        noted: &Noted,
    ) -> Result<Whereabouts, BusError> {
        let is_known = match noted.letter {
            None if noted.is_this => {
                let letter = self.dead_letter_message(&noted.why);
                return Ok(match letter.stored_since(self.bus(), noted.at).await? {
                    Some(letter) => Whereabouts::Known(Some(letter)),
                    None => Whereabouts::Lost,
                });
            }
            // The other delivery stores the dead letter, if it is redelivered.
            None => self.comes(noted).await? || self.is_held(noted).await?,
            // The note is from a version that did not record sequences of dead letters.
            Some(0) => true,
            Some(letter) => !self.is_set_back(letter, noted).await? || self.is_held(noted).await?,
        };
        Ok(match is_known {
            true => Whereabouts::Known(None),
            false => Whereabouts::Lost,
        })
    }

    /// Whether the stream of dead letters was restored to a state before a dead letter that it had stored.
    async fn is_set_back(&self, letter: u64, noted: &Noted) -> Result<bool, BusError> {
        let stream = names::DEAD_LETTERS;
        if let Some(kept) = self.bus().kept(stream, letter).await? {
            return Ok(!self.is_letter_of(&kept, noted));
        }
        // In that case, messages that were stored later lie before its sequence.
        let since = shifted(noted.at, CLOCKS_DIFFER);
        let behind = json!({ "seq": letter.saturating_add(1), "next_by_subj": ">" });
        if self.bus().single(stream, &behind).await?.is_some() {
            return self.bus().is_newer_before(stream, letter, since).await;
        }
        match self.bus().upkeep(stream).await {
            Ok(upkeep) => Ok(upkeep.is_none_or(|upkeep| upkeep.last_sequence < letter)),
            Err(error @ BusError::Denied { .. }) => {
                let (subscriber, sequence) = (self.subscriber(), noted.sequence);
                tracing::warn!(
                    subscriber,
                    sequence,
                    %error,
                    "dead letter lookup denied: whether it was redriven, discarded or lost is not known"
                );
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    fn is_letter_of(&self, kept: &StoredMessage, noted: &Noted) -> bool {
        let sequence = noted.sequence.to_string();
        kept.subject == self.dead_letter_message(&noted.why).stored_under()
            && header(kept, dead::STREAM) == Some(&noted.stream)
            && header(kept, dead::SEQUENCE) == Some(&sequence)
            && header(kept, redrive::COUNT).map_or(0, count) == noted.redrives
    }

    /// Whether the message that was dead-lettered will be delivered; false if it is this message.
    async fn comes(&self, noted: &Noted) -> Result<bool, BusError> {
        if self.first_stored() == (&noted.stream, noted.sequence) {
            return Ok(false);
        }
        let kept = match self.bus().kept(&noted.stream, noted.sequence).await {
            // Its stream does not exist any more.
            Err(BusError::Refused { .. }) => None,
            kept => kept?,
        };
        Ok(kept.is_some_and(|kept| kept.stored_at == noted.stored_at))
    }

    /// Whether a dead letter of the event, or another retry of it, is stored.
    async fn is_held(&self, noted: &Noted) -> Result<bool, BusError> {
        let subject = &self.message().subject;
        let dead_letters = self.dead_letter_message(&noted.why).stored_under();
        let waiting = subjects::scheduled_retry(self.subscriber(), ">");
        let due = subjects::retry(self.subscriber(), subject);
        let identities = [
            self.identity().into_owned(),
            position::identity(&noted.stream, noted.sequence, noted.stored_at),
        ];
        for (stream, subjects, about) in [
            (names::DEAD_LETTERS, dead_letters, dead::IDENTITY),
            (names::RETRIES, due, retry::IDENTITY),
            (names::RETRIES, waiting, retry::IDENTITY),
        ] {
            let is_it = |kept: &StoredMessage| {
                let replay = self.replay_tag().map(|tag| tag.id.to_string());
                let has = header(kept, about);
                has.is_some_and(|has| identities.iter().any(|identity| identity == has))
                    && header(kept, replay::ID) == replay.as_deref()
                    && !(stream == names::RETRIES && self.is_retry_at(kept.sequence))
            };
            if self.bus().has(stream, &subjects, is_it).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

impl Bus {
    /// Whether a stream has such a message. One by one, because a worker may only query the leader, which is always up
    /// to date.
    async fn has(
        &self,
        stream: &str,
        subjects: &str,
        is_it: impl Fn(&StoredMessage) -> bool,
    ) -> Result<bool, BusError> {
        let mut next = 1;
        loop {
            let wanted = json!({ "seq": next, "next_by_subj": subjects });
            let Some(kept) = self.single(stream, &wanted).await? else {
                return Ok(false);
            };
            if is_it(&kept) {
                return Ok(true);
            }
            next = kept.sequence.saturating_add(1);
        }
    }

    /// Whether a message before a sequence was stored after a time. Times ascend with sequences, so a binary search for
    /// the last message before the sequence is enough.
    async fn is_newer_before(
        &self,
        stream: &str,
        before: u64,
        since: DateTime<Utc>,
    ) -> Result<bool, BusError> {
        let (mut from, mut to) = (1, before);
        while from < to {
            let middle = from + (to - from) / 2;
            let wanted = json!({ "seq": middle, "next_by_subj": ">" });
            match self.single(stream, &wanted).await? {
                Some(kept) if kept.sequence < before && kept.stored_at >= since => return Ok(true),
                Some(kept) if kept.sequence < before => from = kept.sequence.saturating_add(1),
                _ => to = middle,
            }
        }
        Ok(false)
    }
}

fn header<'a>(kept: &'a StoredMessage, name: &str) -> Option<&'a str> {
    let mut headers = kept.headers.iter();
    headers.find_map(|(known, value)| (known == name).then_some(&**value))
}
