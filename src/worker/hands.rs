//! What this replica has in hand of one stream, and so how much more may be asked for. Never pulls and
//! never runs anything.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use chrono::{DateTime, Utc};
use tokio::{sync::Notify, time::Instant};

use crate::{
    bus::Delivery,
    flow::{Flow, Pulls},
    subscriber::MAX_CONCURRENCY,
};

/// Shared by the source, which takes deliveries in, and the runner, which lets them go.
pub(super) struct Hands {
    /// How many may be in hand.
    capacity: usize,
    /// How many bytes may be in hand.
    memory: usize,
    flow: Arc<Flow>,
    /// Whether one replica works, and so its acknowledgement floor is right below the oldest in hand.
    alone: bool,
    inner: Mutex<Inner>,
    /// Enough places have become free to be worth a request.
    freed: Notify,
}

#[derive(Default)]
struct Inner {
    held: BTreeMap<u64, Held>,
    /// What was handled above the oldest in hand, or is to be delivered again, by whoever is alone.
    handled: BTreeSet<u64>,
    /// Somebody has taken the consumer to another place: what was handled is to be handled again.
    is_reset: bool,
    /// How far the consumer has delivered since it began at its ack floor.
    through: u64,
    /// What was answered lately by one of several, and when it was stored.
    recent: BTreeMap<u64, DateTime<Utc>>,
    bytes: usize,
    /// How many of those that are held wait behind a head that has failed: they take no place.
    held_up: usize,
    /// All that is wanted was delivered: only so much more is asked for, which was lost on its way.
    lost: Option<usize>,
    stall: Option<Stall>,
    /// What is wrong with the consumer, as it was looked at last.
    issues: Vec<String>,
}

/// Why nothing is pulled.
struct Stall {
    why: String,
    /// When it was tried again; whether it helped shows with the next delivery, or in a while.
    resumed_at: Option<Instant>,
}

/// For so long pulling that has resumed counts as stalled, unless something comes: what stops it may stop it
/// again.
const UNSURE: Duration = Duration::from_secs(10);

/// How much of what was answered lately is remembered, while the acknowledgement floor does not move.
const MOST_RECENT: usize = 65_536;

struct Held {
    delivery: Arc<Delivery>,
    stored_at: DateTime<Utc>,
    since: Instant,
}

/// What a delivery is to this replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Taken {
    New,
    /// It was delivered again while it is in hand.
    Held,
    /// It was handled already, and is delivered again: from the ack floor, or because the server has lost the
    /// answer. It is in hand until that is confirmed.
    Handled,
}

impl Hands {
    pub(super) fn new(capacity: usize, memory: usize, flow: Arc<Flow>) -> Self {
        Self {
            capacity,
            memory,
            flow,
            alone: false,
            inner: Mutex::default(),
            freed: Notify::new(),
        }
    }

    /// This replica alone works from now on, and this is what the one before has handled.
    pub(super) fn alone(&mut self, handled: Vec<u64>) {
        if !std::mem::replace(&mut self.alone, true) {
            self.inner().handled = handled.into_iter().collect();
        }
    }

    /// What was handled above the ack floor.
    pub(super) fn handled(&self) -> Vec<u64> {
        let inner = self.inner();
        let handled = inner.handled.iter().filter(|_| !inner.is_reset);
        handled.copied().collect()
    }

    /// What this replica alone has handled is to be handled again, and what it still ends as well.
    pub(super) fn reset(&self) {
        self.inner().is_reset = true;
    }

    /// The consumer begins again at its ack floor: what was handled above it is delivered again.
    pub(super) fn begin_again(&self) {
        let mut inner = self.inner();
        (inner.through, inner.lost) = (0, None);
    }

    /// Whether all that is wanted was delivered, and so nothing more is asked for but what of it was lost.
    pub(super) fn has_come(&self, has_come: bool, lost: usize) {
        self.inner().lost = has_come.then_some(lost);
        self.freed.notify_one();
    }

    /// The stream is another one, and its sequences mean other events; or they are to be handled again.
    pub(super) fn forget_handled(&self) {
        let mut inner = self.inner();
        inner.handled.clear();
        inner.recent.clear();
    }

    /// Up to here everything was acknowledged: it does not come again.
    pub(super) fn forget_up_to(&self, floor: u64) {
        let mut inner = self.inner();
        inner.recent = inner.recent.split_off(&floor.saturating_add(1));
    }

    /// How many places are free, of how many. All are free only when nothing is held.
    pub(super) fn free(&self) -> (usize, usize) {
        let (held, taken, lost) = {
            let inner = self.inner();
            let (taken, _) = self.taken(&inner);
            let taken = taken.saturating_sub(inner.held_up);
            (inner.held.len(), taken, inner.lost)
        };
        let taken = taken.max(usize::from(held > 0));
        let free = self.capacity.saturating_sub(taken);
        let free = free.min(MAX_CONCURRENCY.saturating_sub(held));
        match self.flow.pulls() {
            Pulls::All => match lost.map(|lost| free.min(lost)) {
                // One is always worth a request.
                Some(few) => (few, few + 1),
                None => (free, self.capacity),
            },
            Pulls::One | Pulls::None if lost == Some(0) => (0, self.capacity),
            Pulls::One if held == 0 => (1, 1),
            Pulls::One => (free.min(1), self.capacity),
            Pulls::None => (0, self.capacity),
        }
    }

    /// How many bytes more there is place for.
    pub(super) fn bytes_free(&self) -> usize {
        let (_, bytes) = self.taken(&self.inner());
        self.memory.saturating_sub(bytes)
    }

