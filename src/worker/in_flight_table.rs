//! What this instance has in flight of one stream, and so how many more events may be requested. Never pulls and never
//! runs anything.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use chrono::{DateTime, Utc};
use tokio::{sync::Notify, time::Instant};

use crate::{
    executor::throttle::{Pulls, Throttle},
    handler::subscriber::MAX_CONCURRENCY,
    log::Lasting,
    nats::AckHandle,
    position::Position,
};

/// Shared by the source, which adds deliveries, and the runner, which releases them.
pub(super) struct InFlightTable {
    /// How many events may be in flight.
    capacity: AtomicUsize,
    /// How many bytes may be in flight.
    memory: usize,
    throttle: Arc<Throttle>,
    /// Whether only this instance is active, so that the consumer's ack floor is right below the oldest event in
    /// flight.
    alone: bool,
    inner: Mutex<Inner>,
    /// Throttle the log: events handled before are not acknowledged, and progress cannot be sent.
    ack_pending: Lasting,
    unanswered: Lasting,
    /// Notified when enough capacity has become free to be worth a request.
    freed: Notify,
}

#[derive(Default)]
struct Inner {
    /// By sequence. An entry is nevertheless for one message: see [`Position`].
    held: BTreeMap<u64, Held>,
    /// Messages that the stream no longer has: other messages have their sequences now. Their handlers still run, and
    /// no answer is sent for them.
    superseded: Vec<Held>,
    /// Events that were handled above the oldest in flight, or will be redelivered, and when each was stored. Only used
    /// when this instance alone is active.
    handled: BTreeMap<u64, DateTime<Utc>>,
    /// Another process has moved the consumer: events that were handled are to be handled again.
    is_reset: bool,
    /// How far the consumer has delivered since it began at its ack floor.
    through: u64,
    /// Events that were settled lately, and when each was stored. Only used when several instances may be active.
    recent: BTreeMap<u64, DateTime<Utc>>,
    bytes: usize,
    /// How many of the held events wait behind a failed head of their key: they take no capacity.
    held_up: usize,
    /// Set when all wanted events were delivered: only this many more are requested, which were lost on their way.
    lost: Option<usize>,
    stall: Option<Stall>,
    /// The issues of the consumer at the last look.
    issues: Vec<String>,
    looked: Option<Looked>,
    /// The first look, and the last one at which nothing was pending.
    looked_since: Option<std::time::Instant>,
    emptied_at: Option<std::time::Instant>,
    /// When the newest event was stored that was delivered.
    newest: Option<DateTime<Utc>>,
}

/// What waited at the server at the last look.
#[derive(Debug, Clone, Copy)]
pub(super) struct Looked {
    pub(super) at: std::time::Instant,
    pub(super) pending: u64,
    pub(super) ack_pending: u64,
    pub(super) is_paused: bool,
    /// Whether there was capacity for what waited.
    pub(super) has_room: bool,
}

/// Why nothing is pulled.
struct Stall {
    why: String,
    /// When pulling was resumed. Whether that helped shows with the next delivery, or after a while.
    resumed_at: Option<Instant>,
}

/// How long resumed pulling still counts as stalled, unless a delivery arrives: the same cause may stop it again.
const UNSURE: Duration = Duration::from_secs(10);
/// The same for the question whether pulling is still hindered.
const RESUMED: Duration = Duration::from_secs(3);

/// How many lately settled events are remembered while the ack floor does not move.
const MOST_RECENT: usize = 65_536;

struct Held {
    ack: Arc<AckHandle>,
    at: Position,
    since: Instant,
}

/// What a delivery is to this instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Taken {
    New,
    /// It was redelivered while it is in flight.
    Held,
    /// It was handled already, and is redelivered: from the ack floor, or because the server has lost the ack. It is in
    /// flight until its ack is confirmed.
    Handled,
}

/// Whether a delivery shows that the stream has another message at its sequence than the known one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct WentBack(pub(super) bool);

impl InFlightTable {
    pub(super) fn new(capacity: usize, memory: usize, throttle: Arc<Throttle>) -> Self {
        Self {
            capacity: AtomicUsize::new(capacity),
            memory,
            throttle,
            alone: false,
            inner: Mutex::default(),
            ack_pending: Lasting::default(),
            unanswered: Lasting::default(),
            freed: Notify::new(),
        }
    }

