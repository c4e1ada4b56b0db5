//! Searches for events in each place: the outbox, its ledger, the streams. Never decides how they ended.

use std::{collections::BTreeMap, ops::ControlFlow, sync::Arc};

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use tidings_contract::{EventId, Name, Pattern};

use super::{
    Trace, TraceError, TraceTarget,
    inventory::Inventory,
    records::{Noted, Records, RecordsError},
    report::{OutboxTrace, Searched, StoredEvent, Traced, TracedBatch, TracedEvent},
    told::{Meant, Told},
};
use crate::{
    error_text::error_texts,
    nats::{Bus, Expanse, Sighting, StartFrom, quoted},
    policy::start::shifted,
};

/// How far clocks may be apart.
const SKEW: TimeDelta = TimeDelta::minutes(5);
/// How far back streams are read by default.
const DAY: TimeDelta = TimeDelta::days(1);
/// How many rows of one id are read.
const ROWS_OF_ONE: usize = 20;

/// A search in progress.
pub(super) struct Search<'a> {
    pub(super) trace: &'a Trace,
    pub(super) target: &'a TraceTarget,
    /// NATS, as long as it answers.
    pub(super) bus: Option<Bus>,
    pub(super) records: Option<Arc<dyn Records>>,
    pub(super) searched: Vec<Searched>,
    pub(super) events: BTreeMap<Told, TracedEvent>,
}

/// Queries the outbox; the default value when there is none, or it does not answer.
macro_rules! ask {
    ($search:expr, $records:ident => $ask:expr) => {
        match $search.records.clone() {
            None => Default::default(),
            Some($records) => match $ask.await {
                Ok(answer) => answer,
                Err(error) => $search.lose(error),
            },
        }
    };
}
pub(super) use ask;

impl<'a> Search<'a> {
    pub(super) fn new(trace: &'a Trace, target: &'a TraceTarget) -> Self {
        Self {
            trace,
            target,
            bus: trace.bus.clone(),
            records: trace.records.clone(),
            searched: Vec::new(),
            events: BTreeMap::new(),
        }
    }

    pub(super) async fn run(mut self) -> Result<Traced, TraceError> {
        self.read_rows().await;
        let known = ask!(self, records => records.streams());
        let mut inventory = self.inventory(known).await?;
        if matches!(self.target, TraceTarget::Event(_)) {
            self.read_ledger(&inventory).await;
            if self.is_anywhere_else() {
                self.read_streams(&inventory).await;
            }
            if self.is_anywhere_else() {
                self.read_others(&mut inventory).await;
            }
        } else {
            self.read_streams(&inventory).await;
            self.read_others(&mut inventory).await;
            self.read_ledger(&inventory).await;
        }
        self.read_retries(&inventory).await;
        self.read_letters().await;
        self.read_batches().await;
        self.read_left_out_rows(&inventory).await;
        self.read_inbox(&inventory).await;
        self.explain(&inventory).await;
        Ok(self.told())
    }

    /// Takes the inventory of NATS, if it answers.
    async fn inventory(&mut self, known: Vec<String>) -> Result<Inventory, TraceError> {
        let Some(bus) = self.bus.clone() else {
            let why = format!("not searched: {}", self.trace.without_bus);
            self.miss_unseen("NATS", why);
            return Ok(Inventory::default());
        };
        match Inventory::take(self, &bus, known).await {
            Ok(inventory) => Ok(inventory),
            Err(error) if self.records.is_none() => Err(error.into()),
            Err(error) => {
                self.bus = None;
                self.miss_unseen("NATS", format!("not searched: {error}"));
                Ok(Inventory::default())
            }
        }
    }

    /// Reports that the outbox does not answer. It is not queried again.
    pub(super) fn lose<T: Default>(&mut self, error: RecordsError) -> T {
        self.records = None;
        let text = error_texts(&*error).join(": ");
        self.miss_unseen("outbox", format!("not searched: {text}"));
        T::default()
    }

    pub(super) fn say(&mut self, place: &str, what: impl Into<String>) {
        self.tell(place, what.into(), true, false);
    }

    /// Reports a place that was not searched because it does not exist.
    pub(super) fn miss(&mut self, place: &str, why: impl Into<String>) {
        self.tell(place, why.into(), false, false);
    }

    /// Reports a place that could not be searched.
    pub(super) fn miss_unseen(&mut self, place: &str, why: impl Into<String>) {
        self.tell(place, why.into(), false, true);
    }

    fn tell(&mut self, place: &str, what: String, was_searched: bool, is_unseen: bool) {
        self.searched.push(Searched {
            place: place.to_owned(),
            what,
            was_searched,
            is_unseen,
        });
    }

