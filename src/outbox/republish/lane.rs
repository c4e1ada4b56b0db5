//! The part of a republish run for one stream: sends batches in order, and prepares the next one while the commit of
//! the last one is in flight. Never drops a row silently: it is stored, or an error states why not.

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
    nats::{BatchId, Bus, BusError, Confirmed, Found, Holder, Refusal, StreamSnapshot},
    outbox::store::Entry,
};

/// The most payload in one batch, in bytes, one row excepted.
const BATCH_BYTES: usize = 4 * 1024 * 1024;

pub(super) struct Lane {
    bus: Bus,
    /// The lease: without it nothing is committed.
    held: Held,
    stream: String,
    incarnation: String,
    /// No message of this run lies at or before this sequence.
    base: u64,
    /// The most events in a batch.
    most: usize,
    form: Form,
    flying: Option<Flying>,
    sent: Sent,
    /// Rows of events that are in flight with earlier rows.
    again: Vec<(i64, EventId)>,
    /// Entries confirmed since they were last taken.
    entries: Vec<Entry>,
    /// The highest sequence noted, and how many messages were noted: some have more than one row.
    end: u64,
    messages: u64,
}

struct Flying {
    items: Vec<Item>,
    answer: Answer,
}

type Answer = BoxFuture<'static, Result<Confirmed, Refusal>>;

impl Lane {
    /// `end` is where the stream ended when the missing rows were determined.
    pub(super) fn new(
        bus: Bus,
        held: Held,
        stream: String,
        state: &StreamSnapshot,
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

    /// How many of these rows fit into the next batch: at most `at_most`, at least one.
    pub(super) fn fits(&self, items: &[Item], at_most: usize) -> usize {
        let mut bytes = 0;
        let fitting = items.iter().take_while(|item| {
            bytes += item.row.payload.len();
            bytes <= BATCH_BYTES
        });
        fitting.count().min(self.most).min(at_most).max(1)
    }

    /// Sends a batch; its answer is settled with the next one.
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
            // The batch that was prepared meanwhile is abandoned, and the server drops it.
            return self.insist(items, sent.err()).await;
        }
        let mut answer = self.commit(batch, &items)?;
        // The commit is not on the wire before its future is polled, and the next rows may be long in coming.
        if let Poll::Ready(answered) = futures::poll!(&mut answer) {
            answer = future::ready(answered).boxed();
        }
        self.flying = Some(Flying { items, answer });
        Ok(())
    }

    /// Keeps one row of each event: an outbox may have it in several rows. A row whose id another event has is left
    /// out, or stored in addition.
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

    /// Returns what lies where an event with this id was stored. `None` when that is unknown now; the server then
    /// reports a duplicate. Takes `&mut self`: the future in flight cannot be shared between threads.
    async fn sent_before(&mut self, item: &Item) -> Option<(u64, Holder)> {
        let sequence = self.sent.sequence(&item.row.event)?;
        let holder = self
            .bus
            .holder(&self.stream, sequence, (&item.envelope).into());
        Some((sequence, holder.await.ok()?))
    }

    /// Sends the last message of a batch, whose answer is the answer to the batch.
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

    /// Notes which of the sent rows are stored, and abandons the rest.
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
            // A single message that the server takes for a duplicate: the first one may have been deleted since.
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

    /// Notes rows that were stored without a gap, up to a sequence.
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
                way: super::LedgerKind::Republished,
            }),
        }
    }

    /// Sends rows until they are stored: those that the stream holds are left out, and the rest is sent again.
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
                    // Until the stream has been read, nothing may be sent.
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

    /// Reacts to a refusal. Returns whether the rows have to be sent one by one.
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
            // The server also remembers ids of messages that it no longer holds; no batch has an id twice.
            Refusal::Duplicate | Refusal::TakenId(_) => {
                self.form.suffix = Some(fresh());
                false
            }
            Refusal::TooMany { most } => {
                self.most = (*most).clamp(1, self.most);
                false
            }
            // The refusal does not name the message.
            Refusal::Incomplete | Refusal::Permanent { .. } => true,
            Refusal::Transient { .. } | Refusal::NoAnswer { .. } => {
                patience.wait(false).await;
                return Ok(false);
            }
        };
        patience.wait(true).await;
        Ok(is_one_by_one)
    }

    /// Notes rows that the stream now holds, and keeps the others. The inner error: the stream could not be read.
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
        // An empty range needs no consumer.
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
                // Only a forced or copied event is stored in addition to the other one.
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

    /// Sends batch after batch. When one is refused, returns the remaining rows and the refusal.
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

/// Returns the sequence of the event, among those with its id, and which other event has the id.
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

/// Sends all messages of a batch but the last; a single message needs no batch.
async fn members(bus: &Bus, form: &Form, batch: &BatchId, items: &[Item]) -> Result<(), Refusal> {
    let members = items.split_last().map_or(&[][..], |(_, members)| members);
    let messages = members.iter().map(|item| form.message(item));
    bus.send_members(batch, Box::new(messages)).await
}
