//! Decides which stream a row goes to, and which rows can never be published. Rows keep their order within a stream.

use std::{collections::HashMap, ops::ControlFlow, sync::Arc, time::Duration};

use tidings_contract::{Envelope, wire};
use tokio::{
    sync::{Semaphore, mpsc},
    task::JoinSet,
};

use super::{
    Fault,
    failpoint::{self, Point},
    fault_of,
    lane::RelayLane,
    lane_context::{Item, LaneContext, ReadFrom},
    progress::{Confirmation, Origin, Report},
    resume::Known,
};
use crate::{
    nats::{Cause, check_size},
    outbox::store::{Cursor, Page, Row},
    policy::issue_kind::IssueKind,
};

/// How many rows may wait in a lane, in addition to the batches in flight.
const LANE_QUEUE: usize = 2048;
/// How much payload a lane may hold, in KiB, one row excepted.
const LANE_KIB: u32 = 16 * 1024;
/// The pause between two checks whether another key may wait.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// The cure when no stream takes a name.
const UNBOUND: &str = "tidings streams apply, with a [[stream]] that takes it";

pub(super) struct Router<C> {
    context: Arc<LaneContext<C>>,
    /// The stream of each name.
    streams: HashMap<String, String>,
    lanes: HashMap<String, Entrance>,
    tasks: JoinSet<Result<(), Fault>>,
}

/// The entrance of a lane. It blocks when the lane holds enough, by count or by size.
struct Entrance {
    items: mpsc::Sender<Item>,
    memory: Arc<Semaphore>,
}

impl Entrance {
    /// Returns false when the lane has ended.
    async fn send(&self, origin: Origin, row: Row, envelope: Envelope) -> bool {
        let kib = u32::try_from(row.payload.len() / 1024 + 1).unwrap_or(LANE_KIB);
        let memory = Arc::clone(&self.memory);
        let Ok(share) = memory.acquire_many_owned(kib.min(LANE_KIB)).await else {
            return false;
        };
        let item = Item {
            row,
            envelope,
            note: ReadFrom {
                origin,
                _share: share,
            },
        };
        self.items.send(item).await.is_ok()
    }
}

impl<C: Cursor> Router<C> {
    pub(super) fn new(context: LaneContext<C>) -> Self {
        Self {
            context: Arc::new(context),
            streams: HashMap::new(),
            lanes: HashMap::new(),
            tasks: JoinSet::new(),
        }
    }

    /// Routes until the pages end, then waits until the lanes have sent everything.
    pub(super) async fn run(mut self, mut pages: mpsc::Receiver<Page<C>>) -> Result<(), Fault> {
        for number in 0.. {
            let Some(page) = self.received(&mut pages).await? else {
                break;
            };
            let Page {
                rows,
                next,
                is_whole,
                is_cut: _,
                due_in: _,
            } = page;
            let report = Report::Page {
                number,
                rows: rows.len(),
                next,
                is_whole,
            };
            if !rows.is_empty() {
                failpoint::reach(&self.context.owner, Point::Fetched).await;
            }
            self.context.report(report).await?;
            if self.route_all(Origin::Page(number), rows).await?.is_break() {
                break;
            }
        }
        self.end().await
    }

    /// Does the same for parked rows.
    pub(super) async fn run_parked(
        mut self,
        mut parked: mpsc::Receiver<Vec<Row>>,
    ) -> Result<(), Fault> {
        while let Some(rows) = self.received(&mut parked).await? {
            if self.route_all(Origin::Parked, rows).await?.is_break() {
                break;
            }
        }
        self.end().await
    }

    /// Returns the next value, unless a lane ends first; `None` at the end, and when the lanes have stopped.
    async fn received<T>(&mut self, from: &mut mpsc::Receiver<T>) -> Result<Option<T>, Fault> {
        tokio::select! {
            received = from.recv() => Ok(received),
            Some(ended) = self.tasks.join_next() => match ended {
                Ok(Ok(())) if self.context.stop.is_cancelled() => Ok(None),
                ended => Err(fault_of(ended)),
            },
        }
    }

    async fn end(mut self) -> Result<(), Fault> {
        self.lanes.clear();
        while let Some(ended) = self.tasks.join_next().await {
            match ended {
                Ok(Ok(())) => {}
                ended => return Err(fault_of(ended)),
            }
        }
        Ok(())
    }

