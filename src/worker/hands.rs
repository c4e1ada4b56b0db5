//! What this replica has in hand of one stream, and so how much more may be asked for. Never pulls and
//! never runs anything.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use chrono::{DateTime, Utc};
use tokio::{sync::Notify, time::Instant};

use crate::{
    bus::Delivery,
    flow::{Flow, Pulls},
    log::Lasting,
    position::Position,
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
    /// That what was handled before is not acknowledged, and that progress cannot be told.
    unanswered: Lasting,
    untold: Lasting,
    /// Enough places have become free to be worth a request.
    freed: Notify,
}

#[derive(Default)]
struct Inner {
    /// By sequence. What is remembered is the message all the same: see [`Position`].
    held: BTreeMap<u64, Held>,
    /// Messages that the stream does not have any more: another one has their sequence. Their handlers still run, and
    /// nothing is answered for them.
    superseded: Vec<Held>,
    /// What was handled above the oldest in hand, or is to be delivered again, by whoever is alone; and when it was
    /// stored.
    handled: BTreeMap<u64, DateTime<Utc>>,
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
    at: Position,
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

/// Whether a delivery shows that the stream has another message at its sequence than the one that was known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct WentBack(pub(super) bool);

impl Hands {
    pub(super) fn new(capacity: usize, memory: usize, flow: Arc<Flow>) -> Self {
        Self {
            capacity,
            memory,
            flow,
            alone: false,
            inner: Mutex::default(),
            unanswered: Lasting::default(),
            untold: Lasting::default(),
            freed: Notify::new(),
        }
    }

    /// This replica alone works from now on, and this is what the one before has handled.
    pub(super) fn alone(&mut self, handled: Vec<Position>) {
        if !std::mem::replace(&mut self.alone, true) {
            let handled = handled.into_iter();
            self.inner().handled = handled.map(|it| (it.sequence, it.stored_at)).collect();
        }
    }

    /// What was handled above the ack floor.
    pub(super) fn handled(&self) -> Vec<Position> {
        let inner = self.inner();
        let handled = inner.handled.iter().filter(|_| !inner.is_reset);
        let position = |(sequence, stored_at): (&u64, &DateTime<Utc>)| Position {
            sequence: *sequence,
            stored_at: *stored_at,
        };
        handled.map(position).collect()
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

    /// What was handled is to be handled again.
    pub(super) fn forget_handled(&self) {
        let mut inner = self.inner();
        inner.handled.clear();
        inner.recent.clear();
    }

    /// From this sequence on the stream has other messages than those that were stored before this moment: it was made
    /// anew, or an older copy of it was put back.
    pub(super) fn went_back(&self, to: u64, before: DateTime<Utc>) {
        self.inner().go_back(to, before);
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
            let superseded = inner.superseded.len();
            let taken = (taken + superseded).saturating_sub(inner.held_up);
            (inner.held.len() + superseded, taken, inner.lost)
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

    /// Takes a delivery in. Where another message was known by its sequence, the stream has gone back.
    pub(super) fn take(&self, at: Position, delivery: &Arc<Delivery>) -> (Taken, WentBack) {
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
        let new = Held {
            delivery: Arc::clone(delivery),
            at,
            since: Instant::now(),
        };
        inner.bytes += delivery.bytes();
        // By a server whose clock was set back, the message before this one.
        if let Some(before) = inner.held.insert(sequence, new) {
            inner.supersede(before);
        }
        let taken = match is_known {
            true => Taken::Handled,
            false => Taken::New,
        };
        (taken, WentBack(went_back))
    }

    /// Lets a delivery go that was not answered.
    pub(super) fn let_go(&self, at: Position) {
        self.inner().remove(at);
        self.freed.notify_one();
    }

    /// Lets a delivery go that was answered.
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
            // Of what was delivered, the ack floor is right below the oldest in hand: what is older never comes
            // again. Of what was not yet, it says nothing.
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
        (inner.held.len() + inner.superseded.len(), inner.bytes)
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

    /// For the log: how often what was handled before is not acknowledged.
    pub(super) fn unanswered(&self) -> &Lasting {
        &self.unanswered
    }

    /// For the log: how often progress cannot be told.
    pub(super) fn untold(&self) -> &Lasting {
        &self.untold
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

impl Inner {
    /// Takes what is held out, and says whether it was held under its sequence.
    fn remove(&mut self, at: Position) -> bool {
        let is_it = |held: &Held| held.at == at;
        if self.held.get(&at.sequence).is_some_and(is_it) {
            let held = self.held.remove(&at.sequence);
            self.bytes -= held.map_or(0, |held| held.delivery.bytes());
            return true;
        }
        if let Some(place) = self.superseded.iter().position(is_it) {
            let held = self.superseded.swap_remove(place);
            self.bytes -= held.delivery.bytes();
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

    /// The server would take an answer for one to the message that has its sequence now.
    fn supersede(&mut self, held: Held) {
        held.delivery.supersede();
        self.superseded.push(held);
    }
}
