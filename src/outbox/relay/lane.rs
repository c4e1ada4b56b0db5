//! One stream's lane: rows in order, in atomic batches, the next one under way while the last one's
//! commit is being answered. Never lets a row pass an earlier one of its key.
//!
//! Members of a batch are sent at once; its last message, the commit, is held back until the batch
//! before it is confirmed. So order holds and the round trip is hidden (+10–15 % measured).
//!
//! A batch costs the server about 3 ms however small it is. So a few rows of different keys go side by
//! side, each confirmed by itself: no key has two of them, hence none can pass another.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
};

use futures::{FutureExt, future::BoxFuture};
use tidings_contract::{Envelope, wire};
use tokio::{
    sync::{OwnedSemaphorePermit, mpsc, oneshot},
    time::Instant,
};

use super::{
    Course, Fault,
    failpoint::{self, Point},
    progress::Report,
};
use crate::{
    bus::{BatchId, Confirmed, Refusal, StreamState, Submission},
    outbox::store::{Cursor, Entry, Parked, Row},
};

/// No more payload than this in one batch, in bytes, one row excepted.
const BATCH_BYTES: usize = 4 * 1024 * 1024;

/// A row on its way.
pub(super) struct Item {
    pub(super) page: u64,
    pub(super) row: Row,
    pub(super) envelope: Envelope,
    /// Its share of the memory that a lane may hold.
    pub(super) _share: OwnedSemaphorePermit,
}

/// Until when this process may publish, by its own monotonic clock.
#[derive(Clone)]
pub(super) struct Fence(Arc<Mutex<Instant>>);

impl Fence {
    pub(super) fn until(moment: Instant) -> Self {
        Self(Arc::new(Mutex::new(moment)))
    }

    pub(super) fn extend(&self, moment: Instant) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = moment;
    }

    fn moment(&self) -> Instant {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends when the fence is not extended in time.
    pub(super) async fn passed(&self) {
        while Instant::now() < self.moment() {
            tokio::time::sleep_until(self.moment()).await;
        }
    }

    /// What stands for the server's answer when the time is over.
    fn refuse(&self) -> Result<(), Refusal> {
        self.check().map_err(|over| Refusal::Transient {
            code: 0,
            reason: over.to_string(),
        })
    }

    fn check(&self) -> Result<(), Fault> {
        if Instant::now() < self.moment() {
            Ok(())
        } else {
            Err(Fault::Fenced)
        }
    }
}

/// The keys that have a parked row, each with the id of its first one: what follows it is parked too.
pub(super) struct Parking(Mutex<HashMap<String, i64>>);

impl Parking {
    pub(super) fn new(parked: Vec<(String, i64)>) -> Self {
        Self(Mutex::new(parked.into_iter().collect()))
    }

    pub(super) fn block(&self, key: Option<&str>, id: i64) {
        if let Some(key) = key {
            let mut blocked = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            blocked.entry(key.to_owned()).or_insert(id);
        }
    }

    /// The row that a row has to stay behind.
    fn blocker(&self, row: &Row) -> Option<i64> {
        let blocked = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let first = blocked.get(row.key.as_deref()?).copied()?;
        (first < row.id).then_some(first)
    }
}

pub(super) struct Lane<C> {
    course: Arc<Course<C>>,
    stream: String,
    incarnation: String,
    last_sequence: u64,
    batch: usize,
}

/// What has been sent and is being answered: one answer a row, or one for all, which is the last row's.
type Flying = BoxFuture<'static, (Vec<Item>, Result<Vec<Confirmed>, Refusal>)>;

/// Up to so many rows of different keys go side by side: where the costs of the two ways meet, measured
/// with `sync_interval: always`.
const FEW: usize = 16;

impl<C: Cursor> Lane<C> {
    pub(super) fn new(
        course: Arc<Course<C>>,
        stream: String,
        state: &StreamState,
        batch: usize,
    ) -> Self {
        Self {
            course,
            stream,
            incarnation: state.incarnation.clone(),
            last_sequence: state.last_sequence,
            batch,
        }
    }

    /// Sends until the queue ends and everything is confirmed.
    pub(super) async fn run(self, mut queue: mpsc::Receiver<Item>) -> Result<(), Fault> {
        self.begin().await?;
        let mut flying: Option<Flying> = None;
        let mut rest = None;
        while let Some(mut items) = self.next_items(&mut queue, &mut rest, &mut flying).await? {
            items = self.publishable(items).await?;
            let mut batch = BatchId::new();
            self.send_members(&batch, &items, &mut flying).await?;
            if let Some(last) = flying.take() {
                let parked = self.settle(last.await).await?;
                if parked {
                    // A key was parked: its later rows must not be in a batch that is committed. The
                    // one that was begun is left to the server, which drops it.
                    items = self.publishable(items).await?;
                    batch = BatchId::new();
                    self.send_members(&batch, &items, &mut flying).await?;
                }
            }
            failpoint::reach(&self.course.settings.owner, Point::MembersSent).await;
            flying = self.commit(batch, items)?;
        }
        if let Some(last) = flying {
            self.settle(last.await).await?;
        }
        Ok(())
    }

