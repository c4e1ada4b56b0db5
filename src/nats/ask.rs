//! Status requests that are answered at once or not at all: plain requests, answered by every instance that they
//! concern. Nothing is stored, and neither side waits for long.

use std::time::Duration;

use async_nats::{Message, StatusCode};
use bytes::Bytes;
use futures::{Stream, StreamExt};
use tokio::time::Instant;

use super::{Bus, BusError};

/// How long the client may take to queue an answer.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long to wait for the first answer, and for all of them.
const ALL: Duration = Duration::from_secs(2);
/// How long to wait for the next answer after one has come.
const NEXT: Duration = Duration::from_millis(600);

/// What a status request has brought.
#[derive(Debug, Default)]
pub(crate) struct Heard {
    pub(crate) answers: Vec<Bytes>,
    /// Whether the server knows a client that listens.
    pub(crate) is_listened_to: bool,
}

/// A request of another instance.
pub(crate) struct Question {
    bus: Bus,
    message: Message,
}

impl Question {
    /// Answers the request, if its sender can be reached.
    pub(crate) async fn answer(&self, answer: Bytes) {
        let Some(asker) = &self.message.reply else {
            return;
        };
        let telling = self.bus.client.publish(asker.clone(), answer);
        // The sender does not wait for longer. While the connection is down the answer cannot be delivered.
        if !matches!(tokio::time::timeout(PATIENCE, telling).await, Ok(Ok(()))) {
            tracing::debug!(subject = %self.message.subject, "status reply not sent");
        }
    }
}

impl Bus {
    /// Listens for requests, across reconnections.
    pub(crate) async fn questions(
        &self,
        subject: &str,
    ) -> Result<impl Stream<Item = Question> + Unpin + use<>, BusError> {
        let listening = self.client.listen(subject).await;
        let heard = listening.map_err(|error| BusError::Broken {
            subject: subject.to_owned(),
            reason: error.to_string(),
        })?;
        let bus = self.clone();
        Ok(heard.map(move |message| Question {
            bus: bus.clone(),
            message,
        }))
    }

    /// Sends a request to all listeners, and returns their answers; none when there are no listeners.
    pub(crate) async fn scatter_gather(&self, subject: &str) -> Result<Vec<Bytes>, BusError> {
        Ok(self.heard(subject).await?.answers)
    }

    /// The same, and whether a client listens at all: one that does and gives no answer is connected and does not work.
    pub(crate) async fn heard(&self, subject: &str) -> Result<Heard, BusError> {
        let broken = |reason: String| BusError::Broken {
            subject: subject.to_owned(),
            reason,
        };
        let denials = self.denied.times(subject);
        let inbox = self.client.new_inbox();
        let subscribing = self.client.subscribe(inbox.clone()).await;
        let mut answers = subscribing.map_err(|error| broken(error.to_string()))?;
        let asking = self
            .client
            .publish_with_reply(subject.to_owned(), inbox, Bytes::new());
        asking.await.map_err(|error| broken(error.to_string()))?;
        let end = Instant::now() + ALL;
        let mut until = end;
        let mut heard = Heard {
            answers: Vec::new(),
            is_listened_to: true,
        };
        loop {
            let answer = tokio::select! {
                answer = answers.next() => answer,
                () = self.denied.once_more(subject, denials) => return Err(BusError::denied(subject)),
                () = tokio::time::sleep_until(until) => None,
            };
            match answer {
                Some(message) if message.status == Some(StatusCode::NO_RESPONDERS) => {
                    heard.is_listened_to = false;
                    break;
                }
                Some(message) => heard.answers.push(message.payload),
                None => break,
            }
            until = end.min(Instant::now() + NEXT);
        }
        Ok(heard)
    }
}
