//! Searching for events, place by place: the outbox, its ledger, the streams. Never decides what became of them.

use std::{
    collections::{BTreeMap, VecDeque},
    ops::ControlFlow,
    sync::Arc,
};

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use tidings_contract::{EventId, Name, Pattern};

use super::{
    Sought, Trace, TraceError,
    inventory::Inventory,
    records::{Noted, Records, RecordsError},
    report::{OutboxTrace, Searched, StoredEvent, Traced, TracedBatch, TracedEvent},
    told::{Meant, Told},
};
use crate::bus::{Expanse, Read, Sighting, Start, quoted};

/// How far clocks may be apart.
const SKEW: TimeDelta = TimeDelta::minutes(5);
/// How far back streams are read when nothing says more.
const DAY: TimeDelta = TimeDelta::days(1);
/// Rows of one id that are looked at.
const ROWS_OF_ONE: usize = 20;

/// A search on its way.
pub(super) struct Search<'a> {
    pub(super) trace: &'a Trace,
    pub(super) sought: &'a Sought,
    pub(super) records: Option<Arc<dyn Records>>,
    pub(super) searched: Vec<Searched>,
    pub(super) events: BTreeMap<Told, TracedEvent>,
}

/// Asks the outbox; nothing when there is none, or it does not answer.
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
    pub(super) fn new(trace: &'a Trace, sought: &'a Sought) -> Self {
        Self {
            trace,
            sought,
            records: trace.records.clone(),
            searched: Vec::new(),
            events: BTreeMap::new(),
        }
    }

    pub(super) async fn run(mut self) -> Result<Traced, TraceError> {
        self.read_rows().await;
        let known = ask!(self, records => records.streams());
        let inventory = Inventory::take(self.trace, known).await?;
        if matches!(self.sought, Sought::Event(_)) {
            self.read_ledger(&inventory).await?;
            if self.is_anywhere_else() {
                self.read_streams(&inventory).await?;
            }
        } else {
            self.read_streams(&inventory).await?;
            self.read_ledger(&inventory).await?;
        }
        self.read_retries().await?;
        self.read_letters().await?;
        self.read_batches().await;
        self.read_left_out_rows(&inventory).await?;
        self.read_inbox(&inventory).await;
        self.explain(&inventory).await;
        Ok(self.told())
    }

    /// The outbox does not answer, and is not asked again.
    pub(super) fn lose<T: Default>(&mut self, error: RecordsError) -> T {
        self.records = None;
        let mut text = error.to_string();
        let mut cause = error.source();
        while let Some(next) = cause {
            text = format!("{text}: {next}");
            cause = next.source();
        }
        self.miss("outbox", format!("not searched: {text}"));
        T::default()
    }

    pub(super) fn say(&mut self, place: &str, what: impl Into<String>) {
        self.searched.push(Searched {
            place: place.to_owned(),
            what: what.into(),
            was_searched: true,
        });
    }

    /// It was not searched.
    pub(super) fn miss(&mut self, place: &str, why: impl Into<String>) {
        self.searched.push(Searched {
            place: place.to_owned(),
            what: why.into(),
            was_searched: false,
        });
    }

    async fn read_rows(&mut self) {
        if self.records.is_none() {
            return self.miss("outbox", format!("not searched: {}", self.trace.without));
        }
        let since = match self.sought {
            Sought::Event(_) => None,
            _ => Some(self.since()),
        };
        let (sought, limit) = (self.sought, self.trace.limit);
        let rows: Vec<Noted> = ask!(self, records => records.rows(sought, since, limit));
        for row in rows {
            let id = row.event;
            let mut event = match &row.envelope {
                Some(envelope) => TracedEvent::of(envelope),
                None => TracedEvent::named(id, &row.name, row.version, row.key.clone()),
            };
            event.outbox = row.outbox;
            // The newest row comes first. Of the same event once more it is enough, but what is parked is by itself.
            let is_parked = matches!(event.outbox, OutboxTrace::Parked { .. });
            if is_parked || self.like(&event.meant()).is_none() {
                self.add(event);
            }
        }
        if self.records.is_some() {
            let how = match since {
                Some(since) => format!(
                    "all that is committed since {}, delayed or parked",
                    time(since)
                ),
                None => "all that it keeps".to_owned(),
            };
            self.say("outbox", how);
        }
    }

    /// From when on streams are read.
    pub(super) fn since(&self) -> DateTime<Utc> {
        if let Some(since) = self.trace.since {
            return since;
        }
        let Sought::Event(id) = self.sought else {
            return Utc::now() - DAY;
        };
        let written = self.of_id(*id).filter_map(|(_, event)| event.written_at());
        let earliest = written.chain(made_at(*id)).min();
        earliest.unwrap_or_else(|| Utc::now() - DAY) - SKEW
    }

    /// Whether the event may be in a stream where the ledger has not led to.
    fn is_anywhere_else(&self) -> bool {
        let mut events = self.events.values();
        !events.any(|event| {
            let is_away = matches!(
                event.outbox,
                OutboxTrace::Delayed { .. } | OutboxTrace::Parked { .. }
            );
            is_away || event.stored.iter().any(|stored| stored.is_there)
        })
    }

    /// Where the ledger says that the rows went which are not found yet.
    async fn read_ledger(&mut self, inventory: &Inventory) -> Result<(), TraceError> {
        let rows: Vec<(Told, Meant, i64)> = self
            .events
            .iter()
            .filter(|(_, event)| event.stored.is_empty() && event.batches.is_empty())
            .filter_map(|(told, event)| Some((*told, event.meant(), event.outbox.row()?)))
            .collect();
        for (told, meant, row) in rows {
            let batches: Vec<TracedBatch> = ask!(self, records => records.batches_of(row));
            let batches = batches.into_iter().filter(|batch| {
                let stream = inventory.streams.get(&batch.stream);
                let Some(Some(stream)) = stream else {
                    return true;
                };
                stream.incarnation != batch.incarnation || takes(stream, &meant.name)
            });
            for batch in batches.collect::<Vec<_>>() {
                let (found, taken) = self.look_into(&batch, &meant, inventory).await?;
                let Some(event) = self.events.get_mut(&told) else {
                    continue;
                };
                let exact = batch.sequence_of(row).filter(|_| taken.is_none());
                let place = found.or_else(|| exact.map(|at| StoredEvent::missing(&batch, at)));
                event.taken = event.taken.take().or(taken);
                // What was published again may be where it was, and two batches have the place.
                event
                    .stored
                    .extend(place.filter(|place| !event.stored.contains(place)));
                event.batches.push(batch);
            }
        }
        Ok(())
    }

    /// Reads what a stream holds of a batch: the event, else another one that has its id.
    async fn look_into(
        &mut self,
        batch: &TracedBatch,
        meant: &Meant,
        inventory: &Inventory,
    ) -> Result<(Option<StoredEvent>, Option<String>), TraceError> {
        let Some(Some(stream)) = inventory.streams.get(&batch.stream) else {
            return Ok((None, None));
        };
        if stream.incarnation != batch.incarnation || batch.last_sequence < stream.first {
            return Ok((None, None));
        }
        let (mut found, mut taken) = (None, None);
        let (first, last) = (batch.first_sequence, batch.last_sequence);
        let start = Start::Sequence(first);
        let (bus, most) = (&self.trace.bus, last - first + 1);
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
        bus.seek(&batch.stream, start, last, most, see).await?;
        let (name, what) = (&batch.stream, format!("sequences {first} to {last}"));
        self.say(name, format!("{what}, by the ledger of the outbox"));
        let taken = taken.filter(|_| found.is_none());
        Ok((found, taken.map(|taken| taken.trim_end().to_owned())))
    }

    /// Reads the headers of the streams.
    async fn read_streams(&mut self, inventory: &Inventory) -> Result<(), TraceError> {
        let start = Start::Time(self.since());
        let is_one = matches!(self.sought, Sought::Event(_));
        let (sought, limit) = (self.sought, self.trace.limit);
        for (name, stream) in &inventory.streams {
            let Some(stream) = stream else {
                self.miss(name, "there is no such stream");
                continue;
            };
            let mut found: VecDeque<Sighting> = VecDeque::new();
            let see = |sighting: Sighting| {
                if sought.means(&sighting.envelope) {
                    found.push_back(sighting);
                    if found.len() > limit {
                        found.pop_front();
                    }
                }
                match is_one && !found.is_empty() {
                    true => ControlFlow::Break(()),
                    false => ControlFlow::Continue(()),
                }
            };
            let (bus, most) = (&self.trace.bus, self.trace.messages);
            let read = bus.seek(name, start, stream.last, most, see).await?;
            self.say(name, said(&read));
            for sighting in found {
                let stored = StoredEvent::of(name, stream, &sighting);
                self.meet(&sighting.envelope).stored.push(stored);
            }
        }
        Ok(())
    }

    /// The batches of what was found without a row, and of what was found in one of several.
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

    /// The rows of events that streams have, or had, and that are not among the newest rows that were read.
    async fn read_left_out_rows(&mut self, inventory: &Inventory) -> Result<(), TraceError> {
        if matches!(self.sought, Sought::Event(_)) {
            return Ok(());
        }
        // Where the ledger knows no batch of a place, no relay has published it.
        let has_one = |event: &TracedEvent| {
            let is_stored = event.stored.iter().any(|stored| stored.is_there);
            let is_absent = matches!(event.outbox, OutboxTrace::Absent { .. });
            is_absent && (!is_stored || !event.batches.is_empty())
        };
        let left_out = self.events.iter().filter(|(_, event)| has_one(event));
        let left_out: Vec<Told> = left_out.map(|(told, _)| *told).collect();
        for told in left_out {
            let sought = Sought::Event(told.0);
            let rows: Vec<Noted> = ask!(self, records => records.rows(&sought, None, ROWS_OF_ONE));
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
        self.read_ledger(inventory).await
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
        if events.len() >= trace.limit && !matches!(self.sought, Sought::Event(_)) {
            events.drain(..events.len() - trace.limit);
            let what = format!("the newest {} are told; there may be more", trace.limit);
            searched.push(Searched {
                place: "events".to_owned(),
                what,
                was_searched: true,
            });
        }
        Traced { events, searched }
    }
}

