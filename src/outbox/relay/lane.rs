//! The relay's lane of one stream: takes rows from the router, publishes them, and reports what was confirmed or has to
//! be parked. Never reorders rows of one key.
//!
//! When a stream takes nothing, the lane retries the first row. If the outbox also feeds other streams, the rows are
//! parked after a while, and restored in a later tenure.

mod closed;
mod confirm;
mod ids;
mod observe;

use std::{collections::VecDeque, sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};

use super::{
    Fault,
    failpoint::{self, Point},
    lane_context::{InFlight, Item, LaneContext},
    progress::Report,
    resume::Known,
};
use crate::{
    nats::{BatchId, Cause, Confirmed, Refusal, StreamSnapshot, cause_of_denial, cause_of_no_ack},
    outbox::{
        lane::{Answer, BatchRoom, Lane, Messages as _},
        store::{Cursor, parked::BlockedOn},
    },
};

/// A batch with a duplicate id, within it or in the stream, is halved down to this size.
const SINGLES: usize = 64;
/// The pauses between retries while a stream takes nothing.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// The server reports a denied message separately, possibly after it has refused the batch.
const DENIAL_DELAY: Duration = Duration::from_millis(200);

pub(super) struct RelayLane<C> {
    context: Arc<LaneContext<C>>,
    lane: Lane<Arc<LaneContext<C>>>,
    /// The last sequence of the stream, as far as this lane knows.
    last_sequence: u64,
    at: Option<DateTime<Utc>>,
    /// The most events in a batch for this stream.
    most: usize,
    /// The present batch size: smaller while the stream has little room.
    size: usize,
    /// Rows that were refused and are sent before any other.
    again: VecDeque<Item>,
    /// The stream sends no acks, so nothing is sent: a stored row would stay unknown, and be published again.
    is_silent: bool,
    /// When it has last sent something.
    sent_at: Instant,
}

/// What a lane does next.
enum Next {
    Send(Vec<Item>),
    Settled(Settled),
    End,
}

/// What an answer means.
enum Settled {
    /// What was sent is stored.
    Stored,
    /// A row was parked or taken back: rows that were prepared meanwhile are prepared again.
    Changed,
    /// The stream takes nothing; what was sent is taken back.
    Closed(Cause),
}

impl<C: Cursor> RelayLane<C> {
    pub(super) fn new(
        context: Arc<LaneContext<C>>,
        stream: String,
        state: &StreamSnapshot,
        batch: usize,
    ) -> Self {
        let (bus, fence) = (context.bus.clone(), context.fence.clone());
        let messages = Arc::clone(&context);
        Self {
            context,
            lane: Lane::new(bus, fence, stream, &state.incarnation, messages),
            last_sequence: state.last_sequence,
            at: state.at,
            most: batch,
            size: batch,
            again: VecDeque::new(),
            is_silent: !state.confirms,
            sent_at: Instant::now(),
        }
    }

    /// Sends until the queue ends and everything is confirmed; or until the relay stops while the stream takes
    /// nothing: the cursor does not pass the remaining rows.
    pub(super) async fn run(mut self, mut queue: mpsc::Receiver<Item>) -> Result<(), Fault> {
        match self.carry(&mut queue).await {
            Err(Fault::Stopped) => Ok(()),
            ended => ended,
        }
    }

    async fn carry(&mut self, queue: &mut mpsc::Receiver<Item>) -> Result<(), Fault> {
        self.begin().await?;
        let mut in_flight: Option<InFlight> = None;
        loop {
            let settled = match self.next(queue, &mut in_flight).await? {
                Next::End => return Ok(()),
                Next::Settled(settled) => settled,
                Next::Send(items) => {
                    let items = self.publishable(items).await?;
                    if self.is_silent && !items.is_empty() {
                        self.take_back(items);
                        Settled::Closed(cause_of_no_ack(&self.lane.stream))
                    } else {
                        self.send(items, &mut in_flight).await?
                    }
                }
            };
            if let Settled::Closed(cause) = settled {
                self.hold(cause).await?;
            }
        }
    }

    /// Sends a batch, and settles the answer to the one before.
    async fn send(
        &mut self,
        items: Vec<Item>,
        in_flight: &mut Option<InFlight>,
    ) -> Result<Settled, Fault> {
        let batch = BatchId::new();
        let sending = self.lane.send_members(&batch, &items, in_flight.as_mut());
        if let Err(refusal) = sending.await {
            return Err(self.unconfirmed(refusal, items.len()).await);
        }
        // Behind what the answer may take back.
        let prepared = items.len();
        self.take_back(items);
        let settled = match in_flight.take() {
            Some(last) => self.settle(last.await).await?,
            None => Settled::Stored,
        };
        // Otherwise the started batch is abandoned, and the server drops it.
        if let Settled::Stored = settled {
            let items = self.again.drain(..prepared).collect();
            failpoint::reach(&self.context.owner, Point::MembersSent).await;
            self.sent_at = Instant::now();
            *in_flight = self.lane.commit(batch, items)?;
        }
        Ok(settled)
    }

