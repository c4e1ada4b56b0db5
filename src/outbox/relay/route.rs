//! Which stream a row goes to, and what never goes to any. Rows keep their order within a stream.

use std::{collections::HashMap, ops::ControlFlow, sync::Arc, time::Duration};

use tidings_contract::{Envelope, wire};
use tokio::{
    sync::{Semaphore, mpsc},
    task::JoinSet,
    time::Instant,
};

use super::{
    Course, Fault,
    failpoint::{self, Point},
    fault_of,
    lane::{Item, Lane},
    progress::Report,
};
use crate::{
    bus::check_size,
    outbox::store::{Cursor, Page, Parked, Row},
};

/// Rows that a lane may have waiting besides the batches that it is sending.
const LANE_QUEUE: usize = 2048;
/// How much payload a lane may hold, in KiB, one row excepted.
const LANE_KIB: u32 = 16 * 1024;
/// How often it is asked whether a stream has appeared.
const ASK_AGAIN: Duration = Duration::from_secs(1);
/// How often that is said.
const WARN_AGAIN: Duration = Duration::from_secs(10);
/// How long it is believed that no stream takes a subject.
const BELIEVE_UNBOUND: Duration = Duration::from_secs(30);

pub(super) struct Router<C> {
    course: Arc<Course<C>>,
    /// Per name, its stream; `Err` until when it is believed that there is none.
    streams: HashMap<String, Result<String, Instant>>,
    lanes: HashMap<String, Entrance>,
    crew: JoinSet<Result<(), Fault>>,
}

/// Where rows enter a lane. It holds them back when the lane has enough, by count or by size.
struct Entrance {
    items: mpsc::Sender<Item>,
    memory: Arc<Semaphore>,
}

impl Entrance {
    /// False when the lane has ended.
    async fn send(&self, page: u64, row: Row, envelope: Envelope) -> bool {
        let kib = u32::try_from(row.payload.len() / 1024 + 1).unwrap_or(LANE_KIB);
        let memory = Arc::clone(&self.memory);
        let Ok(share) = memory.acquire_many_owned(kib.min(LANE_KIB)).await else {
            return false;
        };
        let item = Item {
            page,
            row,
            envelope,
            _share: share,
        };
        self.items.send(item).await.is_ok()
    }
}

impl<C: Cursor> Router<C> {
    pub(super) fn new(course: Course<C>) -> Self {
        Self {
            course: Arc::new(course),
            streams: HashMap::new(),
            lanes: HashMap::new(),
            crew: JoinSet::new(),
        }
    }

    /// Routes until the pages end, then waits until the lanes have sent what they have.
    pub(super) async fn run(mut self, mut pages: mpsc::Receiver<Page<C>>) -> Result<(), Fault> {
        for number in 0.. {
            let page = tokio::select! {
                page = pages.recv() => page,
                Some(ended) = self.crew.join_next() => return Err(fault_of(ended)),
            };
            let Some(Page {
                rows,
                next,
                is_whole,
                ..
            }) = page
            else {
                break;
            };
            let report = Report::Page {
                number,
                rows: rows.len(),
                next,
                is_whole,
            };
            if !rows.is_empty() {
                failpoint::reach(&self.course.settings.owner, Point::Fetched).await;
            }
            self.course.report(report).await?;
            if self.route_all(number, rows).await?.is_break() {
                break;
            }
        }
        self.lanes.clear();
        while let Some(ended) = self.crew.join_next().await {
            match ended {
                Ok(Ok(())) => {}
                ended => return Err(fault_of(ended)),
            }
        }
        Ok(())
    }

