//! Writes into a stream for the relay: atomic batches and single messages, and classifies refusals. Never decides which
//! rows go together, nor what follows from a refusal.
//!
//! An atomic batch (ADR-50, nats-server 2.12.1) is stored whole or not at all, and the server syncs it once. Its
//! members are plain publishes; only the last one, the commit, is confirmed.

use std::{fmt, time::Duration};

use async_nats::{HeaderMap, Request, RequestErrorKind};
use bytes::Bytes;
use tidings_contract::{Envelope, EventId, wire};

use super::refusal::{Cause, Refusal, cause_of_denial, closed};
use crate::nats::{
    Bus, CONNECTION_LOST, Receipt, headers_of,
    protocol::{
        codes::{self, publish},
        headers::{self, server},
    },
};

/// The server stores a whole batch before it answers, so it may take longer than a plain request.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(10);
/// After this time without an answer the relay checks whether the stream confirms anything.
const LONG: Duration = Duration::from_secs(2);

/// How many messages are built before the first of them is sent. Building one takes as long as a system call: if each
/// were sent as soon as it is built, each would be written by a system call of its own.
const AT_A_TIME: usize = 64;

/// One message, ready to be sent.
pub(crate) struct Submission {
    subject: String,
    headers: HeaderMap,
    payload: Bytes,
}

/// Identifies a batch to the server.
pub(crate) struct BatchId(String);

/// The server has stored the message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Confirmed {
    /// The sequence of the last message.
    pub(crate) sequence: u64,
    /// A message with this id was stored before: the same event or another one. It may have been removed since.
    pub(crate) is_duplicate: bool,
}

impl Submission {
    pub(crate) fn new(envelope: &Envelope, defaults: wire::Defaults<'_>) -> Self {
        Self {
            subject: envelope.name().to_string(),
            headers: headers_of(envelope, defaults),
            payload: envelope.payload().clone(),
        }
    }

    /// The same message for another subject.
    pub(crate) fn to(self, subject: String) -> Self {
        Self { subject, ..self }
    }

    /// The same message with another message id; the id of the event stays.
    pub(crate) fn known_as(mut self, id: &str) -> Self {
        self.headers.insert(wire::MESSAGE_ID, id);
        self
    }

    /// The same message, tagged with the run that publishes it again.
    pub(crate) fn republished(mut self, mark: &str) -> Self {
        self.headers.insert(headers::REPUBLISHED, mark);
        self
    }

    fn in_batch(mut self, batch: &BatchId, sequence: usize) -> Self {
        self.headers.insert(server::BATCH_ID, &*batch.0);
        self.headers
            .insert(server::BATCH_SEQUENCE, sequence.to_string());
        self
    }
}

impl BatchId {
    /// 62 random bits, because two batches that are sent to one stream at once must have different ids. Each message
    /// carries the id.
    pub(crate) fn new() -> Self {
        let (_, random) = EventId::now().as_uuid().as_u64_pair();
        Self(format!("{random:x}"))
    }
}

impl Bus {
    /// Sends all members of a batch except the commit, and waits until they have left this process; the server answers
    /// nothing before the commit.
    pub(crate) async fn send_members(
        &self,
        batch: &BatchId,
        members: Box<dyn Iterator<Item = Submission> + Send + '_>,
    ) -> Result<(), Refusal> {
        let mut members = (1..).zip(members).peekable();
        if members.peek().is_none() {
            return Ok(());
        }
        while members.peek().is_some() {
            let made = members.by_ref().take(AT_A_TIME);
            let made: Vec<_> = made
                .map(|(at, member)| member.in_batch(batch, at))
                .collect();
            for member in made {
                let Submission {
                    subject,
                    headers,
                    payload,
                } = member;
                let sending = self.client.publish_with_headers(subject, headers, payload);
                sending.await.map_err(|error| transient(&error))?;
            }
        }
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
        last.headers.insert(server::BATCH_COMMIT, "1");
        self.publish_one(stream, last).await
    }

    /// Publishes one message into a stream, and into no other, and waits until it is stored. For a duplicate the server
    /// only reports that it has had this id.
    pub(crate) async fn publish_one(
        &self,
        stream: &str,
        mut message: Submission,
    ) -> Result<Confirmed, Refusal> {
        message.headers.insert(server::EXPECTED_STREAM, stream);
        let request = Request::new()
            .headers(message.headers)
            .payload(message.payload)
            .timeout(Some(COMMIT_TIMEOUT));
        let subject = message.subject.clone();
        let sending = self.client.send_request(message.subject, request);
        let answer = tokio::select! {
            biased;
            answer = self.unless_lost(sending) => answer,
            () = self.denied.denied(&subject) => return Err(Refusal::Closed(cause_of_denial(&subject))),
            () = self.confirms_nothing(stream) => {
                return Err(Refusal::NoAck {
                    stream: stream.to_owned(),
                });
            }
        };
        let Some(answer) = answer else {
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
            Err(error) if error.kind() == RequestErrorKind::TimedOut => Err(Refusal::NoAnswer {
                after: COMMIT_TIMEOUT,
            }),
            Err(error) => Err(transient(&error)),
        }
    }
}

impl Bus {
    /// Returns when a stream is found to confirm nothing. It is checked only when an answer takes long.
    async fn confirms_nothing(&self, stream: &str) {
        tokio::time::sleep(LONG).await;
        match self.stream_state(stream).await {
            Ok(Some(state)) if !state.confirms => {}
            _ => std::future::pending().await,
        }
    }

    /// Whether the server has reported that this user may not publish to a subject.
    pub(crate) fn is_denied(&self, subject: &str) -> bool {
        self.denied.has(subject)
    }

