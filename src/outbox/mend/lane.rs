//! One stream's part of what is published again: batches in order, the next one under way while the last one's
//! commit is being answered. Never gives a row up: it is stored, or the error says why not.

use std::task::Poll;

use futures::{
    FutureExt,
    future::{self, BoxFuture},
};
use tidings_contract::EventId;

use super::{
    RepublishError,
    form::{Form, Item, fresh},
    patience::Patience,
    sent::Sent,
    tenure::Held,
};
use crate::{
    bus::{BatchId, Bus, BusError, Confirmed, Found, Holder, Refusal, StreamState},
    outbox::store::Entry,
};

/// No more payload than this in one batch, in bytes, one row excepted.
const BATCH_BYTES: usize = 4 * 1024 * 1024;

pub(super) struct Lane {
    bus: Bus,
    /// The lease: without it nothing is committed.
    held: Held,
    stream: String,
    incarnation: String,
    /// Nothing of this run lies before it.
    base: u64,
    /// How many events a batch may have.
    most: usize,
    form: Form,
    flying: Option<Flying>,
    sent: Sent,
    /// Rows of events that are on their way with earlier rows.
    again: Vec<(i64, EventId)>,
    /// What was confirmed since it was last taken.
    entries: Vec<Entry>,
    /// The last place that was noted, and how many messages were: some have more than one row.
    end: u64,
    messages: u64,
}

struct Flying {
    items: Vec<Item>,
    answer: Answer,
}

type Answer = BoxFuture<'static, Result<Confirmed, Refusal>>;

impl Lane {
    /// `end` is where the stream ended when it was found out what is missing.
    pub(super) fn new(
        bus: Bus,
        held: Held,
        stream: String,
        state: &StreamState,
        end: Option<u64>,
        form: Form,
    ) -> Self {
        let base = end.unwrap_or(state.last_sequence);
        Self {
            bus,
            held,
            stream,
            incarnation: state.incarnation.clone(),
            base,
            most: if state.atomic { 1000 } else { 1 },
            form,
            flying: None,
            sent: Sent::default(),
            again: Vec::new(),
            entries: Vec::new(),
            end: base,
            messages: 0,
        }
    }

    pub(super) fn take_entries(&mut self) -> Vec<Entry> {
        for (row, event) in std::mem::take(&mut self.again) {
            match self.sent.sequence(&event) {
                Some(sequence) => self.note_one(row, sequence),
                None => self.again.push((row, event)),
            }
        }
        std::mem::take(&mut self.entries)
    }

    /// How many messages were stored.
    pub(super) fn messages(&self) -> u64 {
        self.messages
    }

    /// Sends rows behind those that were sent before, at most so many.
    pub(super) fn fits(&self, items: &[Item], at_most: usize) -> usize {
        let mut bytes = 0;
        let fitting = items.iter().take_while(|item| {
            bytes += item.row.payload.len();
            bytes <= BATCH_BYTES
        });
        fitting.count().min(self.most).min(at_most).max(1)
    }

    /// Sends a batch; its answer is taken with the next one.
    pub(super) async fn send(&mut self, items: Vec<Item>) -> Result<(), RepublishError> {
        let items = self.once(items).await?;
        if items.is_empty() {
            return Ok(());
        }
        let batch = BatchId::new();
        let sending = members(&self.bus, &self.form, &batch, &items);
        let (sent, before) = match self.flying.take() {
            Some(Flying { items, answer }) => {
                let (answer, sent) = futures::join!(answer, sending);
                (sent, Some((items, answer)))
            }
            None => (sending.await, None),
        };
        let is_stored = before.as_ref().is_none_or(|(_, answer)| answer.is_ok());
        if let Some((items, answer)) = before {
            self.settle(items, answer).await?;
        }
        if sent.is_err() || !is_stored {
            // What was prepared meanwhile is left to the server, which drops it.
            return self.insist(items, sent.err()).await;
        }
        let mut answer = self.commit(batch, &items)?;
        // It is not on the wire before it is polled, and the next rows may have to be waited for.
        if let Poll::Ready(answered) = futures::poll!(&mut answer) {
            answer = future::ready(answered).boxed();
        }
        self.flying = Some(Flying { items, answer });
        Ok(())
    }

