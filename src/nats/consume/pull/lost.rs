//! Recovers messages that a consumer has delivered and the client could not read: such a message ended the connection,
//! and would do so at each redelivery. Turns it into an ordinary delivery. Never acknowledges one.
//!
//! The server identifies a delivery by its stream position, so a message that was read in JSON is acknowledged like any
//! other.

use std::collections::VecDeque;

use async_nats::{Message, Subject};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::task::JoinSet;

use crate::nats::{
    Bus, BusError, PullerOptions,
    consume::consumer::filters,
    protocol::{api, position::AckSubject, unreadable::Single},
};

/// How long the server may take to report the consumer's state; it need not answer while it restarts.
const PATIENCE: std::time::Duration = std::time::Duration::from_millis(2_500);
/// How many messages a search reads.
const MOST: usize = 1_024;

/// After a lost connection, searches for the messages that may have caused the loss.
pub(super) struct Lost {
    bus: Bus,
    consumer: PullerOptions,
    /// The caller requires deliveries without gaps.
    is_ordered: bool,
    /// The ack subject of the last message that came.
    last: Option<Subject>,
    look: JoinSet<Result<Looked, BusError>>,
    found: VecDeque<Message>,
    /// Up to here the previous search has looked.
    looked_to: u64,
}

#[derive(Default)]
struct Looked {
    found: Vec<Message>,
    to: u64,
}

/// The state of a consumer.
#[derive(Deserialize)]
struct Info {
    config: Map<String, Value>,
    delivered: Pair,
    ack_floor: Pair,
}

#[derive(Deserialize)]
struct Pair {
    consumer_seq: u64,
    stream_seq: u64,
}

impl Lost {
    pub(super) fn new(bus: &Bus, consumer: &PullerOptions) -> Self {
        Self {
            bus: bus.clone(),
            consumer: consumer.clone(),
            is_ordered: false,
            last: None,
            look: JoinSet::new(),
            found: VecDeque::new(),
            looked_to: 0,
        }
    }

    /// The caller requires deliveries without gaps.
    pub(super) fn in_order(&mut self) {
        self.is_ordered = true;
        self.look = JoinSet::new();
    }

    pub(super) fn came(&mut self, message: &Message) {
        self.last.clone_from(&message.reply);
    }

    /// Starts a search after the connection was lost.
    pub(super) fn begin(&mut self) {
        self.look = JoinSet::new();
        let look = Look {
            bus: self.bus.clone(),
            consumer: self.consumer.clone(),
            last: self.last.as_deref().and_then(AckSubject::read),
            looked_to: self.looked_to,
        };
        match self.is_ordered {
            true => drop(self.look.spawn(look.all())),
            false => drop(self.look.spawn(look.unreadable())),
        };
    }

    /// Whether pulling has to wait, because the next messages would come before the lost ones.
    pub(super) fn holds_up(&self) -> bool {
        self.is_ordered && !self.look.is_empty()
    }

    /// The next message that was found.
    pub(super) fn take(&mut self) -> Option<Message> {
        let message = self.found.pop_front()?;
        self.came(&message);
        Some(message)
    }

    /// Returns when a search has ended; never without one.
    pub(super) async fn looked(&mut self) {
        let looked = match self.look.join_next().await {
            Some(Ok(looked)) => looked,
            Some(Err(_)) => return,
            None => std::future::pending().await,
        };
        let PullerOptions { stream, consumer } = &self.consumer;
        match looked {
            Ok(looked) => {
                self.looked_to = looked.to;
                self.found.extend(looked.found);
            }
            Err(error @ BusError::Denied { .. }) => {
                tracing::warn!(
                    subscriber = consumer,
                    stream,
                    %error,
                    "message lookup denied: an unreadable message may have ended the connection"
                );
            }
            // An ordinary outage.
            Err(error) => tracing::debug!(stream, %error, "lost deliveries unknown"),
        }
    }
}