    /// Has it written down where the stream ends, before the first message makes it longer.
    async fn begin(&self) -> Result<(), Fault> {
        let (written, is_written) = oneshot::channel();
        self.course
            .report(Report::Stream {
                stream: self.stream.clone(),
                incarnation: self.incarnation.clone(),
                sequence: self.last_sequence,
                written,
            })
            .await?;
        is_written
            .await
            .map_err(|_| Fault::Ended("the keeper".to_owned()))
    }

    /// The rows of the next batch: whatever is there, at least one. `None` at the queue's end. While
    /// there is none, the answer to the last commit is taken.
    async fn next_items(
        &self,
        queue: &mut mpsc::Receiver<Item>,
        rest: &mut Option<Item>,
        flying: &mut Option<Flying>,
    ) -> Result<Option<Vec<Item>>, Fault> {
        let first = match rest.take() {
            Some(item) => Some(item),
            None => loop {
                let Some(last) = flying else {
                    break queue.recv().await;
                };
                tokio::select! {
                    biased;
                    settled = last => {
                        *flying = None;
                        self.settle(settled).await?;
                    }
                    item = queue.recv() => break item,
                }
            },
        };
        let Some(first) = first else { return Ok(None) };
        let mut bytes = first.row.payload.len();
        let mut items = vec![first];
        while items.len() < self.batch
            && let Ok(item) = queue.try_recv()
        {
            bytes += item.row.payload.len();
            if bytes > BATCH_BYTES {
                *rest = Some(item);
                break;
            }
            items.push(item);
        }
        Ok(Some(items))
    }

    /// Takes out what the stream already holds and what has to stay behind a parked row.
    async fn publishable(&self, items: Vec<Item>) -> Result<Vec<Item>, Fault> {
        let mut left = Vec::with_capacity(items.len());
        for item in items {
            if let Some(sequence) = self.found(&item) {
                let entry = self.entry(&item.row, sequence);
                self.confirm(&[&item], vec![entry]).await?;
            } else if let Some(first) = self.course.parking.blocker(&item.row) {
                let error =
                    format!("it follows the parked event in row {first} under the same key");
                self.park(item, error).await?;
            } else {
                left.push(item);
            }
        }
        Ok(left)
    }

    fn found(&self, item: &Item) -> Option<u64> {
        let found = self.course.stored.found.get(&self.stream)?;
        found.get(&item.row.event).copied()
    }

    /// Sends all but the last; meanwhile the last commit's answer may come.
    async fn send_members(
        &self,
        batch: &BatchId,
        items: &[Item],
        flying: &mut Option<Flying>,
    ) -> Result<(), Fault> {
        let members = match items.split_last() {
            Some((_, members)) if !is_few(items) => members,
            _ => &[],
        };
        let sending = async {
            for (at, item) in members.iter().enumerate() {
                let message = self.submission(item);
                let sent = self.course.bus.send_member(batch, at + 1, message).await;
                sent.map_err(|refusal| self.unconfirmed(refusal))?;
            }
            // Until here they wait in this process, and the commit would wait behind them: one that is
            // frozen then would send it when its lease is long over.
            if !members.is_empty() {
                let left = self.course.bus.members_left().await;
                left.map_err(|refusal| self.unconfirmed(refusal))?;
            }
            Ok(())
        };
        let Some(last) = flying.take() else {
            return sending.await;
        };
        // The commit is not on the wire before its future is polled.
        let (settled, sent) = futures::join!(last, sending);
        *flying = Some(futures::future::ready(settled).boxed());
        sent
    }

    /// Sends the commit of a batch, or each of a few rows; the answers are taken later.
    fn commit(&self, batch: BatchId, items: Vec<Item>) -> Result<Option<Flying>, Fault> {
        self.course.fence.check()?;
        let Some(last) = items.last() else {
            return Ok(None);
        };
        let (bus, stream) = (self.course.bus.clone(), self.stream.clone());
        // Asked again at the moment of sending: time may pass before the future is polled.
        let fence = self.course.fence.clone();
        if is_few(&items) {
            let messages: Vec<_> = items.iter().map(|item| self.submission(item)).collect();
            return Ok(Some(
                async move {
                    if let Err(over) = fence.refuse() {
                        return (items, Err(over));
                    }
                    let sending = messages
                        .into_iter()
                        .map(|message| bus.publish_one(&stream, message));
                    (items, futures::future::try_join_all(sending).await)
                }
                .boxed(),
            ));
        }
        let message = self.submission(last);
        Ok(Some(
            async move {
                if let Err(over) = fence.refuse() {
                    return (items, Err(over));
                }
                let confirmed = bus
                    .commit_batch(&stream, &batch, items.len(), message)
                    .await;
                (items, confirmed.map(|confirmed| vec![confirmed]))
            }
            .boxed(),
        ))
    }