    /// Breaks off when the relay is told to stop while it waits for a stream to appear: what is left is not
    /// done, so the cursor does not pass it.
    async fn route_all(&mut self, page: u64, rows: Vec<Row>) -> Result<ControlFlow<()>, Fault> {
        for row in rows {
            match self.route(page, row).await {
                Err(Fault::Stopped) => return Ok(ControlFlow::Break(())),
                routed => routed?,
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    async fn route(&mut self, page: u64, row: Row) -> Result<(), Fault> {
        let envelope = match self.envelope(&row) {
            Ok(envelope) => envelope,
            Err(error) => return self.park(page, row, error).await,
        };
        let Some(stream) = self.stream(&row.name).await? else {
            let error = format!("no stream takes {}", row.name);
            return self.park(page, row, error).await;
        };
        let lane = self.lane(&stream).await?;
        if !lane.send(page, row, envelope).await {
            // The lane has ended; its own words say why.
            return Err(match self.crew.join_next().await {
                Some(ended) => fault_of(ended),
                None => Fault::Ended(format!("the lane of stream {stream}")),
            });
        }
        Ok(())
    }

    /// The event of a row, or why NATS will never take it.
    fn envelope(&self, row: &Row) -> Result<Envelope, String> {
        let version = u32::try_from(row.version).unwrap_or(0);
        let key = row.key.as_deref();
        let payload = row.payload.clone();
        let read = wire::from_stored(row.event, &row.name, version, key, &row.headers, payload);
        let envelope = read.map_err(|error| error.to_string())?;
        let defaults = wire::Defaults {
            source: &self.course.source,
            time: row.at,
        };
        check_size(&envelope, defaults, self.course.bus.max_payload())
            .map_err(|error| error.to_string())?;
        Ok(envelope)
    }

    async fn park(&mut self, page: u64, row: Row, error: String) -> Result<(), Fault> {
        self.course.parking.block(row.key.as_deref(), row.id);
        let parked = Box::new(Parked { row, error });
        self.course.report(Report::Park { page, parked }).await
    }

    /// The stream that takes a name; `None` when there has been none for the time of grace. No answer
    /// is a fault: during an election nobody knows.
    async fn stream(&mut self, name: &str) -> Result<Option<String>, Fault> {
        match self.streams.get(name) {
            Some(Ok(stream)) => return Ok(Some(stream.clone())),
            Some(Err(until)) if Instant::now() < *until => return Ok(None),
            _ => {}
        }
        // Once a tenure: a name that has had its time holds nobody up again.
        let grace = match self.streams.get(name) {
            Some(Err(_)) => Duration::ZERO,
            _ => self.course.settings.unbound_grace,
        };
        let asked = Instant::now();
        let mut warn_at = asked;
        loop {
            if let Some(stream) = self.course.bus.stream_of(name).await? {
                self.streams.insert(name.to_owned(), Ok(stream.clone()));
                return Ok(Some(stream));
            }
            if asked.elapsed() >= grace {
                let until = Instant::now() + BELIEVE_UNBOUND;
                self.streams.insert(name.to_owned(), Err(until));
                return Ok(None);
            }
            if Instant::now() >= warn_at {
                let subject = name.to_owned();
                tracing::warn!("the relay waits: {}", Fault::Unbound { subject, grace });
                warn_at += WARN_AGAIN;
            }
            let left = grace.saturating_sub(asked.elapsed());
            tokio::select! {
                () = self.course.stop.cancelled() => return Err(Fault::Stopped),
                () = tokio::time::sleep(ASK_AGAIN.min(left)) => {}
            }
        }
    }

    /// The lane of a stream; it begins with the first row for it.
    async fn lane(&mut self, stream: &str) -> Result<&Entrance, Fault> {
        if !self.lanes.contains_key(stream) {
            let Some(state) = self.course.bus.stream_state(stream).await? else {
                self.streams.clear();
                return Err(Fault::Unbound {
                    subject: stream.to_owned(),
                    grace: self.course.settings.unbound_grace,
                });
            };
            if !state.atomic {
                tracing::warn!(
                    stream,
                    "the stream takes no atomic batches, so events go one by one: run `tidings streams apply`"
                );
            }
            let batch = if state.atomic {
                self.course.settings.batch
            } else {
                1
            };
            let (items, queue) = mpsc::channel(LANE_QUEUE);
            let lane = Lane::new(Arc::clone(&self.course), stream.to_owned(), &state, batch);
            self.crew.spawn(lane.run(queue));
            let entrance = Entrance {
                items,
                memory: Arc::new(Semaphore::new(LANE_KIB as usize)),
            };
            self.lanes.insert(stream.to_owned(), entrance);
        }
        self.lanes
            .get(stream)
            .ok_or_else(|| Fault::Ended(stream.to_owned()))
    }
}