impl TracedEvent {
    pub(super) fn named(event: EventId, name: &str, version: u32, key: Option<String>) -> Self {
        Self {
            event,
            name: name.to_owned(),
            version,
            key,
            correlation_id: event.to_string(),
            causation_id: None,
            source: None,
            outbox: OutboxTrace::Absent { why: String::new() },
            batches: Vec::new(),
            stored: Vec::new(),
            unstored: None,
            taken: None,
            subscribers: Vec::new(),
        }
    }

    fn written_at(&self) -> Option<DateTime<Utc>> {
        match &self.outbox {
            OutboxTrace::Waiting { written_at, .. }
            | OutboxTrace::Relayed { written_at, .. }
            | OutboxTrace::Parked { written_at, .. }
            | OutboxTrace::Delayed { written_at, .. } => Some(*written_at),
            _ => None,
        }
    }

    /// The earliest that is known of it.
    pub(super) fn first_seen_at(&self) -> DateTime<Utc> {
        let stored = self.stored.iter().filter_map(|stored| stored.stored_at);
        let earliest = stored.chain(self.written_at()).min();
        let letters = || {
            let all = self.subscribers.iter().flat_map(|one| &one.dead_letters);
            all.map(|letter| letter.at).min()
        };
        let earliest = earliest.or_else(letters).or_else(|| made_at(self.event));
        earliest.unwrap_or(DateTime::UNIX_EPOCH)
    }
}