    /// Each event once: an outbox may have it in several rows. One that has the id of another event is left out, or goes
    /// beside it.
    async fn once(&mut self, items: Vec<Item>) -> Result<Vec<Item>, RepublishError> {
        let mut once: Vec<Item> = Vec::with_capacity(items.len());
        for mut item in items {
            let event = item.row.event;
            if self.sent.is_first(event) {
                once.push(item);
                continue;
            }
            let first = once.iter().find(|first| first.row.event == event);
            let other = match first {
                Some(first) if first.is_same(&item) => {
                    self.again.push((item.row.id, event));
                    continue;
                }
                Some(first) => Some(format!("row {} has this id", first.row.id)),
                None => {
                    self.land().await?;
                    match self.sent_before(&item).await {
                        Some((sequence, Holder::Same)) => {
                            self.note_one(item.row.id, sequence);
                            continue;
                        }
                        Some((_, Holder::Other(other))) => Some(other),
                        Some((_, Holder::Nothing)) | None => None,
                    }
                }
            };
            match other {
                Some(other) if !self.form.is_forced => say_left_out(&item, &other),
                other => {
                    item.is_beside = other.is_some();
                    once.push(item);
                }
            }
        }
        Ok(once)
    }

    /// What lies where an event with this id was stored; nothing when that cannot be known now, and the server says it.
    /// Takes the lane alone: what is on its way cannot be shared between threads.
    async fn sent_before(&mut self, item: &Item) -> Option<(u64, Holder)> {
        let sequence = self.sent.sequence(&item.row.event)?;
        let holder = self
            .bus
            .holder(&self.stream, sequence, (&item.envelope).into());
        Some((sequence, holder.await.ok()?))
    }

    /// Sends the last one of a batch, which is answered.
    fn commit(&self, batch: BatchId, items: &[Item]) -> Result<Answer, RepublishError> {
        self.held.check()?;
        let (bus, stream, size) = (self.bus.clone(), self.stream.clone(), items.len());
        let last = items.last().map(|item| self.form.message(item));
        let answer = async move {
            match last {
                Some(last) if size > 1 => bus.commit_batch(&stream, &batch, size, last).await,
                Some(last) => bus.publish_one(&stream, last).await,
                None => Err(Refusal::Incomplete),
            }
        };
        Ok(answer.boxed())
    }

    /// Waits until everything that was sent is stored.
    pub(super) async fn land(&mut self) -> Result<(), RepublishError> {
        match self.flying.take() {
            Some(Flying { items, answer }) => {
                let answer = answer.await;
                self.settle(items, answer).await
            }
            None => Ok(()),
        }
    }

    /// Notes what is stored of what was sent, and leaves the rest.
    pub(super) async fn leave(&mut self) {
        if let Some(Flying { items, answer }) = self.flying.take()
            && let Ok(confirmed) = answer.await
            && !confirmed.is_duplicate
        {
            self.note(&items, confirmed.sequence);
        }
    }

    async fn settle(
        &mut self,
        items: Vec<Item>,
        answer: Result<Confirmed, Refusal>,
    ) -> Result<(), RepublishError> {
        match answer {
            // A single one that the server takes for the first one: it may have been removed since.
            Ok(confirmed) if confirmed.is_duplicate => {
                self.insist(items, Some(Refusal::Duplicate)).await
            }
            Ok(confirmed) => {
                self.note(&items, confirmed.sequence);
                Ok(())
            }
            Err(refusal) => self.insist(items, Some(refusal)).await,
        }
    }

