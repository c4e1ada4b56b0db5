//! Why an event is not where it might be: in no stream, in no row. Never searches.

use chrono::{DateTime, Utc};

use super::{
    inventory::Inventory,
    report::{OutboxTrace, TracedBatch, TracedEvent},
    search::{Search, ask, time},
};
use crate::bus::Expanse;

impl Search<'_> {
    /// Says of what is not found why that is so.
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
        for event in self.events.values_mut() {
            match &mut event.outbox {
                OutboxTrace::Waiting { relay: said, .. } => said.clone_from(&relay),
                OutboxTrace::Absent { .. } => event.outbox = absent.clone(),
                _ => {}
            }
            if !event.stored.iter().any(|stored| stored.is_there) {
                event.unstored = Some(why_unstored(event, inventory));
            }
        }
    }
}

/// Why an event is in no stream.
fn why_unstored(event: &TracedEvent, inventory: &Inventory) -> String {
    match (&event.outbox, event.batches.as_slice()) {
        (OutboxTrace::Delayed { .. }, _) => "it is not due yet".to_owned(),
        (OutboxTrace::Parked { .. }, _) => "it is put aside".to_owned(),
        (_, [.., batch]) => {
            let (first, last) = (batch.first_sequence, batch.last_sequence);
            let place = match event.stored.last() {
                Some(stored) => format!("at {}", stored.sequence),
                None if first == last => format!("at {first}"),
                None => format!("somewhere from {first} to {last}"),
            };
            let stream = &batch.stream;
            let why = absence(batch, inventory.streams.get(stream).and_then(Option::as_ref));
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
        _ => "no stream has it, as far as they were searched".to_owned(),
    }
}

fn absence(batch: &TracedBatch, stream: Option<&Expanse>) -> &'static str {
    match stream {
        None => "the stream is gone",
        Some(stream) if stream.incarnation != batch.incarnation => {
            "that stream was deleted, and this is another one of its name"
        }
        Some(stream) if batch.first_sequence < stream.first => {
            "a limit of the stream or a purge has removed it"
        }
        Some(stream) if batch.last_sequence > stream.last => {
            "the stream ends before it, so an older copy of it was restored"
        }
        Some(_) => "it was deleted from the stream",
    }
}
