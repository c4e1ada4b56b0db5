//! Explains why an event is in no stream, in no outbox row, or at no subscriber. Never searches.

use chrono::{DateTime, Utc};

use super::{
    inventory::Inventory,
    report::{OutboxTrace, TracedBatch, TracedEvent},
    search::{Search, ask, time},
};
use crate::nats::{Bus, Expanse};

impl Search<'_> {
    /// Explains what was not found, for each event.
    pub(super) async fn explain(&mut self, inventory: &Inventory) {
        let waits = |event: &TracedEvent| matches!(event.outbox, OutboxTrace::Waiting { .. });
        let relay: Vec<String> = match self.events.values().any(waits) {
            true => ask!(self, records => records.relay()),
            false => Vec::new(),
        };
        let oldest: Option<DateTime<Utc>> = ask!(self, records => records.oldest());
        let absent = match (&self.records, &self.trace.records) {
            (Some(_), _) => OutboxTrace::Absent {
                why: match oldest {
                    Some(oldest) => format!(
                        "the event was published without the outbox, or before {}, the time of the oldest row",
                        time(oldest)
                    ),
                    None => {
                        "the outbox has no rows now, or the event was published without the outbox"
                            .to_owned()
                    }
                },
            },
            (None, Some(_)) => OutboxTrace::NotSearched {
                why: "the outbox did not answer".to_owned(),
            },
            (None, None) => OutboxTrace::NotSearched {
                why: self.trace.without.clone(),
            },
        };
        let server = self.bus.as_ref().map(Bus::server_name).unwrap_or_default();
        for event in self.events.values_mut() {
            match &mut event.outbox {
                OutboxTrace::Waiting { relay: said, .. } => said.clone_from(&relay),
                OutboxTrace::Absent { why }
                    if self.records.is_some() && !event.batches.is_empty() =>
                {
                    *why =
                        "the relay has published the event, and the outbox has freed its row since"
                            .to_owned();
                }
                OutboxTrace::Absent { .. } => event.outbox = absent.clone(),
                _ => {}
            }
            if !event.stored.iter().any(|stored| stored.is_there) {
                event.unstored = Some(why_unstored(event, inventory));
            }
            if event.subscribers.is_empty() {
                event.unheard = Some(why_unheard(event, inventory, &server));
            }
        }
    }
}

/// Why no subscriber is listed.
fn why_unheard(event: &TracedEvent, inventory: &Inventory, server: &str) -> String {
    let name = &event.name;
    match (&inventory.all, inventory.unseen.is_empty()) {
        (None, _) => "the subscribers were not searched".to_owned(),
        (Some(_), false) => {
            "the subscribers of streams that were not searched are not known".to_owned()
        }
        (Some(_), true) => format!(
            "no durable consumer here takes {name} from where the event is: its subscribers have never run in this \
             account of the server {server}, or run elsewhere"
        ),
    }
}

/// Why an event is in no stream.
fn why_unstored(event: &TracedEvent, inventory: &Inventory) -> String {
    if let Some(taken) = &event.taken {
        return format!("another event has its id: {taken}");
    }
    match (&event.outbox, event.batches.as_slice()) {
        (OutboxTrace::Delayed { .. }, _) => "the event is not due yet".to_owned(),
        (OutboxTrace::Parked { .. }, _) => "the event is parked".to_owned(),
        (OutboxTrace::Discarded { .. }, _) => "the event was discarded while it was parked".to_owned(),
        (_, [.., batch]) => {
            let (first, last) = (batch.first_sequence, batch.last_sequence);
            let exact = event.stored.last().map(|stored| stored.sequence);
            let (first, last) = exact.map_or((first, last), |at| (at, at));
            let place = match first == last {
                true => format!("at {first}"),
                false => format!("at a sequence from {first} to {last}"),
            };
            let stream = &batch.stream;
            if !inventory.sees(stream) {
                return format!("{stream} confirmed the event {place}; whether the stream has it now is not known");
            }
            let now = inventory.streams.get(stream).and_then(Option::as_ref);
            let why = absence(batch, (first, last), now);
            format!("{stream} confirmed the event {place}, and no longer has it: {why}")
        }
        (OutboxTrace::Waiting { .. }, []) => {
            "the relay has not published the event, or has not recorded it yet".to_owned()
        }
        (OutboxTrace::Relayed { .. }, []) => {
            "the relay is past the event, and the ledger does not say where it went: the event was discarded while it \
             was parked, or its entry is no longer in the ledger"
                .to_owned()
        }
        _ if inventory.all.is_none() => "whether a stream has the event is not known".to_owned(),
        _ => "no stream has the event, as far as the streams were searched".to_owned(),
    }
}

fn absence(batch: &TracedBatch, place: (u64, u64), stream: Option<&Expanse>) -> &'static str {
    match stream {
        None => "the stream is gone, or in another NATS than this",
        Some(stream) if stream.incarnation != batch.incarnation => {
            "the stream was deleted, and this is another stream of that name, or the stream of another NATS"
        }
        Some(stream) if place.0 < stream.first => {
            "a limit of the stream or a purge has removed the event"
        }
        Some(stream) if place.1 > stream.last => {
            "the stream ends before the event: an older copy of the stream was restored"
        }
        Some(_) => "the event was deleted from the stream",
    }
}
