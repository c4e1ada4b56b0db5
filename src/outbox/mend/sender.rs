//! Sends rows again: in the order of their places, at a rate, and writes down where they are. Never decides which
//! rows, and never what is missing.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use tidings_contract::wire;
use tokio::time::Instant;

use super::{
    LEASE, RepublishError, Way,
    lane::{Form, Item, Lane, fresh},
};
use crate::{
    bus::Bus,
    outbox::{Outbox, OutboxError, Store, store::Row},
};

/// Rows that are read at once.
const ROWS: usize = 10_000;
/// How often it is looked whether somebody else has ended.
const LOOK: Duration = Duration::from_millis(500);
/// Entries are written down no later than this.
const WRITE: Duration = Duration::from_secs(1);

/// Where streams ended when it was found out what is missing.
pub(crate) type Ends = BTreeMap<String, u64>;

/// How rows are to be sent.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sending {
    /// What stands before the event's name in the subject.
    pub(crate) prefix: Option<String>,
    /// Although the stream may hold them: as other messages than those.
    pub(crate) is_forced: bool,
    /// The time from one event to the next.
    pub(crate) interval: Option<Duration>,
}

/// Sends rows again. It has the lease of whoever does from its beginning to its end.
pub(crate) struct Sender<DB: Store> {
    bus: Bus,
    outbox: Outbox<DB>,
    name: String,
    form: Form,
    interval: Option<Duration>,
    ends: Ends,
    /// Per event's name, its stream.
    streams: HashMap<String, String>,
    lanes: BTreeMap<String, Lane>,
    /// When the next event may go.
    due: Instant,
    written_at: Instant,
    renewed_at: Instant,
    /// Events by stream, as they are written down.
    sent: BTreeMap<String, u64>,
}

impl<DB: Store> Sender<DB> {
    /// Takes the lease.
    pub(crate) async fn begin(
        bus: &Bus,
        outbox: &Outbox<DB>,
        sending: Sending,
    ) -> Result<Self, RepublishError> {
        let name = fresh();
        let asked = Instant::now();
        // One that has died lets its lease run out.
        while let Err(error) = outbox.mend(&name).await {
            let is_busy = matches!(error, RepublishError::Busy);
            if !is_busy || asked.elapsed() > LEASE + LOOK {
                return Err(error);
            }
            tracing::info!("somebody else publishes again, or has until a moment ago: waiting");
            tokio::time::sleep(LOOK).await;
        }
        let now = Instant::now();
        Ok(Self {
            bus: bus.clone(),
            outbox: outbox.clone(),
            form: Form {
                prefix: sending.prefix,
                source: outbox.shared.source.clone(),
                run: name.clone(),
                suffix: sending.is_forced.then(|| name.clone()),
            },
            name,
            interval: sending.interval,
            ends: Ends::new(),
            streams: HashMap::new(),
            lanes: BTreeMap::new(),
            due: now,
            written_at: now,
            renewed_at: now,
            sent: BTreeMap::new(),
        })
    }

    /// Behind these ends lies whatever was stored since it was found out what is missing.
    pub(crate) fn behind(&mut self, ends: Ends) {
        self.ends = ends;
    }

    /// The stream that takes an event of a name.
    pub(crate) async fn stream_of(&mut self, name: &str) -> Result<String, RepublishError> {
        if let Some(stream) = self.streams.get(name) {
            return Ok(stream.clone());
        }
        let subject = self.form.subject(name);
        let stream = self.bus.stream_of(&subject).await?;
        let stream = stream.ok_or(RepublishError::NoStream { subject })?;
        self.streams.insert(name.to_owned(), stream.clone());
        Ok(stream)
    }

    /// Sends the rows at these places, which are in their order, and waits until they are stored and written
    /// down. Returns how many there were; the others are no longer kept.
    pub(crate) async fn send(&mut self, mut places: &[i64]) -> Result<u64, RepublishError> {
        let mut read = 0;
        let outbox = self.outbox.clone();
        let page = |places: &[i64]| places[..places.len().min(ROWS)].to_vec();
        let mut next = outbox.rows_at(&page(places)).await?;
        while !places.is_empty() {
            let (rows, covered) = next;
            read += rows.len() as u64;
            places = &places[covered..];
            let ahead = page(places);
            let reading = async {
                match ahead.is_empty() {
                    true => Ok((Vec::new(), 0)),
                    false => outbox.rows_at(&ahead).await,
                }
            };
            let (sent, page) = futures::join!(self.send_page(rows), reading);
            sent?;
            next = page?;
        }
        for lane in self.lanes.values_mut() {
            lane.land().await?;
        }
        self.write().await?;
        Ok(read)
    }