    /// From now on only this instance is active; `handled` is what the previous one has handled.
    pub(super) fn alone(&mut self, handled: Vec<Position>) {
        if !std::mem::replace(&mut self.alone, true) {
            let handled = handled.into_iter();
            self.inner().handled = handled.map(|it| (it.sequence, it.stored_at)).collect();
        }
    }

    /// The events that were handled above the ack floor.
    pub(super) fn handled(&self) -> Vec<Position> {
        let inner = self.inner();
        let handled = inner.handled.iter().filter(|_| !inner.is_reset);
        let position = |(sequence, stored_at): (&u64, &DateTime<Utc>)| Position {
            sequence: *sequence,
            stored_at: *stored_at,
        };
        handled.map(position).collect()
    }

    /// Everything that this instance alone has handled is to be handled again, and so is everything that it still
    /// completes.
    pub(super) fn reset(&self) {
        self.inner().is_reset = true;
    }

    /// The consumer begins again at its ack floor: events handled above it are redelivered.
    pub(super) fn begin_again(&self) {
        let mut inner = self.inner();
        (inner.through, inner.lost) = (0, None);
    }

    /// Notes whether all wanted events were delivered. If so, only those that were lost are requested.
    pub(super) fn has_come(&self, has_come: bool, lost: usize) {
        self.inner().lost = has_come.then_some(lost);
        self.freed.notify_one();
    }

    /// Forgets the handled events: they are to be handled again.
    pub(super) fn forget_handled(&self) {
        let mut inner = self.inner();
        inner.handled.clear();
        inner.recent.clear();
    }

    /// From this sequence on, the stream has other messages than those stored before this moment: it was recreated, or
    /// replaced by an older copy of itself.
    pub(super) fn went_back(&self, to: u64, before: DateTime<Utc>) {
        self.inner().go_back(to, before);
    }

    /// Forgets events up to the ack floor: they are not redelivered.
    pub(super) fn forget_up_to(&self, floor: u64) {
        let mut inner = self.inner();
        inner.recent = inner.recent.split_off(&floor.saturating_add(1));
    }

    /// The free capacity, and of how much. All of it is free only when nothing is held.
    pub(super) fn free(&self) -> (usize, usize) {
        let (held, taken, lost) = {
            let inner = self.inner();
            let (taken, _) = self.taken(&inner);
            let superseded = inner.superseded.len();
            let taken = (taken + superseded).saturating_sub(inner.held_up);
            (inner.held.len() + superseded, taken, inner.lost)
        };
        let taken = taken.max(usize::from(held > 0));
        let capacity = self.capacity.load(Ordering::Relaxed);
        let free = capacity.saturating_sub(taken);
        let free = free.min(MAX_CONCURRENCY.saturating_sub(held));
        match self.throttle.pulls() {
            Pulls::All => match lost.map(|lost| free.min(lost)) {
                // With this total, even one event is worth a request.
                Some(few) => (few, few + 1),
                None => (free, capacity),
            },
            Pulls::One | Pulls::None if lost == Some(0) => (0, capacity),
            Pulls::One if held == 0 => (1, 1),
            Pulls::One => (free.min(1), capacity),
            Pulls::None => (0, capacity),
        }
    }

    /// How many more bytes there is room for.
    pub(super) fn bytes_free(&self) -> usize {
        let (_, bytes) = self.taken(&self.inner());
        self.memory.saturating_sub(bytes)
    }

    /// The events and bytes that take capacity. A consumer that began again at its floor confirms an ack only when it
    /// has redelivered the event. So an event that it has not redelivered yet takes none: with no capacity left it
    /// never would be.
    fn taken(&self, inner: &Inner) -> (usize, usize) {
        let last = inner.held.last_key_value().map(|(last, _)| *last);
        if !self.alone || last.is_none_or(|last| last <= inner.through) {
            return (inner.held.len(), inner.bytes);
        }
        let delivered = inner.held.range(..=inner.through).map(|(_, held)| held);
        delivered.fold((0, 0), |(taken, bytes), held| {
            (taken + 1, bytes + held.ack.bytes())
        })
    }

