//! Republishes rows: in the order of their row ids, at a rate, and writes where they are into the ledger. Never
//! decides which rows, and never finds out what is missing.

use std::{collections::BTreeMap, time::Duration};

use tokio::{sync::mpsc, time::Instant};

use super::{
    Chosen, LEASE, RepublishError,
    form::{Form, Item, fresh},
    lane::RepublishLane,
    reading,
    streams::Streams,
    tenure::Tenure,
};
use crate::{
    nats::Bus,
    outbox::{Outbox, OutboxError, Store, store::Entry},
};

/// How many characters of a run's name its messages carry, from the end, which is random: each byte of a header
/// costs time.
const MARK: usize = 8;
/// How often to check whether another republisher has ended.
const LOOK: Duration = Duration::from_millis(500);
/// Entries are written to the ledger no later than this.
const WRITE: Duration = Duration::from_secs(1);

/// Where the streams ended when the missing rows were determined.
pub(crate) type Ends = BTreeMap<String, u64>;

/// How rows are to be sent.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sending {
    /// The prefix of the event's name in the subject.
    pub(crate) prefix: Option<String>,
    /// Sends even what the stream may hold: under new message ids.
    pub(crate) is_forced: bool,
    /// The time from one event to the next.
    pub(crate) interval: Option<Duration>,
}

/// Republishes rows. Holds the republisher's lease from beginning to end.
pub(crate) struct Sender<DB: Store> {
    bus: Bus,
    outbox: Outbox<DB>,
    tenure: Tenure<DB>,
    form: Form,
    interval: Option<Duration>,
    ends: Ends,
    streams: Streams,
    lanes: BTreeMap<String, RepublishLane>,
    /// When the next event may be sent.
    due: Instant,
    /// Entries that are stored in the stream and not written to the ledger yet.
    unwritten: Vec<Entry>,
    written_at: Instant,
}

impl<DB: Store> Sender<DB> {
    /// Takes the lease.
    pub(crate) async fn begin(
        bus: &Bus,
        outbox: &Outbox<DB>,
        sending: Sending,
    ) -> Result<Self, RepublishError> {
        outbox.check_home(bus).await?;
        let name = fresh();
        let asked = Instant::now();
        // A republisher that died leaves its lease to expire.
        let tenure = loop {
            match Tenure::begin(outbox, &name).await {
                Err(RepublishError::Busy) if asked.elapsed() <= LEASE + LOOK => {
                    tracing::info!("republish lease held: waiting for another republisher");
                    tokio::time::sleep(LOOK).await;
                }
                begun => break begun?,
            }
        };
        let mark = name[name.len() - MARK..].to_owned();
        tracing::info!(mark, "republish started");
        let now = Instant::now();
        Ok(Self {
            bus: bus.clone(),
            outbox: outbox.clone(),
            streams: Streams::new(bus, sending.prefix.clone()),
            form: Form {
                prefix: sending.prefix,
                source: outbox.shared.source.clone(),
                mark,
                is_forced: sending.is_forced,
                suffix: sending.is_forced.then_some(name),
            },
            tenure,
            interval: sending.interval,
            ends: Ends::new(),
            lanes: BTreeMap::new(),
            due: now,
            unwritten: Vec::new(),
            written_at: now,
        })
    }

    /// Sends these rows, and waits until they are stored and in the ledger. Returns how many the outbox no longer
    /// keeps.
    pub(crate) async fn send(
        &mut self,
        wanted: mpsc::Receiver<Chosen>,
    ) -> Result<u64, RepublishError> {
        let sent = self.send_all(wanted).await;
        if sent.is_err() {
            for lane in self.lanes.values_mut() {
                lane.leave().await;
            }
        }
        // Stored rows are written to the ledger, whether or not the others fail.
        let written = self.write().await;
        let gone = sent?;
        written?;
        Ok(gone)
    }

