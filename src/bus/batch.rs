//! Writing into a stream for the relay: atomic batches and single messages, and what a refusal means.
//! Never which rows go together, nor what follows from a refusal.
//!
//! An atomic batch (ADR-50, nats-server 2.12.1) is stored whole or not at all, and the server syncs
//! it once. Its members are plain publishes; only the last, the commit, is answered.

use std::{fmt, time::Duration};

use async_nats::{HeaderMap, Request, RequestErrorKind};
use bytes::Bytes;
use tidings_contract::{Envelope, EventId, wire};

use super::{Bus, CONNECTION_LOST, Receipt, headers_of};

/// The server stores a whole batch before it answers, so it may take longer than a plain request.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(10);

/// One message, ready to be sent.
pub(crate) struct Submission {
    subject: String,
    headers: HeaderMap,
    payload: Bytes,
}

/// Names a batch to the server.
pub(crate) struct BatchId(String);

/// The server has stored it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Confirmed {
    /// The sequence of the last message.
    pub(crate) sequence: u64,
}

/// The server has not stored it, or did not say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The batch holds something that the stream already has.
    Duplicate,
    /// Another stream takes the subject now. Nothing was stored.
    Moved,
    /// It will never be taken as it is.
    Permanent { code: u64, reason: String },
    /// It may be taken later. Whether it was stored is unknown.
    Transient { code: u64, reason: String },
}

impl Submission {
    pub(crate) fn new(envelope: &Envelope, defaults: wire::Defaults<'_>) -> Self {
        Self {
            subject: envelope.name().to_string(),
            headers: headers_of(envelope, defaults),
            payload: envelope.payload().clone(),
        }
    }

    fn in_batch(mut self, batch: &BatchId, sequence: usize) -> Self {
        self.headers
            .insert(async_nats::header::NATS_BATCH_ID, &*batch.0);
        self.headers.insert(
            async_nats::header::NATS_BATCH_SEQUENCE,
            sequence.to_string(),
        );
        self
    }
}

impl BatchId {
    pub(crate) fn new() -> Self {
        Self(EventId::now().as_uuid().simple().to_string())
    }
}

impl Bus {
    /// Sends one member of a batch, counted from 1; nothing is answered before the commit.
    pub(crate) async fn send_member(
        &self,
        batch: &BatchId,
        sequence: usize,
        message: Submission,
    ) -> Result<(), Refusal> {
        let Submission {
            subject,
            headers,
            payload,
        } = message.in_batch(batch, sequence);
        self.client
            .publish_with_headers(subject, headers, payload)
            .await
            .map_err(|error| transient(&error))
    }

    /// Waits until the members that were sent have left this process.
    pub(crate) async fn members_left(&self) -> Result<(), Refusal> {
        match self.unless_lost(self.client.flush()).await {
            Some(Ok(())) => Ok(()),
            Some(Err(error)) => Err(transient(&error)),
            None => Err(transient(&CONNECTION_LOST)),
        }
    }

    /// Sends the last member and waits until the whole batch is stored.
    pub(crate) async fn commit_batch(
        &self,
        stream: &str,
        batch: &BatchId,
        sequence: usize,
        last: Submission,
    ) -> Result<Confirmed, Refusal> {
        let mut last = last.in_batch(batch, sequence);
        last.headers
            .insert(async_nats::header::NATS_BATCH_COMMIT, "1");
        self.publish_one(stream, last).await
    }

    /// Publishes one message into a stream, and into no other, and waits until it is stored. A duplicate is
    /// stored already.
    pub(crate) async fn publish_one(
        &self,
        stream: &str,
        mut message: Submission,
    ) -> Result<Confirmed, Refusal> {
        message
            .headers
            .insert(async_nats::header::NATS_EXPECTED_STREAM, stream);
        let request = Request::new()
            .headers(message.headers)
            .payload(message.payload)
            .timeout(Some(COMMIT_TIMEOUT));
        let sending = self.client.send_request(message.subject, request);
        let Some(answer) = self.unless_lost(sending).await else {
            return Err(transient(&CONNECTION_LOST));
        };
        match answer {
            Ok(answer) => classify(Receipt::read(&answer.payload)),
            Err(error) if error.kind() == RequestErrorKind::MaxPayloadExceeded => {
                Err(Refusal::Permanent {
                    code: 0,
                    reason: error.to_string(),
                })
            }
            Err(error) => Err(transient(&error)),
        }
    }
}

fn transient(error: &impl fmt::Display) -> Refusal {
    Refusal::Transient {
        code: 0,
        reason: error.to_string(),
    }
}

/// The server's error codes that no later try changes; all others are tried again for ever, because
/// holding events back loses nothing. From nats-server `server/errors.json`.
fn classify(receipt: Receipt) -> Result<Confirmed, Refusal> {
    const DUPLICATE_IN_BATCH: u64 = 10201;
    const NOT_THE_EXPECTED_STREAM: u64 = 10060;
    let receipt = match receipt.into_result() {
        Ok(receipt) => receipt,
        Err(error) => {
            let (code, reason) = (error.err_code, error.description);
            return Err(match code {
                DUPLICATE_IN_BATCH => Refusal::Duplicate,
                NOT_THE_EXPECTED_STREAM => Refusal::Moved,
                // message too large; wrong last sequence, last id; headers too large;
                // sealed; TTL disabled, invalid; constant last sequence
                10054 | 10070 | 10071 | 10097 | 10109 | 10164..=10166 => {
                    Refusal::Permanent { code, reason }
                }
                _ => Refusal::Transient { code, reason },
            });
        }
    };
    Ok(Confirmed {
        sequence: receipt.seq,
    })
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Moved => f.write_str("another stream takes the subject now"),
            Self::Duplicate => f.write_str("the stream already holds an event of the batch"),
            Self::Permanent { code: 0, reason } | Self::Transient { code: 0, reason } => {
                f.write_str(reason)
            }
            Self::Permanent { code, reason } | Self::Transient { code, reason } => {
                write!(f, "{reason} ({code})")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(json: &str) -> Result<Confirmed, Refusal> {
        classify(Receipt::read(json.as_bytes()))
    }

    #[test]
    fn a_duplicate_is_stored_already() {
        let confirmed = answer(r#"{"stream":"EVENTS","seq":7,"duplicate":true}"#).unwrap();
        assert_eq!(confirmed.sequence, 7);
    }

    #[test]
    fn refusals_are_told_apart() {
        let refused = |code| {
            answer(&format!(
                r#"{{"error":{{"code":400,"err_code":{code},"description":"d"}}}}"#
            ))
            .unwrap_err()
        };
        assert_eq!(refused(10201), Refusal::Duplicate);
        assert!(matches!(refused(10054), Refusal::Permanent { .. }));
        assert!(matches!(refused(10077), Refusal::Transient { .. }));
        assert!(matches!(refused(99999), Refusal::Transient { .. }));
        assert!(matches!(
            answer("what?").unwrap_err(),
            Refusal::Transient { .. }
        ));
    }
}