    async fn read_rows(&mut self) {
        if self.records.is_none() {
            let why = format!("not searched: {}", self.trace.without);
            return match self.trace.are_unseen {
                true => self.miss_unseen("outbox", why),
                false => self.miss("outbox", why),
            };
        }
        let since = match self.target {
            TraceTarget::Event(_) => None,
            _ => Some(self.since()),
        };
        let (target, limit) = (self.target, self.trace.limit);
        let rows: Vec<Noted> = ask!(self, records => records.rows(target, since, limit));
        for row in rows {
            let id = row.event;
            let mut event = match &row.envelope {
                Some(envelope) => TracedEvent::of(envelope),
                None => TracedEvent::named(id, &row.name, row.version, row.key.clone()),
            };
            event.outbox = row.outbox;
            // The newest row comes first. An older row of the same event adds nothing, but each parked row is an entry
            // of its own.
            let is_parked = matches!(event.outbox, OutboxTrace::Parked { .. });
            if is_parked || self.like(&event.meant()).is_none() {
                self.add(event);
            }
        }
        if self.records.is_some() {
            let how = match since {
                Some(since) => format!(
                    "all that was committed since {}, and what is delayed or parked",
                    time(since)
                ),
                None => "all its rows".to_owned(),
            };
            self.say("outbox", how);
        }
    }

    /// The time from which streams are read.
    pub(super) fn since(&self) -> DateTime<Utc> {
        if let Some(since) = self.trace.since {
            return since;
        }
        let TraceTarget::Event(id) = self.target else {
            return Utc::now() - DAY;
        };
        let written = self.of_id(*id).filter_map(|(_, event)| event.written_at());
        let earliest = written.chain(made_at(*id)).min();
        shifted(earliest.unwrap_or_else(|| Utc::now() - DAY), -SKEW)
    }

    /// Whether the event may be in a stream that the ledger did not lead to.
    pub(super) fn is_anywhere_else(&self) -> bool {
        let mut events = self.events.values();
        !events.any(|event| {
            let is_away = matches!(
                event.outbox,
                OutboxTrace::Delayed { .. }
                    | OutboxTrace::Parked { .. }
                    | OutboxTrace::Discarded { .. }
            );
            is_away || event.stored.iter().any(|stored| stored.is_there)
        })
    }

    /// Reads the ledger entries of rows that are not found yet, and the streams that they name.
    async fn read_ledger(&mut self, inventory: &Inventory) {
        let rows: Vec<(Told, Meant, i64)> = self
            .events
            .iter()
            .filter(|(_, event)| event.stored.is_empty() && event.batches.is_empty())
            .filter_map(|(told, event)| Some((*told, event.meant(), event.outbox.row()?)))
            .collect();
        for (told, meant, row) in rows {
            let (batches, discarded_at): (Vec<TracedBatch>, _) =
                ask!(self, records => records.batches_of(row));
            if let Some(discarded_at) = discarded_at
                && batches.is_empty()
                && let Some(event) = self.events.get_mut(&told)
            {
                event.discarded(discarded_at);
                continue;
            }
            let batches = batches.into_iter().filter(|batch| {
                let stream = inventory.streams.get(&batch.stream);
                let Some(Some(stream)) = stream else {
                    return true;
                };
                stream.incarnation != batch.incarnation || takes(stream, &meant.name)
            });
            for batch in batches.collect::<Vec<_>>() {
                let batch_stream = batch.stream.clone();
                let found = self.look_into(&batch, &meant, inventory).await;
                let Some(event) = self.events.get_mut(&told) else {
                    continue;
                };
                let exact = batch.sequence_of(row);
                let place = match &found {
                    Ok((Some(found), _)) => Some(found.clone()),
                    Ok((None, None)) => exact.map(|at| StoredEvent::missing(&batch, at)),
                    // Another event is there, or the position could not be read.
                    Ok((None, Some(_))) | Err(_) => None,
                };
                if let Ok((_, taken)) = &found {
                    event.taken = event.taken.take().or_else(|| taken.clone());
                }
                // A republished event may be at its old position, and then two batches have that position.
                event
                    .stored
                    .extend(place.filter(|place| !event.stored.contains(place)));
                event.batches.push(batch);
                if let Err(Some(why)) = found {
                    self.miss_unseen(&batch_stream, format!("not searched: {why}"));
                }
            }
        }
    }