    /// Takes a delivery in. When another message was known by its sequence, the stream has gone back.
    pub(super) fn take(&self, at: Position, ack: &Arc<AckHandle>) -> (Taken, WentBack) {
        let mut inner = self.inner();
        inner.stall = None;
        let Position {
            sequence,
            stored_at,
        } = at;
        let held = inner.held.get(&sequence).map(|held| held.at.stored_at);
        if held == Some(stored_at) {
            inner.through = inner.through.max(sequence);
            return (Taken::Held, WentBack(false));
        }
        let handled = inner.handled.get(&sequence).copied();
        let recent = inner.recent.get(&sequence).copied();
        let is_known = handled == Some(stored_at) || recent == Some(stored_at);
        let is_another = |known: Option<DateTime<Utc>>| known.is_some_and(|it| it < stored_at);
        let went_back = is_another(held) || is_another(handled) || is_another(recent);
        if went_back {
            inner.go_back(sequence, stored_at);
        }
        inner.through = inner.through.max(sequence);
        inner.newest = inner.newest.max(Some(stored_at));
        let new = Held {
            ack: Arc::clone(ack),
            at,
            since: Instant::now(),
        };
        inner.bytes += ack.bytes();
        // The server's clock was set back: the previous message of this sequence has a later time.
        if let Some(before) = inner.held.insert(sequence, new) {
            inner.supersede(before);
        }
        let taken = match is_known {
            true => Taken::Handled,
            false => Taken::New,
        };
        (taken, WentBack(went_back))
    }

    /// Releases a delivery that was not settled.
    pub(super) fn let_go(&self, at: Position) {
        self.inner().remove(at);
        self.freed.notify_one();
    }

    /// Releases a delivery that was settled.
    pub(super) fn release(&self, at: Position) {
        let mut inner = self.inner();
        let was_held = inner.remove(at);
        let Position {
            sequence,
            stored_at,
        } = at;
        if self.alone {
            if was_held {
                inner.handled.insert(sequence, stored_at);
            }
            // Among delivered events, the ack floor is right below the oldest in flight: older ones are never
            // redelivered. About events not delivered yet it states nothing.
            let oldest = inner.held.keys().next().copied().unwrap_or(u64::MAX);
            let floor = oldest.min(inner.through.saturating_add(1));
            while let Some(first) = inner.handled.first_entry()
                && *first.key() < floor
            {
                first.remove();
            }
        } else if was_held {
            inner.recent.insert(sequence, stored_at);
            if inner.recent.len() > MOST_RECENT {
                inner.recent.pop_first();
            }
        }
        drop(inner);
        self.freed.notify_one();
    }

    /// The sequence of the oldest event in flight.
    pub(super) fn oldest(&self) -> Option<u64> {
        self.inner().held.keys().next().copied()
    }

    /// Whether this message is in flight.
    pub(super) fn holds(&self, at: Position) -> bool {
        matches!(self.inner().held.get(&at.sequence), Some(held) if held.at == at)
    }

    /// An event that waits behind a failed head takes no capacity, so that it does not keep other events out.
    pub(super) fn hold_up(&self) {
        self.inner().held_up += 1;
        self.freed.notify_one();
    }

    /// The event takes capacity again.
    pub(super) fn go_on(&self) {
        self.inner().held_up -= 1;
    }

    /// How many events and bytes are in flight.
    pub(super) fn held(&self) -> (usize, usize) {
        let inner = self.inner();
        (inner.held.len() + inner.superseded.len(), inner.bytes)
    }

    /// Notes that nothing is pulled, and why.
    pub(super) fn stalled(&self, why: String) {
        let resumed_at = None;
        self.inner().stall = Some(Stall { why, resumed_at });
    }

    /// Notes that pulling has resumed.
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

    /// Why nothing is pulled, and whether pulling has resumed and that may not have helped. Resumed pulling is left
    /// alone after a few seconds: the next look at the consumer was answered.
    pub(super) fn hindrance(&self) -> Option<(String, bool)> {
        let inner = self.inner();
        let stall = inner.stall.as_ref()?;
        match stall.resumed_at {
            Some(at) if at.elapsed() > RESUMED => None,
            resumed_at => Some((stall.why.clone(), resumed_at.is_some())),
        }
    }

