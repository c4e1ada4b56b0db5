//! Moving a subscriber to another position of its streams: what that would redeliver or skip, and the reset. Never
//! touches the retries, and never creates or deletes a consumer.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::Serialize;

use super::{Subscribers, SubscribersError};
use crate::{
    nats::{BusError, BusErrorKind, ConsumerSpec, Durable, ReaderError, filters, subjects},
    policy::start::StartFrom,
    worker,
};

/// What a reset of a subscriber would do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct SubscriberReset {
    /// The subscriber.
    pub subscriber: String,
    /// The effect in each of its streams.
    pub streams: Vec<StreamReset>,
}

/// What a reset of one consumer would do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct StreamReset {
    /// The stream.
    pub stream: String,
    /// The sequence that the consumer would deliver next, or that of a later event.
    pub from: u64,
    /// The sequence at which it begins after the reset.
    pub to: u64,
    /// How many events are delivered again.
    pub again: u64,
    /// How many events are never delivered.
    pub skipped: u64,
    /// How many deliveries are ack pending now: in flight, or lost with their process.
    pub ack_pending: u64,
    /// The events that are delivered again or skipped, by name.
    pub names: BTreeMap<String, u64>,
    /// When the first of them was stored.
    pub first_at: Option<DateTime<Utc>>,
    /// When the last of them was stored.
    pub last_at: Option<DateTime<Utc>>,
}