    /// How many places and bytes are taken. A consumer that began again at its floor confirms an answer only when it
    /// has delivered the event again, so what it has not yet takes none: with no place left it never would.
    fn taken(&self, inner: &Inner) -> (usize, usize) {
        let last = inner.held.last_key_value().map(|(last, _)| *last);
        if !self.alone || last.is_none_or(|last| last <= inner.through) {
            return (inner.held.len(), inner.bytes);
        }
        let delivered = inner.held.range(..=inner.through).map(|(_, held)| held);
        delivered.fold((0, 0), |(taken, bytes), held| {
            (taken + 1, bytes + held.delivery.bytes())
        })
    }

    /// Takes a delivery in, by its sequence. One of several replicas does not learn soon that the stream is
    /// another one, so the sequence alone does not tell it what it has handled.
    pub(super) fn take(
        &self,
        sequence: u64,
        stored_at: DateTime<Utc>,
        delivery: &Arc<Delivery>,
    ) -> Taken {
        let mut inner = self.inner();
        inner.stall = None;
        inner.through = inner.through.max(sequence);
        if inner.held.contains_key(&sequence) {
            return Taken::Held;
        }
        let is_known =
            inner.handled.contains(&sequence) || inner.recent.get(&sequence) == Some(&stored_at);
        let held = Held {
            delivery: Arc::clone(delivery),
            stored_at,
            since: Instant::now(),
        };
        inner.bytes += delivery.bytes();
        inner.held.insert(sequence, held);
        match is_known {
            true => Taken::Handled,
            false => Taken::New,
        }
    }

    /// Lets a delivery go that was not answered.
    pub(super) fn let_go(&self, sequence: u64) {
        let mut inner = self.inner();
        if let Some(held) = inner.held.remove(&sequence) {
            inner.bytes -= held.delivery.bytes();
        }
        drop(inner);
        self.freed.notify_one();
    }

    /// Lets a delivery go that was answered.
    pub(super) fn release(&self, sequence: u64) {
        let mut inner = self.inner();
        let held = inner.held.remove(&sequence);
        inner.bytes -= held.as_ref().map_or(0, |held| held.delivery.bytes());
        if self.alone {
            inner.handled.insert(sequence);
            // Of what was delivered, the ack floor is right below the oldest in hand: what is older never comes
            // again. Of what was not yet, it says nothing.
            let oldest = inner.held.keys().next().copied().unwrap_or(u64::MAX);
            let floor = oldest.min(inner.through.saturating_add(1));
            while inner.handled.first().is_some_and(|first| *first < floor) {
                inner.handled.pop_first();
            }
        } else if let Some(held) = held {
            inner.recent.insert(sequence, held.stored_at);
            if inner.recent.len() > MOST_RECENT {
                inner.recent.pop_first();
            }
        }
        drop(inner);
        self.freed.notify_one();
    }

    /// The oldest in hand.
    pub(super) fn oldest(&self) -> Option<u64> {
        self.inner().held.keys().next().copied()
    }

    /// What waits behind a head that has failed does not keep others out.
    pub(super) fn hold_up(&self) {
        self.inner().held_up += 1;
        self.freed.notify_one();
    }

    /// It takes a place again.
    pub(super) fn go_on(&self) {
        self.inner().held_up -= 1;
    }

    /// How much is in hand: events and bytes.
    pub(super) fn held(&self) -> (usize, usize) {
        let inner = self.inner();
        (inner.held.len(), inner.bytes)
    }

    /// Nothing is pulled.
    pub(super) fn stalled(&self, why: String) {
        let resumed_at = None;
        self.inner().stall = Some(Stall { why, resumed_at });
    }

    /// It is pulled again.
    pub(super) fn resumed(&self) {
        if let Some(stall) = &mut self.inner().stall {
            stall.resumed_at = Some(Instant::now());
        }
    }

    /// Why nothing is pulled, if so.
    pub(super) fn stall(&self) -> Option<String> {
        let inner = self.inner();
        let stall = inner.stall.as_ref()?;
        let is_over = stall.resumed_at.is_some_and(|at| at.elapsed() > UNSURE);
        (!is_over).then(|| stall.why.clone())
    }

    /// The consumer was looked at, and this is wrong with it. Gives what was not known before.
    pub(super) fn set_issues(&self, issues: Vec<String>) -> Vec<String> {
        let mut inner = self.inner();
        let is_new = |issue: &&String| !inner.issues.contains(issue);
        let new = issues.iter().filter(is_new).cloned().collect();
        inner.issues = issues;
        new
    }

    /// What is wrong with the consumer.
    pub(super) fn issues(&self) -> Vec<String> {
        self.inner().issues.clone()
    }

    /// Whether there is place for more, with room for any message.
    pub(super) fn has_place(&self, largest: usize) -> bool {
        let (free, _) = self.free();
        let is_empty = self.inner().held.is_empty();
        free > 0 && (is_empty || self.bytes_free() > 2 * largest)
    }

    /// What has been in hand for longer than this.
    pub(super) fn older_than(&self, age: Duration) -> Vec<Arc<Delivery>> {
        let now = Instant::now();
        let inner = self.inner();
        let old = inner.held.values().filter(|held| now - held.since >= age);
        old.map(|held| Arc::clone(&held.delivery)).collect()
    }

    /// Has whoever waits for a place look again.
    pub(super) fn look_again(&self) {
        self.freed.notify_one();
    }

    /// Waits until a place has become free.
    pub(super) async fn freed(&self) {
        self.freed.notified().await;
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