    /// Notes what waits at the server.
    pub(super) fn looked(&self, looked: Looked) {
        let mut inner = self.inner();
        inner.looked_since.get_or_insert(looked.at);
        if looked.pending == 0 {
            inner.emptied_at = Some(looked.at);
        }
        inner.looked = Some(looked);
    }

    /// The age of the oldest pending event, at most: it was stored after the newest one that was delivered, and after
    /// the last look at which nothing was pending. `None` when nothing is.
    pub(super) fn oldest_pending(
        &self,
        now: std::time::Instant,
        clock: DateTime<Utc>,
    ) -> Option<Duration> {
        let inner = self.inner();
        inner.looked.filter(|looked| looked.pending > 0)?;
        let since = |at: std::time::Instant| now.saturating_duration_since(at);
        let newest = inner.newest.map(|at| (clock - at).to_std());
        let newest = newest.map(Result::unwrap_or_default);
        let emptied = inner.emptied_at.map(since);
        let least = inner.looked_since.map(since);
        newest.into_iter().chain(emptied).min().or(least)
    }

    /// What waited at the server at the last look.
    pub(super) fn last_look(&self) -> Option<Looked> {
        self.inner().looked
    }

    /// Sets the issues that a look at the consumer found; returns those that are new.
    pub(super) fn set_issues(&self, issues: Vec<String>) -> Vec<String> {
        let mut inner = self.inner();
        let is_new = |issue: &&String| !inner.issues.contains(issue);
        let new = issues.iter().filter(is_new).cloned().collect();
        inner.issues = issues;
        new
    }

    /// The issues of the consumer.
    pub(super) fn issues(&self) -> Vec<String> {
        self.inner().issues.clone()
    }

    /// Whether there is capacity for more events, with room for the largest message.
    pub(super) fn has_room(&self, largest: usize) -> bool {
        let (free, _) = self.free();
        let is_empty = self.inner().held.is_empty();
        free > 0 && (is_empty || self.bytes_free() > 2 * largest)
    }

    /// The deliveries that have been in flight for longer than this.
    pub(super) fn older_than(&self, age: Duration) -> Vec<Arc<AckHandle>> {
        let now = Instant::now();
        let inner = self.inner();
        let old = inner.held.values().filter(|held| now - held.since >= age);
        old.map(|held| Arc::clone(&held.ack)).collect()
    }

    /// Throttles the log: events handled before are not acknowledged.
    pub(super) fn ack_pending(&self) -> &Lasting {
        &self.ack_pending
    }

    /// Throttles the log: progress cannot be sent.
    pub(super) fn unanswered(&self) -> &Lasting {
        &self.unanswered
    }

    /// Changes how many events may be in flight. What is in flight above it stays.
    pub(super) fn set_capacity(&self, capacity: usize) {
        self.capacity.store(capacity, Ordering::Relaxed);
        self.freed.notify_one();
    }

    /// Has the source check its capacity again.
    pub(super) fn look_again(&self) {
        self.freed.notify_one();
    }

    /// Waits until capacity has become free.
    pub(super) async fn freed(&self) {
        self.freed.notified().await;
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// Removes a held delivery; returns whether it was held under its sequence.
    fn remove(&mut self, at: Position) -> bool {
        let is_it = |held: &Held| held.at == at;
        if self.held.get(&at.sequence).is_some_and(is_it) {
            let held = self.held.remove(&at.sequence);
            self.bytes -= held.map_or(0, |held| held.ack.bytes());
            return true;
        }
        if let Some(place) = self.superseded.iter().position(is_it) {
            let held = self.superseded.swap_remove(place);
            self.bytes -= held.ack.bytes();
        }
        false
    }

    fn go_back(&mut self, to: u64, before: DateTime<Utc>) {
        self.handled
            .retain(|sequence, at| *sequence < to || *at >= before);
        self.recent
            .retain(|sequence, at| *sequence < to || *at >= before);
        let gone = self
            .held
            .extract_if(to.., |_, held| held.at.stored_at < before);
        for (_, held) in gone.collect::<Vec<_>>() {
            self.supersede(held);
        }
        self.through = to.saturating_sub(1);
    }

    /// Suppresses the answer to a held delivery: the server would apply it to the message that has its sequence now.
    fn supersede(&mut self, held: Held) {
        held.ack.supersede();
        self.superseded.push(held);
    }
}
