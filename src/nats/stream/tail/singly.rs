//! Reads message by message, in JSON, after a lost connection: the next message may have caused the loss. Stops reading
//! this way when the messages are readable.

use std::time::Duration;

use async_nats::Message;

use super::{MAX_TRIES, Reader, ReaderError};
use crate::{
    nats::{BusError, protocol::position::DeliveryPosition},
    policy::start::StartFrom,
};

/// How many messages are read alone after an unreadable one: there may be more of them.
const SINGLES: u32 = 32;
/// The delay before a server that did not answer is asked again.
const ASK_AGAIN: Duration = Duration::from_millis(500);

impl Reader {
    /// Whether the connection was lost since the last call. Then the next message is read alone.
    pub(super) fn take_loss(&mut self) -> bool {
        let was_lost = self.lost.has_changed().unwrap_or(false);
        if was_lost {
            self.lost.mark_unchanged();
            self.singly = self.singly.max(1);
        }
        was_lost
    }

    /// The next message, read alone; `None` when reading continues with the consumer, or has to be tried again.
    ///
    /// # Cancel safety
    /// No message is skipped when the future is dropped.
    pub(super) async fn next_single(
        &mut self,
        tries: &mut u32,
    ) -> Result<Option<(Message, DeliveryPosition)>, ReaderError> {
        let from = match self.start {
            StartFrom::Sequence(sequence) => sequence,
            _ => 1,
        };
        let asked = self.bus.single_from(&self.stream, &self.subjects, from);
        let single = match asked.await {
            Ok(Some(single)) => single,
            Ok(None) => {
                self.reopen(self.start, tries).await?;
                self.singly = 0;
                return Ok(None);
            }
            Err(error @ BusError::Denied { .. }) => {
                let stream = &self.stream;
                tracing::warn!(stream, %error, "message lookup denied: an unreadable message may have ended the connection");
                self.reopen(self.start, tries).await?;
                self.singly = 0;
                return Ok(None);
            }
            Err(source) if *tries >= MAX_TRIES || matches!(source, BusError::Refused { .. }) => {
                return Err(self.failed(source));
            }
            Err(_) => {
                *tries += 1;
                tokio::time::sleep(ASK_AGAIN).await;
                return Ok(None);
            }
        };
        let left = match single.fault {
            Some(_) => SINGLES,
            None => self.singly.saturating_sub(1),
        };
        let next = StartFrom::Sequence(single.sequence.saturating_add(1));
        let pending = self.pending.saturating_sub(1);
        // Only a new consumer reports how many messages really wait after the last announced one.
        let is_over = left == 0 || pending == 0;
        if is_over {
            self.reopen(next, tries).await?;
        } else {
            self.pending = pending;
        }
        self.singly = if is_over { 0 } else { left };
        self.start = next;
        single.tell(&self.stream);
        let position = DeliveryPosition {
            stream: self.stream.as_str().into(),
            sequence: single.sequence,
            consumer_sequence: 0,
            delivered: 1,
            stored_at: single.stored_at,
            pending: self.pending,
        };
        Ok(Some((single.message, position)))
    }
}