    /// Reads the range of a batch in its stream: returns the event, else another one that has its id. Fails with the
    /// reason when the range cannot be read; the reason is `None` when it is already reported.
    async fn look_into(
        &mut self,
        batch: &TracedBatch,
        meant: &Meant,
        inventory: &Inventory,
    ) -> Result<(Option<StoredEvent>, Option<String>), Option<String>> {
        let Some(bus) = self.bus.clone().filter(|_| inventory.sees(&batch.stream)) else {
            return Err(None);
        };
        let Some(Some(stream)) = inventory.streams.get(&batch.stream) else {
            return Ok((None, None));
        };
        if stream.incarnation != batch.incarnation || batch.last_sequence < stream.first {
            return Ok((None, None));
        }
        let (mut found, mut taken) = (None, None);
        let (first, last) = (batch.first_sequence, batch.last_sequence);
        let start = StartFrom::Sequence(first);
        let most = last.saturating_sub(first).saturating_add(1);
        let see = |sighting: Sighting| {
            let Sighting {
                sequence, envelope, ..
            } = &sighting;
            if envelope.id() != meant.id {
                return ControlFlow::Continue(());
            }
            if meant.is(envelope) {
                found = Some(StoredEvent::of(&batch.stream, stream, &sighting));
                return ControlFlow::Break(());
            }
            let (name, key) = (envelope.name(), quoted(envelope.key().unwrap_or_default()));
            taken = Some(format!(
                "sequence {sequence} of {} is {name} {key}",
                batch.stream
            ));
            ControlFlow::Continue(())
        };
        let read = bus.seek(&batch.stream, start, last, most, see).await;
        read.map_err(|error| Some(error.to_string()))?;
        let (name, what) = (&batch.stream, format!("sequences {first} to {last}"));
        self.say(name, format!("{what}, by the ledger of the outbox"));
        let taken = taken.filter(|_| found.is_none());
        Ok((found, taken.map(|taken| taken.trim_end().to_owned())))
    }

    /// Reads the batches of events that were found without a row, or in one of several batches.
    async fn read_batches(&mut self) {
        let all: Vec<Told> = self.events.keys().copied().collect();
        for id in all {
            let Some(event) = self.events.get(&id) else {
                continue;
            };
            let there: Vec<StoredEvent> = event
                .stored
                .iter()
                .filter(|stored| stored.is_there)
                .cloned()
                .collect();
            let mut batches = Vec::new();
            for stored in &there {
                let (stream, incarnation) = (&stored.stream, &stored.incarnation);
                let found: Vec<TracedBatch> =
                    ask!(self, records => records.batches_at(stream, incarnation, stored.sequence));
                batches.extend(found);
            }
            batches.sort_by_key(|batch| batch.at);
            batches.dedup();
            if let Some(event) = self.events.get_mut(&id)
                && !there.is_empty()
            {
                event.stored = there;
                event.batches = batches;
            }
        }
    }

    /// Reads the rows of events that streams have, or had, and that are not among the newest rows.
    async fn read_left_out_rows(&mut self, inventory: &Inventory) {
        if matches!(self.target, TraceTarget::Event(_)) {
            return;
        }
        // When the ledger has no batch at a position, no relay has published the event.
        let has_one = |event: &TracedEvent| {
            let is_stored = event.stored.iter().any(|stored| stored.is_there);
            let is_absent = matches!(event.outbox, OutboxTrace::Absent { .. });
            is_absent && (!is_stored || !event.batches.is_empty())
        };
        let left_out = self.events.iter().filter(|(_, event)| has_one(event));
        let left_out: Vec<Told> = left_out.map(|(told, _)| *told).collect();
        for told in left_out {
            let target = TraceTarget::Event(told.0);
            let rows: Vec<Noted> = ask!(self, records => records.rows(&target, None, ROWS_OF_ONE));
            let Some(event) = self.events.get_mut(&told) else {
                continue;
            };
            let is_it = |row: &Noted| {
                let is_parked = matches!(row.outbox, OutboxTrace::Parked { .. });
                let is_named = row.name == event.name && row.version == event.version;
                !is_parked && is_named && row.key == event.key
            };
            if let Some(row) = rows.into_iter().find(is_it) {
                event.outbox = row.outbox;
            }
        }
        self.read_ledger(inventory).await;
    }

    fn told(self) -> Traced {
        let Self {
            trace,
            mut searched,
            events,
            ..
        } = self;
        let mut events: Vec<TracedEvent> = events.into_values().collect();
        for event in &mut events {
            event.subscribers.iter_mut().for_each(|one| one.conclude());
        }
        events.sort_by_key(|event| (event.first_seen_at(), event.event));
        if events.len() >= trace.limit && !matches!(self.target, TraceTarget::Event(_)) {
            events.drain(..events.len() - trace.limit);
            let what = format!(
                "only the newest {} events are shown; there may be more",
                trace.limit
            );
            searched.push(Searched {
                place: "events".to_owned(),
                what,
                was_searched: true,
                is_unseen: false,
            });
        }
        Traced { events, searched }
    }
}

/// Whether a stream takes events of a name.
pub(super) fn takes(stream: &Expanse, name: &str) -> bool {
    let patterns = stream
        .subjects
        .iter()
        .filter_map(|subject| Pattern::parse(subject).ok());
    let mut patterns = patterns;
    Name::parse(name).is_ok_and(|name| patterns.any(|pattern| pattern.covers(&name)))
}

/// The time in a UUIDv7.
pub(super) fn made_at(id: EventId) -> Option<DateTime<Utc>> {
    let (seconds, nanos) = id.as_uuid().get_timestamp()?.to_unix();
    DateTime::from_timestamp(i64::try_from(seconds).ok()?, nanos)
}

pub(super) fn time(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Secs, true)
}