    /// Has the end of the stream written to the database before the first message is sent.
    async fn begin(&self) -> Result<(), Fault> {
        let (written, is_written) = oneshot::channel();
        self.context
            .report(Report::Stream {
                stream: self.lane.stream.clone(),
                incarnation: self.lane.ledger.incarnation().to_owned(),
                sequence: self.last_sequence,
                at: self.at,
                written,
            })
            .await?;
        is_written
            .await
            .map_err(|_| Fault::Ended("the keeper".to_owned()))
    }

    /// Returns the rows of the next batch: what is available, at least one. While there is none, settles the answer
    /// to the last commit.
    async fn next(
        &mut self,
        queue: &mut mpsc::Receiver<Item>,
        in_flight: &mut Option<InFlight>,
    ) -> Result<Next, Fault> {
        let first = match (self.again.pop_front(), in_flight.as_mut()) {
            (Some(item), _) => Some(item),
            (None, None) => queue.recv().await,
            (None, Some(last)) => tokio::select! {
                biased;
                settled = last => {
                    *in_flight = None;
                    return Ok(Next::Settled(self.settle(settled).await?));
                }
                item = queue.recv() => item,
            },
        };
        let Some(first) = first else {
            return match in_flight.take() {
                Some(last) => Ok(Next::Settled(self.settle(last.await).await?)),
                None => Ok(Next::End),
            };
        };
        let mut room = BatchRoom::of(self.size);
        room.takes(&first.row);
        let mut items = vec![first];
        while room.is_left()
            && let Some(item) = self.again.pop_front().or_else(|| queue.try_recv().ok())
        {
            if !room.takes(&item.row) {
                self.again.push_front(item);
                break;
            }
            items.push(item);
        }
        Ok(Next::Send(items))
    }

    /// Takes out rows that the stream already holds, whose id another event has, or that have to wait.
    async fn publishable(&self, items: Vec<Item>) -> Result<Vec<Item>, Fault> {
        let mut left = Vec::with_capacity(items.len());
        let (mut found, mut entries, mut origins, mut parked) = (vec![], vec![], vec![], vec![]);
        let mut known = self.known(&items).await?.into_iter();
        for item in items {
            match known.next().unwrap_or(Known::Nothing) {
                Known::Nothing => {}
                Known::Event(sequence) => {
                    entries.push(self.lane.ledger.entry(item.row.id, sequence));
                    found.push(item);
                    continue;
                }
                Known::Other(other) => {
                    origins.push(item.note.origin);
                    parked.push(self.context.parked_keys.refuse(item.row, other));
                    continue;
                }
            }
            let name = &item.row.name;
            if self.context.bus.is_denied(name) && !self.context.parked_keys.is_closed_name(name) {
                self.context.close_name(name, &cause_of_denial(name));
            }
            match self
                .context
                .parked_keys
                .take(Some(&self.lane.stream), &item.row)
            {
                Some(waiting) => {
                    origins.push(item.note.origin);
                    parked.push(waiting);
                }
                None => left.push(item),
            }
        }
        if !found.is_empty() {
            self.observe_found(&found, &entries);
            self.confirm(&found, entries).await?;
        }
        if !parked.is_empty() {
            self.context.park(origins, parked).await?;
        }
        Ok(left)
    }

    /// Settles an answer.
    async fn settle(&mut self, (items, answer): (Vec<Item>, Answer)) -> Result<Settled, Fault> {
        failpoint::reach(&self.context.owner, Point::Answered).await;
        let answer = match answer {
            Answer::Each(answers) => return self.settle_each(items, answers).await,
            Answer::Batch(answer) => answer,
        };
        self.observe_batch(&items, &answer);
        let refusal = match answer {
            Ok(last) => {
                let first = last.sequence.saturating_sub(items.len() as u64 - 1);
                self.is_behind(self.last_sequence, first)?;
                self.last_sequence = last.sequence;
                let entries = self.lane.ledger.batch(&items, &last);
                self.confirm(&items, entries).await?;
                self.is_open();
                return Ok(Settled::Stored);
            }
            Err(refusal) => refusal,
        };
        match refusal {
            Refusal::TooMany { most } => {
                self.most = most.clamp(1, self.most);
                self.size = self.size.min(self.most);
                self.take_back(items);
                Ok(Settled::Changed)
            }
            Refusal::Closed(cause) if !cause.is_of_subject => {
                self.size = (self.size / 2).max(1);
                self.take_back(items);
                Ok(Settled::Closed(cause))
            }
            // Smaller batches find the refused event sooner than single messages, or are stored.
            Refusal::Duplicate if items.len() > SINGLES => {
                self.size = items.len() / 2;
                self.take_back(items);
                Ok(Settled::Changed)
            }
            Refusal::Incomplete if self.is_for_want_of_permission(&items).await => {
                self.take_back(items);
                Ok(Settled::Changed)
            }
            // The refusal does not name the event; one that is too large for the stream makes the batch incomplete.
            Refusal::Duplicate
            | Refusal::Permanent { .. }
            | Refusal::DuplicateId(_)
            | Refusal::Closed(_)
            | Refusal::Incomplete => self.one_by_one(items).await,
            Refusal::Moved
            | Refusal::Transient { .. }
            | Refusal::NoAnswer { .. }
            | Refusal::NoAck { .. } => Err(self.unconfirmed(refusal, items.len()).await),
        }
    }

