//! The part of a republish run for one stream: publishes rows, and goes on until each of them is stored. Never drops a
//! row silently: it is stored, or an error states why not.

use tidings_contract::EventId;

use super::{
    RepublishError,
    form::{Form, InFlight, Item, are_same, fresh},
    patience::Patience,
    sent::Sent,
};
use crate::{
    nats::{BatchId, Bus, BusError, Confirmed, Found, Holder, Refusal, StreamSnapshot},
    outbox::{
        lane::{BatchRoom, Lane},
        store::Entry,
    },
    task::fence::Fence,
};

pub(super) struct RepublishLane {
    lane: Lane<Form>,
    /// No message of this run lies at or before this sequence.
    base: u64,
    /// The most events in a batch.
    most: usize,
    in_flight: Option<InFlight>,
    sent: Sent,
    /// Rows of events that are in flight with earlier rows.
    again: Vec<(i64, EventId)>,
    /// Entries confirmed since they were last taken.
    entries: Vec<Entry>,
    /// The highest sequence noted, and how many messages were noted: some have more than one row.
    end: u64,
    messages: u64,
}

impl RepublishLane {
    /// `end` is where the stream ended when the missing rows were determined.
    pub(super) fn new(
        bus: Bus,
        fence: Fence,
        stream: String,
        state: &StreamSnapshot,
        end: Option<u64>,
        form: Form,
    ) -> Self {
        let base = end.unwrap_or(state.last_sequence);
        Self {
            lane: Lane::new(bus, fence, stream, &state.incarnation, form),
            base,
            most: if state.atomic { 1000 } else { 1 },
            in_flight: None,
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
        let mut room = BatchRoom::of(self.most.min(at_most));
        items
            .iter()
            .take_while(|item| room.takes(&item.row))
            .count()
    }

    /// Sends a batch; its answer is settled with the next one.
    pub(super) async fn send(&mut self, items: Vec<Item>) -> Result<(), RepublishError> {
        let items = self.once(items).await?;
        if items.is_empty() {
            return Ok(());
        }
        let batch = BatchId::new();
        let before = self.in_flight.as_mut();
        let sent = self.lane.send_members(&batch, &items, before).await;
        let before = match self.in_flight.take() {
            Some(before) => Some(before.await),
            None => None,
        };
        let before = before.map(|(items, answer)| (items, answer.about_last()));
        let is_stored = before.as_ref().is_none_or(|(_, answer)| answer.is_ok());
        if let Some((items, answer)) = before {
            self.settle(items, answer).await?;
        }
        if sent.is_err() || !is_stored {
            // The batch that was prepared meanwhile is abandoned, and the server drops it.
            return self.insist(items, sent.err()).await;
        }
        self.in_flight = self.lane.commit(batch, items)?;
        if let Some(in_flight) = &mut self.in_flight {
            // The next rows may be long in coming.
            in_flight.start().await;
        }
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
                Some(first) if are_same(first, &item) => {
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
                Some(other) if !self.lane.messages.is_forced => say_left_out(&item, &other),
                other => {
                    item.note.is_beside = other.is_some();
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
            .lane
            .bus
            .holder(&self.lane.stream, sequence, (&item.envelope).into());
        Some((sequence, holder.await.ok()?))
    }

    /// Waits until everything that was sent is stored.
    pub(super) async fn land(&mut self) -> Result<(), RepublishError> {
        match self.in_flight.take() {
            Some(in_flight) => {
                let (items, answer) = in_flight.await;
                self.settle(items, answer.about_last()).await
            }
            None => Ok(()),
        }
    }

    /// Notes which of the sent rows are stored, and abandons the rest.
    pub(super) async fn leave(&mut self) {
        let Some(in_flight) = self.in_flight.take() else {
            return;
        };
        let (items, answer) = in_flight.await;
        if let Ok(confirmed) = answer.about_last()
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
        if !item.note.is_beside {
            self.sent.stored(&item.row.event, sequence);
        }
        self.note_one(item.row.id, sequence);
    }

    fn note_one(&mut self, id: i64, sequence: u64) {
        if sequence > self.end {
            self.end = sequence;
            self.messages += 1;
        }
        self.lane.ledger.add(&mut self.entries, id, sequence);
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
        tracing::debug!(stream = self.lane.stream, events = items.len(), %refusal, "republish refused: sent again");
        let is_one_by_one = match &refusal {
            Refusal::Closed(_) | Refusal::Moved | Refusal::NoAck { .. } => {
                return Err(self.not_taken(items, &refusal));
            }
            _ if patience.is_over() => {
                return Err(RepublishError::Unconfirmed {
                    stream: self.lane.stream.clone(),
                    reason: refusal.to_string(),
                });
            }
            // The server also remembers ids of messages that it no longer holds; no batch has an id twice.
            Refusal::Duplicate | Refusal::DuplicateId(_) => {
                self.lane.messages.suffix = Some(fresh());
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
        let state = match self.lane.bus.stream_state(&self.lane.stream).await {
            Ok(state) => state,
            Err(error) => return unknown(error.to_string()),
        };
        let state = state.filter(|state| {
            state.incarnation == self.lane.ledger.incarnation() && state.last_sequence >= self.base
        });
        let Some(state) = state else {
            return Err(RepublishError::Changed {
                stream: self.lane.stream.clone(),
            });
        };
        // An empty range needs no consumer.
        if state.last_sequence == self.base {
            return Ok(Ok(()));
        }
        let found = self
            .lane
            .bus
            .ids_between(&self.lane.stream, self.base, state.last_sequence);
        let found = match found.await {
            Ok(found) => found,
            Err(error) => return unknown(error.to_string()),
        };
        let mut left = Vec::with_capacity(items.len());
        let mut looking = std::mem::take(items).into_iter();
        while let Some(item) = looking.next() {
            match holders(&self.lane.bus, &self.lane.stream, &found, &item).await {
                Ok((Some(sequence), _)) => self.note_item(&item, sequence),
                // Only a forced or copied event is stored in addition to the other one.
                Ok((None, Some(other))) if !self.lane.messages.is_forced => {
                    say_left_out(&item, &other)
                }
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
            let answer = match self.lane.send_members(&batch, &items, None).await {
                Err(refusal) => Err(refusal),
                Ok(()) => {
                    let Some(in_flight) = self.lane.commit(batch, items)? else {
                        return Ok((rest, None));
                    };
                    let answer;
                    (items, answer) = in_flight.await;
                    answer.about_last()
                }
            };
            let refusal = match answer {
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
            stream: self.lane.stream.clone(),
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