    /// Checks whether the user may publish to a subject by now, with a message that no stream can take: the refusal of
    /// the stream shows that the message got through.
    pub(crate) async fn may_publish(&self, subject: &str) -> bool {
        const NO_STREAM: &str = "-";
        self.denied.forget(subject);
        let question = Submission {
            subject: subject.to_owned(),
            headers: HeaderMap::new(),
            payload: Bytes::new(),
        };
        match self.publish_one(NO_STREAM, question).await {
            Err(Refusal::Moved) => true,
            Err(Refusal::Closed(_)) => false,
            // The server has not denied it.
            _ => !self.is_denied(subject),
        }
    }
}

fn transient(error: &impl fmt::Display) -> Refusal {
    Refusal::Transient {
        code: 0,
        reason: error.to_string(),
    }
}

/// Classifies the server's answer. Only error codes that no later attempt changes are permanent; all others are retried
/// without limit, because holding events back loses nothing. From nats-server `server/errors.json`.
pub(in crate::nats) fn classify(receipt: Receipt) -> Result<Confirmed, Refusal> {
    let receipt = match receipt.into_result() {
        Ok(receipt) => receipt,
        Err(error) => {
            let (code, reason) = (error.err_code, error.description);
            return Err(match code {
                publish::BATCH_HAS_DUPLICATE => Refusal::Duplicate,
                publish::NOT_THE_EXPECTED_STREAM => Refusal::Moved,
                publish::BATCH_INCOMPLETE => Refusal::Incomplete,
                publish::BATCH_TOO_LARGE => Refusal::TooMany {
                    most: allowed(&reason),
                },
                publish::MESSAGE_TOO_LARGE
                | publish::HEADERS_TOO_LARGE
                | publish::WRONG_LAST_MESSAGE_ID
                | codes::WRONG_LAST_SEQUENCE
                | codes::WRONG_LAST_SEQUENCE_CONSTANT
                | publish::TTL_INVALID
                | publish::TTL_DISABLED => Refusal::Permanent { code, reason },
                _ => match closed(code, &reason) {
                    Some((kind, cure)) => Refusal::Closed(Cause {
                        kind,
                        is_of_subject: reason.contains("per subject"),
                        reason: format!("{reason} ({code})"),
                        cure,
                    }),
                    None => Refusal::Transient { code, reason },
                },
            });
        }
    };
    Ok(Confirmed {
        sequence: receipt.seq,
        is_duplicate: receipt.duplicate,
    })
}

/// The server's limit, which is the number at the end of its refusal.
fn allowed(reason: &str) -> usize {
    let number = reason.rsplit(|c: char| !c.is_ascii_digit()).next();
    number.and_then(|number| number.parse().ok()).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{nats::publish::refusal::FULL_DISK, policy::issue_kind::IssueKind};

    fn answer(json: &str) -> Result<Confirmed, Refusal> {
        classify(Receipt::read(json.as_bytes()))
    }

    #[test]
    fn a_duplicate_is_reported_with_its_position() {
        let confirmed = answer(r#"{"stream":"EVENTS","seq":7,"duplicate":true}"#).unwrap();
        assert_eq!((confirmed.sequence, confirmed.is_duplicate), (7, true));
    }

    #[test]
    fn a_full_subject_is_distinguished_from_a_full_stream() {
        for (reason, is_of_subject) in [
            ("maximum messages exceeded", false),
            ("maximum bytes exceeded", false),
            ("maximum messages per subject exceeded", true),
        ] {
            let refused = answer(&format!(
                r#"{{"error":{{"code":503,"err_code":10077,"description":"{reason}"}}}}"#
            ));
            let Err(Refusal::Closed(cause)) = refused else {
                panic!("{refused:?}")
            };
            assert_eq!(cause.is_of_subject, is_of_subject, "{reason}");
            assert_eq!(cause.kind, IssueKind::StreamFull);
        }
    }

    #[test]
    fn a_server_that_wants_smaller_batches_says_how_small() {
        let refused = answer(
            r#"{"error":{"code":400,"err_code":10199,"description":"atomic publish batch is too large: 50"}}"#,
        );
        assert_eq!(refused.unwrap_err(), Refusal::TooMany { most: 50 });
        assert_eq!(allowed("too large"), 1);
    }

    #[test]
    fn refusals_are_distinguished() {
        let refused = |code| {
            answer(&format!(
                r#"{{"error":{{"code":400,"err_code":{code},"description":"d"}}}}"#
            ))
            .unwrap_err()
        };
        assert_eq!(refused(10201), Refusal::Duplicate);
        assert!(matches!(refused(10054), Refusal::Permanent { .. }));
        assert!(matches!(refused(10077), Refusal::Transient { .. }));
        assert!(matches!(refused(10109), Refusal::Closed(_)));
        assert!(matches!(refused(10047), Refusal::Closed(_)));
        let full = answer(
            r#"{"error":{"code":503,"err_code":10077,"description":"write msgs/1.blk: no space left on device"}}"#,
        );
        let Err(Refusal::Closed(cause)) = full else {
            panic!("{full:?}")
        };
        assert_eq!((cause.cure, cause.is_of_subject), (FULL_DISK, false));
        assert_eq!(cause.kind, IssueKind::StorageFull);
        assert_eq!(refused(10176), Refusal::Incomplete);
        assert!(matches!(refused(99999), Refusal::Transient { .. }));
        assert!(matches!(
            answer("what?").unwrap_err(),
            Refusal::Transient { .. }
        ));
    }
}