    /// Confirmed rows stay confirmed, whatever the answers for the other rows.
    async fn settle_each(
        &mut self,
        items: Vec<Item>,
        answers: Vec<Result<Confirmed, Refusal>>,
    ) -> Result<Settled, Fault> {
        let mut fault = None;
        let mut known = Vec::with_capacity(items.len());
        for (item, answer) in items.into_iter().zip(answers) {
            match self.resolved(&item, answer).await {
                Ok(answer) => known.push((item, answer)),
                Err(other) => fault = Some(other),
            }
        }
        self.observe_each(known.iter().map(|(item, answer)| (item, answer)));
        let (mut confirmed, mut entries, mut back) = (Vec::new(), Vec::new(), Vec::new());
        let mut settled = Settled::Stored;
        let before = self.last_sequence;
        for (item, answer) in known {
            let refusal = match answer {
                Ok(Confirmed {
                    sequence,
                    is_duplicate,
                }) => {
                    if !is_duplicate {
                        self.is_behind(before, sequence)?;
                        self.last_sequence = self.last_sequence.max(sequence);
                    }
                    self.lane.ledger.add(&mut entries, item.row.id, sequence);
                    confirmed.push(item);
                    continue;
                }
                Err(refusal) => refusal,
            };
            // The reason for a missing answer is looked up once.
            let is_unanswered = matches!(refusal, Refusal::NoAnswer { .. } | Refusal::NoAck { .. });
            if fault.is_some() && is_unanswered {
                continue;
            }
            match self.refused(item, refusal).await {
                Ok((item, Settled::Stored)) => back.extend(item),
                Ok((item, now)) => {
                    back.extend(item);
                    settled = now;
                }
                Err(other) => fault = Some(other),
            }
        }
        let is_open = !confirmed.is_empty();
        if is_open {
            self.confirm(&confirmed, entries).await?;
        }
        if let Some(fault) = fault {
            return Err(fault);
        }
        self.take_back(back);
        if let Settled::Stored = settled
            && is_open
        {
            self.is_open();
        }
        Ok(settled)
    }

    /// Finds out for which event a batch was refused.
    async fn one_by_one(&mut self, items: Vec<Item>) -> Result<Settled, Fault> {
        let mut items = VecDeque::from(items);
        let mut settled = Settled::Stored;
        let mut is_open = false;
        while let Some(item) = items.pop_front() {
            self.context.fence.check()?;
            let Some(item) = self.publishable(vec![item]).await?.pop() else {
                settled = Settled::Changed;
                continue;
            };
            let message = self.lane.messages.message(&item);
            self.sent_at = Instant::now();
            let bus = &self.context.bus;
            let answer = bus.publish_one(&self.lane.stream, message).await;
            let answer = self.resolved(&item, answer).await?;
            self.observe_each(std::iter::once((&item, &answer)));
            match answer {
                Ok(Confirmed {
                    sequence,
                    is_duplicate,
                }) => {
                    if !is_duplicate {
                        self.is_behind(self.last_sequence, sequence)?;
                        self.last_sequence = sequence;
                    }
                    let entry = self.lane.ledger.entry(item.row.id, sequence);
                    self.confirm(&[item], vec![entry]).await?;
                    is_open = true;
                }
                Err(refusal) => {
                    let (item, now) = self.refused(item, refusal).await?;
                    if let Some(item) = item {
                        items.push_front(item);
                    }
                    settled = now;
                    if let Settled::Closed(_) = settled {
                        break;
                    }
                }
            }
        }
        self.take_back(items.into());
        if let Settled::Stored = settled
            && is_open
        {
            self.is_open();
        }
        Ok(settled)
    }

    /// A newly stored message lies behind all earlier ones. Otherwise it is another stream or an older copy: the
    /// next tenure looks for what was confirmed.
    fn is_behind(&self, before: u64, sequence: u64) -> Result<(), Fault> {
        match sequence > before {
            true => Ok(()),
            false => Err(Fault::WentBack {
                stream: self.lane.stream.clone(),
            }),
        }
    }

    fn take_back(&mut self, items: Vec<Item>) {
        for item in items.into_iter().rev() {
            self.again.push_front(item);
        }
    }
}