    /// Breaks when the relay is told to stop while a row waits: the remaining rows are not done, so the cursor does
    /// not pass them.
    async fn route_all(
        &mut self,
        origin: Origin,
        rows: Vec<Row>,
    ) -> Result<ControlFlow<()>, Fault> {
        for row in rows {
            match self.route(origin, row).await {
                Err(Fault::Stopped) => return Ok(ControlFlow::Break(())),
                routed => routed?,
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    async fn route(&mut self, origin: Origin, row: Row) -> Result<(), Fault> {
        let envelope = match self.envelope(&row) {
            Ok(envelope) => envelope,
            Err(error) => {
                let parked = self.context.parked_keys.refuse(row, error);
                return self.context.park(vec![origin], vec![parked]).await;
            }
        };
        while self.context.parked_keys.is_full_for(&row.name) {
            self.wait().await?;
        }
        let Some(stream) = self.stream(&row.name).await? else {
            let context = &self.context;
            let known = context
                .stored
                .anywhere(&context.bus, row.id, (&envelope).into());
            match known.await? {
                (Known::Event(_), entry) => {
                    let confirmation = Confirmation::of_one(origin, row.id, entry);
                    return context.report(Report::Confirmed(confirmation)).await;
                }
                (Known::Other(other), _) => {
                    let parked = context.parked_keys.refuse(row, other);
                    return context.park(vec![origin], vec![parked]).await;
                }
                (Known::Nothing, _) => {}
            }
            return match self.context.parked_keys.take(None, &row) {
                Some(parked) => self.context.park(vec![origin], vec![parked]).await,
                None => Err(Fault::Ended(row.name)),
            };
        };
        let lane = self.lane(&stream).await?;
        if !lane.send(origin, row, envelope).await {
            if self.context.stop.is_cancelled() {
                return Err(Fault::Stopped);
            }
            // The lane has ended; its result states why.
            return Err(match self.tasks.join_next().await {
                Some(ended) => fault_of(ended),
                None => Fault::Ended(format!("the lane of stream {stream}")),
            });
        }
        Ok(())
    }

    async fn wait(&self) -> Result<(), Fault> {
        tokio::select! {
            () = self.context.stop.cancelled() => Err(Fault::Stopped),
            () = tokio::time::sleep(LOOK_AGAIN) => Ok(()),
        }
    }

    /// The event of a row, or why NATS will never take it.
    fn envelope(&self, row: &Row) -> Result<Envelope, String> {
        let envelope = row.envelope()?;
        let defaults = wire::Defaults::new(&self.context.source, row.at);
        check_size(&envelope, defaults, self.context.bus.max_payload())
            .map_err(|error| format!("{error}, {}", error.why()))?;
        Ok(envelope)
    }

    /// Returns the stream that takes a name; `None` when the name's events wait. No answer is a fault: during an
    /// election no server knows.
    async fn stream(&mut self, name: &str) -> Result<Option<String>, Fault> {
        if let Some(stream) = self.streams.get(name) {
            return Ok(Some(stream.clone()));
        }
        // Until the waiting rows are restored, no later row may overtake them.
        if self.context.parked_keys.is_closed_name(name) {
            return Ok(None);
        }
        if let Some(stream) = self.context.bus.stream_of(name).await? {
            self.context.parked_keys.feeds(&stream);
            self.streams.insert(name.to_owned(), stream.clone());
            return Ok(Some(stream));
        }
        let unbound = Cause {
            kind: IssueKind::NoStream,
            is_of_subject: true,
            reason: format!("no stream takes {name}"),
            cure: UNBOUND,
        };
        self.context.close_name(name, &unbound);
        Ok(None)
    }

    /// Returns the lane of a stream, starting it with the first row for it.
    async fn lane(&mut self, stream: &str) -> Result<&Entrance, Fault> {
        if !self.lanes.contains_key(stream) {
            let Some(state) = self.context.bus.stream_state(stream).await? else {
                self.streams.clear();
                return Err(Fault::Gone {
                    stream: stream.to_owned(),
                });
            };
            if !state.atomic {
                tracing::warn!(
                    stream,
                    "atomic batches unavailable: events are published one by one; run `tidings streams apply`"
                );
            }
            let batch = if state.atomic { self.context.batch } else { 1 };
            let (items, queue) = mpsc::channel(LANE_QUEUE);
            let lane = RelayLane::new(Arc::clone(&self.context), stream.to_owned(), &state, batch);
            self.tasks.spawn(lane.run(queue));
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