/// Why a subscriber cannot be moved to a position.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ResetError {
    /// It reads several streams, and a sequence is a position in one.
    #[error("{name} reads {}: a sequence is a position in one of them", streams.join(" and "))]
    WhichStream {
        /// The name.
        name: String,
        /// Its streams.
        streams: Vec<String>,
    },
    /// It does not read this stream.
    #[error("{name} does not read {stream}: it reads {}", streams.join(" and "))]
    NotItsStream {
        /// The name.
        name: String,
        /// The stream.
        stream: String,
        /// Those that it reads.
        streams: Vec<String>,
    },
    /// The stream ends before that sequence.
    #[error("{stream} ends with sequence {last}: there is no {sequence}")]
    BehindTheEnd {
        /// The stream.
        stream: String,
        /// The requested sequence.
        sequence: u64,
        /// The last sequence of the stream.
        last: u64,
    },
    /// The server does not move a durable to before the position where it was created to begin.
    #[error(
        "the durable {name} of {stream} was created with a later start: the server does not reset it to before that"
    )]
    BeforeItsStart {
        /// The name.
        name: String,
        /// The stream.
        stream: String,
    },
    /// A stream cannot be read.
    #[error(transparent)]
    Read(#[from] ReaderError),
    /// There is no such subscriber, or NATS does not answer, or refuses.
    #[error(transparent)]
    Subscribers(#[from] SubscribersError),
}

impl From<BusError> for ResetError {
    fn from(error: BusError) -> Self {
        Self::Subscribers(error.into())
    }
}

impl Subscribers {
    /// What [`Subscribers::reset`] would do; with a stream, in that stream only. Reads the events in between, without
    /// payloads. [`StartFrom::New`] and a future time mean the position after the last event at this moment.
    ///
    /// # Errors
    /// [`ResetError`] names why the subscriber cannot be moved there.
    pub async fn plan_reset(
        &self,
        name: &str,
        to: StartFrom,
        stream: Option<&str>,
    ) -> Result<SubscriberReset, ResetError> {
        let mut durables = self.durables(name).await?;
        let retries = subjects::retry(name, ">");
        durables.retain(|durable| !durable.takes_only(&retries));
        let names = durables.iter().map(|durable| durable.stream.clone());
        let names: Vec<String> = names.collect();
        if let Some(stream) = stream {
            durables.retain(|durable| durable.stream == stream);
            if durables.is_empty() {
                return Err(ResetError::NotItsStream {
                    name: name.to_owned(),
                    stream: stream.to_owned(),
                    streams: names,
                });
            }
        } else if names.len() > 1 && matches!(to, StartFrom::Sequence(_)) {
            return Err(ResetError::WhichStream {
                name: name.to_owned(),
                streams: names,
            });
        }
        let mut streams = Vec::new();
        for durable in durables {
            streams.push(self.plan_of(&durable, to).await?);
        }
        Ok(SubscriberReset {
            subscriber: name.to_owned(),
            streams,
        })
    }

    /// Moves a subscriber to another position: everything from there on is delivered again, handled or not, and nothing
    /// from before. Its instances finish what is in flight; if it is ordered, they drop it and begin at the position.
    /// Waiting retries keep their due time. A transactional handler finds in the inbox which events it has handled, and
    /// does not handle them again. Needs nats-server 2.14.
    ///
    /// # Errors
    /// [`ResetError::BeforeItsStart`] when the server does not move it there; [`SubscribersError::Partly`] when only
    /// some of its streams are done, and calling it again continues; otherwise [`SubscribersError::Bus`].
    ///
    /// # Cancel safety
    /// When the future is dropped, some of its streams may be reset. Calling it again with the same plan resets all of
    /// them; what was delivered meanwhile is delivered again.
    pub async fn reset(&self, reset: &SubscriberReset) -> Result<(), ResetError> {
        let mut done = Vec::new();
        for one in &reset.streams {
            match self.reset_one(&reset.subscriber, one).await {
                Ok(()) => done.push(one.stream.clone()),
                Err(ResetError::Subscribers(SubscribersError::Bus(source))) if !done.is_empty() => {
                    let name = reset.subscriber.clone();
                    return Err(SubscribersError::Partly { name, done, source }.into());
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    async fn plan_of(&self, durable: &Durable, to: StartFrom) -> Result<StreamReset, ResetError> {
        let stream = &durable.stream;
        let subjects = filters(&durable.config);
        let part = self.bus.part(stream).await?;
        let end = part.map_or(0, |part| part.last).saturating_add(1);
        let to = match to {
            StartFrom::Beginning => 1,
            StartFrom::New => end,
            StartFrom::Sequence(sequence) => sequence.max(1),
            StartFrom::Time(time) => self.bus.sequence_at(stream, time).await?.min(end),
        };
        if to > end {
            return Err(ResetError::BehindTheEnd {
                stream: stream.clone(),
                sequence: to,
                last: end - 1,
            });
        }
        if durable.earliest().is_none_or(|earliest| to < earliest) {
            return Err(before_its_start(&durable.name, stream));
        }
        let from = durable.delivered().saturating_add(1);
        let between = (from.min(to), from.max(to) - 1);
        let survey = self.bus.survey(stream, &subjects, between).await?;
        let events = survey.names.values().copied().fold(0, u64::saturating_add);
        let (again, skipped) = if to < from { (events, 0) } else { (0, events) };
        Ok(StreamReset {
            stream: stream.clone(),
            from,
            to,
            again,
            skipped,
            ack_pending: durable.num_ack_pending,
            names: survey.names,
            first_at: survey.first_at,
            last_at: survey.last_at,
        })
    }

    async fn reset_one(&self, name: &str, reset: &StreamReset) -> Result<(), ResetError> {
        let stream = &reset.stream;
        let spec = ConsumerSpec::new(&**stream, name, Vec::new());
        worker::forget_handled(&self.bus, name, stream).await?;
        match self.bus.reset_consumer(&spec, Some(reset.to)).await {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == BusErrorKind::InvalidReset => {
                Err(before_its_start(name, stream))
            }
            Err(error) => Err(error.into()),
        }
    }
}

impl SubscriberReset {
    /// How many events are delivered again, of all streams.
    #[must_use]
    pub fn again(&self) -> u64 {
        let again = self.streams.iter().map(|one| one.again);
        again.fold(0, u64::saturating_add)
    }

    /// How many events are never delivered, of all streams.
    #[must_use]
    pub fn skipped(&self) -> u64 {
        let skipped = self.streams.iter().map(|one| one.skipped);
        skipped.fold(0, u64::saturating_add)
    }
}

fn before_its_start(name: &str, stream: &str) -> ResetError {
    ResetError::BeforeItsStart {
        name: name.to_owned(),
        stream: stream.to_owned(),
    }
}