    /// Rows were stored without a gap, up to a sequence.
    fn note(&mut self, items: &[Item], last: u64) {
        let before = last.saturating_sub(items.len() as u64);
        for (item, sequence) in items.iter().zip(before.saturating_add(1)..=u64::MAX) {
            self.note_item(item, sequence);
        }
    }

    fn note_item(&mut self, item: &Item, sequence: u64) {
        if !item.is_beside {
            self.sent.stored(&item.row.event, sequence);
        }
        self.note_one(item.row.id, sequence);
    }

    fn note_one(&mut self, id: i64, sequence: u64) {
        if sequence > self.end {
            self.end = sequence;
            self.messages += 1;
        }
        match self.entries.last_mut() {
            Some(run) if run.last_sequence.checked_add(1) == Some(sequence) && run.last_id < id => {
                run.last_id = id;
                run.last_sequence = sequence;
                run.events += 1;
            }
            _ => self.entries.push(Entry {
                first_id: id,
                last_id: id,
                events: 1,
                stream: self.stream.clone(),
                incarnation: self.incarnation.clone(),
                first_sequence: sequence,
                last_sequence: sequence,
                way: super::Way::Republished,
            }),
        }
    }

    /// Sends rows until they are stored: what is there is left out, and the others are sent again.
    async fn insist(
        &mut self,
        mut items: Vec<Item>,
        mut refusal: Option<Refusal>,
    ) -> Result<(), RepublishError> {
        let mut patience = Patience::new();
        while !items.is_empty() {
            let left = items.len();
            let mut is_one_by_one = false;
            if let Some(heard) = refusal.take() {
                is_one_by_one = self.heed(heard, &items, &mut patience).await?;
                if let Err(unknown) = self.leave_out_stored(&mut items).await? {
                    // Until that is known, nothing may be sent.
                    refusal = Some(unknown);
                    continue;
                }
            }
            (items, refusal) = self.send_in_turn(items, is_one_by_one).await?;
            if items.len() < left {
                patience = Patience::new();
            }
        }
        Ok(())
    }

    /// What follows from a refusal: whether the rows have to go one by one.
    async fn heed(
        &mut self,
        refusal: Refusal,
        items: &[Item],
        patience: &mut Patience,
    ) -> Result<bool, RepublishError> {
        tracing::debug!(stream = self.stream, events = items.len(), %refusal, "republish refused: sent again");
        let is_one_by_one = match &refusal {
            Refusal::Closed(_) | Refusal::Moved | Refusal::NoAck { .. } => {
                return Err(self.not_taken(items, &refusal));
            }
            _ if patience.is_over() => {
                return Err(RepublishError::Unconfirmed {
                    stream: self.stream.clone(),
                    reason: refusal.to_string(),
                });
            }
            // The server remembers ids of what it holds no more: a batch has none twice.
            Refusal::Duplicate | Refusal::TakenId(_) => {
                self.form.suffix = Some(fresh());
                false
            }
            Refusal::TooMany { most } => {
                self.most = (*most).clamp(1, self.most);
                false
            }
            // It does not say for which of them.
            Refusal::Incomplete | Refusal::Permanent { .. } => true,
            Refusal::Transient { .. } | Refusal::Unanswered { .. } => {
                patience.wait(false).await;
                return Ok(false);
            }
        };
        patience.wait(true).await;
        Ok(is_one_by_one)
    }