impl OutboxTrace {
    /// The place in the log.
    fn row(&self) -> Option<i64> {
        match self {
            Self::Waiting { row, .. } | Self::Relayed { row, .. } => Some(*row),
            _ => None,
        }
    }
}

impl TracedBatch {
    /// The sequence of a row, when no place of the batch's range is another batch's.
    fn sequence_of(&self, row: i64) -> Option<u64> {
        let places = u64::try_from(self.last_row - self.first_row + 1).ok()?;
        let at = u64::try_from(row - self.first_row).ok()?;
        (places == self.events).then_some(self.first_sequence + at)
    }
}

impl StoredEvent {
    fn of(name: &str, stream: &Expanse, sighting: &Sighting) -> Self {
        Self {
            stream: name.to_owned(),
            sequence: sighting.sequence,
            stored_at: Some(sighting.stored_at),
            is_there: true,
            incarnation: stream.incarnation.clone(),
            identity: sighting.identity.clone(),
        }
    }

    fn missing(batch: &TracedBatch, sequence: u64) -> Self {
        Self {
            stream: batch.stream.clone(),
            sequence,
            stored_at: None,
            is_there: false,
            incarnation: batch.incarnation.clone(),
            identity: String::new(),
        }
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
fn made_at(id: EventId) -> Option<DateTime<Utc>> {
    let (seconds, nanos) = id.as_uuid().get_timestamp()?.to_unix();
    DateTime::from_timestamp(i64::try_from(seconds).ok()?, nanos)
}

fn said(read: &Read) -> String {
    let Some((from, to)) = read.from.zip(read.to) else {
        return "nothing was stored in the time that was searched".to_owned();
    };
    let Read {
        messages, is_cut, ..
    } = read;
    let more = match is_cut {
        true => "; those before were not read",
        false => "",
    };
    format!(
        "{messages} messages, of {} to {}{more}",
        time(from),
        time(to)
    )
}

pub(super) fn time(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Secs, true)
}
