//! Retries of a removed subscriber: each becomes a dead letter, and then leaves the stream of retries. Never decides
//! that a subscriber is removed.

use async_nats::Message;

use crate::{
    nats::{
        Bus, BusError, StartFrom, StoredMessage,
        protocol::{
            dead_letter::DeadLetterMessage,
            position,
            retry::{self, Restored},
            subjects,
        },
        stream::messages::header_map,
    },
    policy::outcome::{Cause, DeadLetter},
};

impl Bus {
    /// Dead-letters all waiting retries of a subscriber, and returns their number. Each dead letter is confirmed before
    /// its retry is removed: after an interruption between the two, the dead letter is written again under the same id.
    pub(crate) async fn retire_retries(
        &self,
        stream: &str,
        subscriber: &str,
    ) -> Result<u64, BusError> {
        let mut dead_letters = 0;
        let all = [
            subjects::scheduled_retry(subscriber, ">"),
            subjects::retry(subscriber, ">"),
        ];
        for subjects in all {
            loop {
                let page = self.page(stream, &subjects, StartFrom::Beginning).await?;
                if page.is_empty() {
                    break;
                }
                for kept in page {
                    dead_letters += u64::from(self.retire(stream, subscriber, &kept).await?);
                }
            }
        }
        Ok(dead_letters)
    }

    /// Whether it was an event, and not a question.
    async fn retire(
        &self,
        stream: &str,
        subscriber: &str,
        kept: &StoredMessage,
    ) -> Result<bool, BusError> {
        let mut message = message_of(kept);
        let Restored {
            origin,
            identity,
            past,
            replay,
            ..
        } = retry::restore(&mut message, stream, subscriber);
        let is_event = message.subject.as_str() != subjects::UNPARK;
        if is_event {
            let own = position::identity(stream, kept.sequence, kept.stored_at);
            let (of, sequence) = origin.unwrap_or_else(|| (stream.to_owned(), kept.sequence));
            let why = DeadLetter {
                cause: Cause::Removed,
                error: format!(
                    "the subscriber {subscriber} was removed while the event waited for another attempt"
                ),
                attempts: past.failures,
                first_failed_at: past.first_failed_at,
                handler: None,
            };
            let letter = DeadLetterMessage {
                subscriber,
                message: &message,
                subject: &message.subject,
                message_id: retry::message_id(&message),
                stream: &of,
                sequence,
                identity: identity.unwrap_or(own).into(),
                consumer_sequence: None,
                why: &why,
                replay: replay.as_ref(),
            };
            letter.publish(self).await?;
        }
        // A retry that has become due meanwhile is another message, and is in the next page.
        self.remove(stream, kept.sequence).await?;
        Ok(is_event)
    }
}

/// The message as its subscriber would receive it.
fn message_of(kept: &StoredMessage) -> Message {
    Message {
        subject: retry::due_subject(kept).into(),
        reply: None,
        payload: kept.payload.clone(),
        headers: Some(header_map(&kept.headers)),
        status: None,
        description: None,
        length: kept.payload.len(),
    }
}