    /// Notes what the stream holds by now, and leaves the others. The inner error: it could not be read.
    async fn leave_out_stored(
        &mut self,
        items: &mut Vec<Item>,
    ) -> Result<Result<(), Refusal>, RepublishError> {
        let unknown = |reason: String| Ok(Err(Refusal::Transient { code: 0, reason }));
        let state = match self.bus.stream_state(&self.stream).await {
            Ok(state) => state,
            Err(error) => return unknown(error.to_string()),
        };
        let state = state.filter(|state| {
            state.incarnation == self.incarnation && state.last_sequence >= self.base
        });
        let Some(state) = state else {
            return Err(RepublishError::Changed {
                stream: self.stream.clone(),
            });
        };
        // No consumer is needed to find nothing.
        if state.last_sequence == self.base {
            return Ok(Ok(()));
        }
        let found = self
            .bus
            .ids_between(&self.stream, self.base, state.last_sequence);
        let found = match found.await {
            Ok(found) => found,
            Err(error) => return unknown(error.to_string()),
        };
        let mut left = Vec::with_capacity(items.len());
        let mut looking = std::mem::take(items).into_iter();
        while let Some(item) = looking.next() {
            match holders(&self.bus, &self.stream, &found, &item).await {
                Ok((Some(sequence), _)) => self.note_item(&item, sequence),
                // Only what is forced, or goes elsewhere, goes beside it.
                Ok((None, Some(other))) if !self.form.is_forced => say_left_out(&item, &other),
                Ok((None, _)) => left.push(item),
                Err(error) => {
                    left.push(item);
                    left.extend(looking);
                    *items = left;
                    return unknown(error.to_string());
                }
            }
        }
        *items = left;
        Ok(Ok(()))
    }

    /// Sends batch after batch, and returns what is left when one is refused, and why.
    async fn send_in_turn(
        &mut self,
        mut items: Vec<Item>,
        is_one_by_one: bool,
    ) -> Result<(Vec<Item>, Option<Refusal>), RepublishError> {
        while !items.is_empty() {
            let size = if is_one_by_one {
                1
            } else {
                self.fits(&items, usize::MAX)
            };
            let rest = items.split_off(size.min(items.len()));
            let batch = BatchId::new();
            let refusal = match members(&self.bus, &self.form, &batch, &items).await {
                Err(refusal) => refusal,
                Ok(()) => match self.commit(batch, &items)?.await {
                    Ok(confirmed) if !confirmed.is_duplicate => {
                        self.note(&items, confirmed.sequence);
                        items = rest;
                        continue;
                    }
                    Ok(_) => Refusal::Duplicate,
                    Err(refusal @ Refusal::Permanent { .. }) if items.len() == 1 => {
                        return Err(self.not_taken(&items, &refusal));
                    }
                    Err(refusal) => refusal,
                },
            };
            items.extend(rest);
            return Ok((items, Some(refusal)));
        }
        Ok((items, None))
    }

    fn not_taken(&self, items: &[Item], refusal: &Refusal) -> RepublishError {
        let reason = match refusal {
            Refusal::Closed(_) | Refusal::NoAck { .. } => {
                format!("{refusal}; try: {}", refusal.cure())
            }
            other => other.to_string(),
        };
        RepublishError::NotTaken {
            stream: self.stream.clone(),
            row: items.first().map_or(0, |item| item.row.id),
            reason,
        }
    }
}

fn say_left_out(item: &Item, other: &str) {
    let (row, event) = (item.row.id, item.row.event);
    tracing::error!(row, event.id = %event, other, "event not republished: another event has its id");
}

/// Where a stream has an event, of the places that have its id; and which other event has it there.
async fn holders(
    bus: &Bus,
    stream: &str,
    found: &Found,
    item: &Item,
) -> Result<(Option<u64>, Option<String>), BusError> {
    let mut other = None;
    for sequence in found.sequences(&item.row.event) {
        match bus
            .holder(stream, sequence, (&item.envelope).into())
            .await?
        {
            Holder::Same => return Ok((Some(sequence), None)),
            Holder::Nothing => {}
            Holder::Other(is) => other = Some(is),
        }
    }
    Ok((None, other))
}

/// Sends all of a batch but the last; a single one has no batch.
async fn members(bus: &Bus, form: &Form, batch: &BatchId, items: &[Item]) -> Result<(), Refusal> {
    let members = items.split_last().map_or(&[][..], |(_, members)| members);
    let messages = members.iter().map(|item| form.message(item));
    bus.send_members(batch, Box::new(messages)).await
}
