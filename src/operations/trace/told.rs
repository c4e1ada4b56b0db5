//! Which events are reported, and which of them a message belongs to. Never searches.

use tidings_contract::{Envelope, EventId};

use super::{
    report::{OutboxTrace, TracedEvent},
    search::Search,
};

/// An event in the report. Several events may have one id, though they should not.
pub(super) type Told = (EventId, usize);

/// What distinguishes an event from others with its id, as far as headers do.
#[derive(Debug, Clone)]
pub(super) struct Meant {
    pub(super) id: EventId,
    pub(super) name: String,
    pub(super) version: u32,
    pub(super) key: Option<String>,
}

impl Meant {
    pub(super) fn of(envelope: &Envelope) -> Self {
        Self {
            id: envelope.id(),
            name: envelope.name().to_string(),
            version: envelope.version(),
            key: envelope.key().map(str::to_owned),
        }
    }

    pub(super) fn is(&self, envelope: &Envelope) -> bool {
        let (name, key) = (envelope.name().as_str(), envelope.key());
        envelope.version() == self.version && name == self.name && key == self.key.as_deref()
    }
}

impl Search<'_> {
    /// The entry of the event; creates one when it is new.
    pub(super) fn meet(&mut self, envelope: &Envelope) -> &mut TracedEvent {
        self.meet_one(TracedEvent::of(envelope))
    }

    pub(super) fn meet_one(&mut self, event: TracedEvent) -> &mut TracedEvent {
        let known = self.like(&event.meant());
        let told = known.unwrap_or_else(|| self.new_of(event.event));
        self.events.entry(told).or_insert(event)
    }

    /// The events with an id.
    pub(super) fn of_id(&self, id: EventId) -> impl Iterator<Item = (&Told, &TracedEvent)> {
        self.events.range((id, 0)..=(id, usize::MAX))
    }

    fn new_of(&self, id: EventId) -> Told {
        (id, self.of_id(id).count())
    }

    pub(super) fn add(&mut self, event: TracedEvent) {
        self.events.insert(self.new_of(event.event), event);
    }

    /// The event with the same id, name, version and key, unless it is parked: a parked event is in no stream.
    pub(super) fn like(&self, meant: &Meant) -> Option<Told> {
        let is_like = |event: &TracedEvent| {
            let is_parked = matches!(event.outbox, OutboxTrace::Parked { .. });
            let is_named = event.name == meant.name && event.version == meant.version;
            !is_parked && is_named && event.key == meant.key
        };
        let mut like = self.of_id(meant.id).filter(|(_, event)| is_like(event));
        like.next().map(|(told, _)| *told)
    }
}

impl TracedEvent {
    pub(super) fn of(envelope: &Envelope) -> Self {
        let key = envelope.key().map(str::to_owned);
        let (name, version) = (envelope.name().as_str(), envelope.version());
        Self {
            correlation_id: envelope.correlation_id(),
            causation_id: envelope.lineage().causation_id.clone(),
            source: envelope.source().map(str::to_owned),
            ..Self::named(envelope.id(), name, version, key)
        }
    }

    pub(super) fn meant(&self) -> Meant {
        Meant {
            id: self.event,
            name: self.name.clone(),
            version: self.version,
            key: self.key.clone(),
        }
    }
}