    /// Ends the lease; what was sent, by stream.
    pub(crate) async fn end(self) -> Result<BTreeMap<String, u64>, OutboxError> {
        self.outbox.mended(&self.name).await?;
        Ok(self.sent)
    }

    async fn send_page(&mut self, rows: Vec<Row>) -> Result<(), RepublishError> {
        let mut by_stream: BTreeMap<String, Vec<Item>> = BTreeMap::new();
        for row in rows {
            let stream = self.stream_of(&row.name).await?;
            let item = item(row, &stream)?;
            by_stream.entry(stream).or_default().push(item);
        }
        for (stream, mut items) in by_stream {
            self.lane(&stream).await?;
            while !items.is_empty() {
                let at_most = self.burst();
                let Some(lane) = self.lanes.get_mut(&stream) else {
                    break;
                };
                let rest = items.split_off(lane.fits(&items, at_most));
                let batch = std::mem::replace(&mut items, rest);
                self.pace(batch.len()).await?;
                if let Some(lane) = self.lanes.get_mut(&stream) {
                    let sent = lane.send(batch).await;
                    if sent.is_err() {
                        // What is stored is written down, whatever comes of the others.
                        self.write().await?;
                    }
                    sent?;
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
        let lane = Lane::new(bus, stream.to_owned(), &state, end, form);
        self.lanes.insert(stream.to_owned(), lane);
        Ok(())
    }

    /// How many events may go at once: what is due in a tenth of a second.
    fn burst(&self) -> usize {
        let Some(interval) = self.interval else {
            return usize::MAX;
        };
        let due = Duration::from_millis(100).as_nanos() / interval.as_nanos().max(1);
        usize::try_from(due).unwrap_or(usize::MAX).max(1)
    }

    /// Waits until so many events may go; the lease is renewed meanwhile.
    async fn pace(&mut self, events: usize) -> Result<(), RepublishError> {
        loop {
            let now = Instant::now();
            if self.renewed_at.elapsed() > LEASE / 4 {
                self.outbox.mend(&self.name).await?;
                self.renewed_at = now;
            }
            let Some(interval) = self.interval else {
                return Ok(());
            };
            if self.due <= now {
                let events = u32::try_from(events).unwrap_or(u32::MAX);
                self.due = self.due.max(now) + interval * events;
                return Ok(());
            }
            // A commit is not on the wire before it is waited for.
            for lane in self.lanes.values_mut() {
                lane.land().await?;
            }
            tokio::time::sleep_until(self.due.min(now + LEASE / 8)).await;
        }
    }

    /// Writes down what is stored.
    async fn write(&mut self) -> Result<(), RepublishError> {
        let way = match self.form.prefix {
            Some(_) => Way::Copied,
            None => Way::Republished,
        };
        let lanes = self.lanes.values_mut();
        let entries: Vec<_> = lanes.flat_map(Lane::take_entries).collect();
        if !entries.is_empty() {
            self.outbox.record(&entries, way).await?;
        }
        for entry in entries {
            let events = u64::try_from(entry.events).unwrap_or(0);
            *self.sent.entry(entry.stream).or_default() += events;
        }
        self.written_at = Instant::now();
        Ok(())
    }
}

fn item(row: Row, stream: &str) -> Result<Item, RepublishError> {
    let version = u32::try_from(row.version).unwrap_or(0);
    let key = row.key.as_deref();
    let payload = row.payload.clone();
    let read = wire::from_stored(row.event, &row.name, version, key, &row.headers, payload);
    match read {
        Ok(envelope) => Ok(Item { row, envelope }),
        Err(error) => Err(RepublishError::NotTaken {
            stream: stream.to_owned(),
            row: row.id,
            reason: error.to_string(),
        }),
    }
}