    /// Takes the answer to a commit; true when a row was parked.
    async fn settle(
        &self,
        (items, answer): (Vec<Item>, Result<Vec<Confirmed>, Refusal>),
    ) -> Result<bool, Fault> {
        failpoint::reach(&self.course.settings.owner, Point::Answered).await;
        match answer {
            Ok(confirmed) => {
                let entries = self.entries(&items, &confirmed);
                let items: Vec<&Item> = items.iter().collect();
                self.confirm(&items, entries).await?;
                Ok(false)
            }
            Err(refusal @ (Refusal::Transient { .. } | Refusal::Moved)) => {
                Err(self.unconfirmed(refusal))
            }
            Err(refusal) => {
                tracing::info!(stream = self.stream, events = items.len(), %refusal,
                    "the batch was refused: its events go one by one");
                self.one_by_one(items).await
            }
        }
    }

    /// Finds out which event a batch was refused for. True when one was parked.
    ///
    /// What is confirmed is reported together, under the last of its pages: rows that went side by side may
    /// be stored in any order, and a position must not pass one that is not known to be done.
    async fn one_by_one(&self, items: Vec<Item>) -> Result<bool, Fault> {
        let mut is_parked = false;
        let (mut confirmed, mut entries) = (Vec::new(), Vec::new());
        for item in items {
            self.course.fence.check()?;
            if let Some(first) = self.course.parking.blocker(&item.row) {
                let error =
                    format!("it follows the parked event in row {first} under the same key");
                self.park(item, error).await?;
                continue;
            }
            let message = self.submission(&item);
            match self.course.bus.publish_one(&self.stream, message).await {
                Ok(Confirmed { sequence }) => {
                    entries.push(self.entry(&item.row, sequence));
                    confirmed.push(item);
                }
                Err(refusal @ Refusal::Permanent { .. }) => {
                    self.park(item, refusal.to_string()).await?;
                    is_parked = true;
                }
                Err(refusal) => return Err(self.unconfirmed(refusal)),
            }
        }
        let confirmed: Vec<&Item> = confirmed.iter().collect();
        self.confirm(&confirmed, entries).await?;
        Ok(is_parked)
    }

    fn submission(&self, item: &Item) -> Submission {
        let defaults = wire::Defaults {
            source: &self.course.source,
            time: item.row.at,
        };
        Submission::new(&item.envelope, defaults)
    }

    /// What to write down. A batch is stored without a gap, so its last sequence tells the first; what was
    /// answered row by row is written down in runs without a gap.
    fn entries(&self, items: &[Item], confirmed: &[Confirmed]) -> Vec<Entry> {
        let rows = items.iter().map(|item| &item.row);
        match confirmed {
            [last] => {
                let before = last.sequence.saturating_sub(items.len() as u64);
                let placed = rows.zip(before + 1..);
                self.runs(placed)
            }
            each => self.runs(rows.zip(each.iter().map(|confirmed| confirmed.sequence))),
        }
    }

    fn runs<'a>(&self, placed: impl Iterator<Item = (&'a Row, u64)>) -> Vec<Entry> {
        let mut entries: Vec<Entry> = Vec::new();
        for (row, sequence) in placed {
            match entries.last_mut() {
                Some(run) if run.last_sequence + 1 == sequence => {
                    run.last_id = row.id;
                    run.last_sequence = sequence;
                    run.events += 1;
                }
                _ => entries.push(self.entry(row, sequence)),
            }
        }
        entries
    }

    fn entry(&self, row: &Row, sequence: u64) -> Entry {
        Entry {
            first_id: row.id,
            last_id: row.id,
            events: 1,
            stream: self.stream.clone(),
            incarnation: self.incarnation.clone(),
            first_sequence: sequence,
            last_sequence: sequence,
        }
    }

    async fn confirm(&self, items: &[&Item], entries: Vec<Entry>) -> Result<(), Fault> {
        let mut pages: Vec<(u64, usize)> = Vec::new();
        for item in items {
            match pages.last_mut() {
                Some((page, rows)) if *page == item.page => *rows += 1,
                _ => pages.push((item.page, 1)),
            }
        }
        self.course
            .report(Report::Confirmed { pages, entries })
            .await
    }

    async fn park(&self, item: Item, error: String) -> Result<(), Fault> {
        let Item { page, row, .. } = item;
        self.course.parking.block(row.key.as_deref(), row.id);
        let parked = Box::new(Parked { row, error });
        self.course.report(Report::Park { page, parked }).await
    }

    fn unconfirmed(&self, refusal: Refusal) -> Fault {
        if refusal == Refusal::Moved {
            return Fault::Moved {
                subject: format!("a subject of stream {}", self.stream),
            };
        }
        Fault::Unconfirmed {
            stream: self.stream.clone(),
            refusal,
        }
    }
}

/// Whether rows may go side by side: few, and no two of one key.
fn is_few(items: &[Item]) -> bool {
    if items.len() > FEW {
        return false;
    }
    let keys: HashSet<&str> = items
        .iter()
        .filter_map(|item| item.row.key.as_deref())
        .collect();
    let keyed = items.iter().filter(|item| item.row.key.is_some()).count();
    keys.len() == keyed
}