struct Look {
    bus: Bus,
    consumer: PullerOptions,
    last: Option<AckSubject>,
    looked_to: u64,
}

impl Look {
    /// The unreadable messages among those that are delivered and may be ack pending: first those after the last
    /// message that came, then those that may have been redelivered, from where the previous search has ended.
    async fn unreadable(self) -> Result<Looked, BusError> {
        let info = self.info().await?;
        let (floor, end) = (info.ack_floor.stream_seq, info.delivered.stream_seq);
        let last = self.last.as_ref().map_or(floor, |last| last.sequence);
        let last = last.clamp(floor, end.max(floor));
        let filters = filters(&info.config);
        let (mut singles, _) = self.singles(&filters, last, end, MOST).await?;
        let left = MOST - singles.len();
        let behind = if self.looked_to > last {
            0
        } else {
            self.looked_to
        };
        let (older, to) = self
            .singles(&filters, behind.max(floor), last, left)
            .await?;
        singles.extend(older);
        singles.retain(|single| single.fault.is_some());
        let count = info.delivered.consumer_seq;
        let found = singles
            .into_iter()
            .map(|single| self.delivery(single, count));
        Ok(Looked {
            found: found.collect(),
            to: if to >= last { 0 } else { to },
        })
    }

    /// All messages that were delivered after the last one that came, if some of them are unreadable: later messages
    /// come after them.
    async fn all(self) -> Result<Looked, BusError> {
        let info = self.info().await?;
        let (from, before) = match &self.last {
            Some(last) => (last.sequence, last.consumer_sequence),
            None => (info.ack_floor.stream_seq, 0),
        };
        let filters = filters(&info.config);
        let end = info.delivered.stream_seq;
        let (singles, _) = self.singles(&filters, from, end, MOST).await?;
        let came = before.saturating_add(singles.len() as u64);
        let is_all = came == info.delivered.consumer_seq;
        let is_bad = singles.iter().any(|single| single.fault.is_some());
        let mut looked = Looked::default();
        if is_all && is_bad {
            let counts = before.saturating_add(1)..=u64::MAX;
            let numbered = singles.into_iter().zip(counts);
            let deliveries = numbered.map(|(single, count)| self.delivery(single, count));
            looked.found = deliveries.collect();
        }
        Ok(looked)
    }

    async fn info(&self) -> Result<Info, BusError> {
        let PullerOptions { stream, consumer } = &self.consumer;
        let subject = api::consumer_info(stream, consumer);
        self.bus.api_within(PATIENCE, &subject, &json!({})).await
    }

    /// The messages after one sequence and up to another, at most `most`, and the sequence that was reached.
    async fn singles(
        &self,
        filters: &[String],
        behind: u64,
        up_to: u64,
        most: usize,
    ) -> Result<(Vec<Single>, u64), BusError> {
        let (mut singles, mut to) = (Vec::new(), behind);
        while to < up_to && singles.len() < most {
            let asked = self
                .bus
                .single_from(&self.consumer.stream, filters, to.saturating_add(1));
            match asked.await? {
                Some(single) if single.sequence <= up_to => {
                    to = single.sequence;
                    singles.push(single);
                }
                _ => to = up_to,
            }
        }
        Ok((singles, to))
    }

    fn delivery(&self, single: Single, consumer_sequence: u64) -> Message {
        let PullerOptions { stream, consumer } = &self.consumer;
        single.tell(stream);
        let usual = || api::ack_prefix(stream, consumer);
        let known = self.last.as_ref().map(|last| last.prefix.clone());
        let prefix = known.unwrap_or_else(usual);
        let (sequence, at) = (single.sequence, single.stored_at);
        let nanos = at.timestamp_nanos_opt().unwrap_or_default();
        Message {
            reply: Some(api::ack(&prefix, (sequence, consumer_sequence), nanos).into()),
            ..single.message
        }
    }
}
