//! Explains why an event is in no stream, in no outbox row, or at no subscriber. Never searches.

use chrono::{DateTime, Utc};

use super::{
    inventory::Inventory,
    report::{OutboxTrace, TracedBatch, TracedEvent},
    search::{Search, ask, time},
};
use crate::bus::{Bus, Expanse};

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
                        "it was published without the outbox, or before {}, where what is kept begins",
                        time(oldest)
                    ),
                    None => {
                        "the outbox keeps nothing now, or it was published without it".to_owned()
                    }
                },
            },
            (None, Some(_)) => OutboxTrace::NotSearched {
                why: "it did not answer".to_owned(),
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
                    *why = "the relay has published it, and the outbox has let go of its row since"
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
        (None, _) => "what became of it at subscribers was not seen".to_owned(),
        (Some(_), false) => "those of streams that were not searched are not known".to_owned(),
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
        (OutboxTrace::Delayed { .. }, _) => "it is not due yet".to_owned(),
        (OutboxTrace::Parked { .. }, _) => "it is put aside".to_owned(),
        (OutboxTrace::Discarded { .. }, _) => "it was discarded while it was parked".to_owned(),
        (_, [.., batch]) => {
            let (first, last) = (batch.first_sequence, batch.last_sequence);
            let exact = event.stored.last().map(|stored| stored.sequence);
            let (first, last) = exact.map_or((first, last), |at| (at, at));
            let place = match first == last {
                true => format!("at {first}"),
                false => format!("somewhere from {first} to {last}"),
            };
            let stream = &batch.stream;
            if !inventory.sees(stream) {
                return format!("{stream} confirmed it {place}; whether it has it now was not seen");
            }
            let now = inventory.streams.get(stream).and_then(Option::as_ref);
            let why = absence(batch, (first, last), now);
            format!("{stream} confirmed it {place}, and has it no more: {why}")
        }
        (OutboxTrace::Waiting { .. }, []) => {
            "the relay has not published it, or not written down that it did".to_owned()
        }
        (OutboxTrace::Relayed { .. }, []) => {
            "the relay has got past it, and the ledger does not say where it went: it was given up while it was \
             parked, or the ledger is older"
                .to_owned()
        }
        _ if inventory.all.is_none() => "whether a stream has it was not seen".to_owned(),
        _ => "no stream has it, as far as they were searched".to_owned(),
    }
}

fn absence(batch: &TracedBatch, place: (u64, u64), stream: Option<&Expanse>) -> &'static str {
    match stream {
        None => "the stream is gone, or in another NATS than this",
        Some(stream) if stream.incarnation != batch.incarnation => {
            "that stream was deleted, and this is another one of its name, or that of another NATS"
        }
        Some(stream) if place.0 < stream.first => "a limit of the stream or a purge has removed it",
        Some(stream) if place.1 > stream.last => {
            "the stream ends before it, so an older copy of it was restored"
        }
        Some(_) => "it was deleted from the stream",
    }
}