    async fn send_all(&mut self, wanted: mpsc::Receiver<Chosen>) -> Result<u64, RepublishError> {
        let mut reading = reading::read(&self.outbox, wanted);
        let mut gone = 0;
        while let Some(mut page) = reading.next().await? {
            gone += page.gone;
            self.ends.append(&mut page.ends);
            self.send_page(page.items).await?;
        }
        for lane in self.lanes.values_mut() {
            lane.land().await?;
        }
        Ok(gone)
    }

    /// Ends the lease. Returns how many messages were stored, by stream.
    pub(crate) async fn end(self) -> Result<BTreeMap<String, u64>, OutboxError> {
        self.tenure.end().await?;
        let lanes = self.lanes.into_iter();
        let stored = lanes.map(|(stream, lane)| (stream, lane.messages()));
        Ok(stored.filter(|(_, messages)| *messages > 0).collect())
    }

    async fn send_page(&mut self, items: Vec<Item>) -> Result<(), RepublishError> {
        let mut by_stream: BTreeMap<String, Vec<Item>> = BTreeMap::new();
        for item in items {
            let stream = self.streams.of(&item.row.name).await?;
            by_stream.entry(stream.to_string()).or_default().push(item);
        }
        for (stream, items) in by_stream {
            self.lane(&stream).await?;
            let mut items = items.into_iter();
            while !items.as_slice().is_empty() {
                let at_most = self.burst();
                let Some(lane) = self.lanes.get_mut(&stream) else {
                    break;
                };
                let fits = lane.fits(items.as_slice(), at_most);
                let batch: Vec<Item> = items.by_ref().take(fits).collect();
                self.pace(batch.len()).await?;
                if let Some(lane) = self.lanes.get_mut(&stream) {
                    lane.send(batch).await?;
                }
                if self.written_at.elapsed() > WRITE {
                    self.write().await?;
                }
            }
        }
        Ok(())
    }

    async fn lane(&mut self, stream: &str) -> Result<(), RepublishError> {
        if self.lanes.contains_key(stream) {
            return Ok(());
        }
        let Some(state) = self.bus.stream_state(stream).await? else {
            return Err(RepublishError::Changed {
                stream: stream.to_owned(),
            });
        };
        let end = self.ends.get(stream).copied();
        let (bus, form) = (self.bus.clone(), self.form.clone());
        let fence = self.tenure.fence().clone();
        let lane = RepublishLane::new(bus, fence, stream.to_owned(), &state, end, form);
        self.lanes.insert(stream.to_owned(), lane);
        Ok(())
    }

    /// How many events may be sent at once: those due in a tenth of a second.
    fn burst(&self) -> usize {
        let Some(interval) = self.interval else {
            return usize::MAX;
        };
        let due = Duration::from_millis(100).as_nanos() / interval.as_nanos().max(1);
        usize::try_from(due).unwrap_or(usize::MAX).max(1)
    }

    /// Waits until this many events may be sent.
    async fn pace(&mut self, events: usize) -> Result<(), RepublishError> {
        loop {
            self.tenure.fence().check()?;
            let now = Instant::now();
            let Some(interval) = self.interval else {
                return Ok(());
            };
            if self.due <= now {
                let events = u32::try_from(events).unwrap_or(u32::MAX);
                self.due = self.due.max(now) + interval * events;
                return Ok(());
            }
            // The pause is used to settle what is in flight.
            for lane in self.lanes.values_mut() {
                lane.land().await?;
            }
            tokio::time::sleep_until(self.due.min(now + LEASE / 8)).await;
        }
    }

    /// Writes the entries of stored rows to the ledger.
    async fn write(&mut self) -> Result<(), RepublishError> {
        let lanes = self.lanes.values_mut();
        self.unwritten
            .extend(lanes.flat_map(RepublishLane::take_entries));
        if !self.unwritten.is_empty() {
            self.outbox.record(&self.unwritten).await?;
        }
        self.unwritten.clear();
        self.written_at = Instant::now();
        Ok(())
    }
}
