//! The parked keys of an ordered subscriber: their events are dead-lettered, because one of them was. Never calls a
//! handler for such an event, and never redrives one.
//!
//! A key is parked by a marker that is confirmed before the dead letter of the event that parks it, so that the next
//! active instance knows it. A redriven event carries the id of the park that it may pass. When such an event fails,
//! that is another park, and the events behind it are dead-lettered again. A question behind the last one unparks the
//! key, if no dead letter of the key is left then.
//!
//! If some are left, because events of the key keep arriving, the events in flight are deferred for a time: they are
//! not dead-lettered, and wait in their lane while redriven events pass them. So a redrive need not be faster than the
//! events arrive.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use chrono::Utc;
use tokio::{sync::RwLockReadGuard, time::Instant};
use uuid::Uuid;

use super::{crash_guard::CrashGuard, item::Item, status_reporter::StatusReporter};
use crate::{
    executor::{AckError, Acknowledger, Attempt, Delivery, Disposition, Executor, Past},
    handler::{
        memory::{Noted, Whereabouts},
        subscriber::{EventSubscriber, OnExhausted},
    },
    log::{Lasting, short},
    nats::{AckHandle, Bus, BusError, Head, Park, Question},
    observer::{KeyChange, Observation, Observers},
    policy::{
        lanes::Ticket,
        outcome::{Cause, DeadLetter},
    },
};

/// The pause before a question is processed again.
const PAUSE: Duration = Duration::from_secs(1);
/// How long later events are deferred after a question.
const GIVE_WAY: Duration = Duration::from_secs(30);
/// How long a deferred event rests before the next check whether another one may pass it.
const LOOK: Duration = Duration::from_millis(100);
/// The causes for which an event can park its key.
const CAUSES: [Cause; 6] = [
    Cause::Rejected,
    Cause::Exhausted,
    Cause::Undecodable,
    Cause::Unknown,
    Cause::OutsideInbox,
    Cause::Crashed,
];

pub(super) struct Parks {
    bus: Bus,
    subscriber: String,
    /// Whether an event that fails for good parks its key.
    parks: bool,
    crash_guard: CrashGuard,
    observers: Observers,
    /// Throttles the log: it is not known whether a key can be unparked.
    unknown: Lasting,
    /// The parked keys: only the active instance parks and unparks.
    known: Mutex<HashMap<String, Known>>,
}

/// A parked key.
#[derive(Clone)]
struct Known {
    park: Park,
    /// Until when its later events are deferred for redriven ones.
    gives_way: Option<Instant>,
}

impl From<Park> for Known {
    fn from(park: Park) -> Self {
        let gives_way = None;
        Self { park, gives_way }
    }
}

impl Parks {
    /// Loads the parked keys; an unordered subscriber has none.
    pub(super) async fn open<S: Send + Sync + 'static>(
        bus: &Bus,
        subscriber: &EventSubscriber<S>,
        crash_guard: CrashGuard,
        reporter: &StatusReporter,
        observers: &Observers,
    ) -> Result<Arc<Self>, BusError> {
        let mut known = HashMap::new();
        if subscriber.ordered {
            let (parks, bad) = bus.parks(Some(subscriber.name())).await?;
            bad.into_iter().for_each(|entry| reporter.skips(entry));
            let parks = parks.into_iter();
            known.extend(parks.map(|(_, park)| (park.key.clone(), park.into())));
        }
        Ok(Arc::new(Self {
            bus: bus.clone(),
            subscriber: subscriber.name().to_owned(),
            parks: subscriber.exhausted == OnExhausted::ParkKey,
            crash_guard,
            observers: observers.clone(),
            unknown: Lasting::default(),
            known: Mutex::new(known),
        }))
    }

    /// Makes one attempt, unless the event's key is parked.
    pub(super) async fn run<S: Send + Sync + 'static>(
        self: &Arc<Self>,
        executor: &Executor<S>,
        attempt: Attempt<'_, Arc<AckHandle>>,
        key: Option<&str>,
    ) -> Disposition {
        let handle = attempt.ack;
        if let Some(question) = handle.question() {
            executor.pass(&attempt);
            return Box::pin(self.answer(question, handle)).await;
        }
        if self.gives_way(key, handle) {
            executor.pass(&attempt);
            return Disposition::RetryLocally(LOOK);
        }
        let park = key.and_then(|key| Some(self.known().get(key)?.park.clone()));
        if let Some(park) = &park
            && handle.pass() != Some(park.id)
        {
            let letter = letter(park, &handle.passage());
            let attempt = attempt.answered_by(&**handle);
            return Box::pin(executor.dead_letter(attempt, letter)).await;
        }
        let key = key.filter(|_| park.is_some() || self.may_park(attempt.delivery));
        let parking = self.parking(key, handle);
        let attempt = attempt.answered_by(&parking);
        self.crash_guard.run(executor, attempt, handle).await
    }

    /// Whether an event parks its key when it fails for good. A replay runs beside the live events, and must not stop
    /// them.
    fn may_park(&self, delivery: &Delivery) -> bool {
        self.parks && delivery.replay.is_none()
    }

    /// Whether an event must not be in a batch: it is a question, or its key is parked. A key is parked only by its own
    /// events, one at a time.
    pub(super) fn concerns(&self, key: Option<&str>, handle: &AckHandle) -> bool {
        handle.question().is_some() || key.is_some_and(|key| self.known().contains_key(key))
    }

    /// Whether an event is deferred for redriven events of its key.
    pub(super) fn gives_way(&self, key: Option<&str>, handle: &AckHandle) -> bool {
        let Some(key) = key else {
            return false;
        };
        let known = self.known();
        known.get(key).is_some_and(|Known { park, gives_way }| {
            gives_way.is_some_and(|until| Instant::now() < until)
                && handle.pass() != Some(park.id)
                && handle.question().is_none()
        })
    }

    /// What answers an event in a batch.
    pub(super) fn parking_of(self: &Arc<Self>, ticket: &Ticket, item: &Item) -> Parking {
        let key = ticket.key.as_deref();
        let key = key.filter(|_| self.may_park(&item.delivery));
        self.parking(key, &item.ack)
    }

    fn parking(self: &Arc<Self>, key: Option<&str>, handle: &Arc<AckHandle>) -> Parking {
        Parking {
            key: key.map(str::to_owned),
            handle: Arc::clone(handle),
            parks: Arc::clone(self),
        }
    }

    /// While the guard is held, no suspect runs.
    pub(super) async fn beside(&self) -> RwLockReadGuard<'static, ()> {
        self.crash_guard.beside().await
    }

    /// Parks a key, confirmed, because this event failed for good.
    async fn park(
        &self,
        key: &str,
        handle: &AckHandle,
        letter: &DeadLetter,
    ) -> Result<(), BusError> {
        let life = handle.passage();
        let has = |park: &Park| park.head.life == life;
        while !self.known().get(key).is_some_and(|known| has(&known.park)) {
            let (revision, found) = self.bus.park_of(&self.subscriber, key).await?;
            // The marker may be its own, if the response was lost.
            if let Some(found) = found.filter(has) {
                self.known().insert(key.to_owned(), found.into());
                break;
            }
            let (stream, sequence) = handle.first_stored();
            let park = Park {
                id: Uuid::now_v7(),
                key: key.to_owned(),
                since: Utc::now(),
                head: Head {
                    life: life.clone(),
                    stream: stream.to_owned(),
                    sequence,
                    cause: letter.cause.as_str().to_owned(),
                    error: letter.error.clone(),
                    attempts: letter.attempts,
                    first_failed_at: letter.first_failed_at,
                },
                redrive: None,
            };
            let writing = self.bus.write_park(&self.subscriber, &park, revision);
            if writing.await? {
                self.tell(key, KeyChange::Parked { stream, sequence });
                self.known().insert(key.to_owned(), park.into());
            }
        }
        Ok(())
    }

    /// Unparks the key of a question, if possible. The redrive that asked reads the result from the bucket.
    async fn answer(&self, question: &Question, handle: &AckHandle) -> Disposition {
        let answered = match self.unpark(question).await {
            Ok(()) => handle.ack().await,
            Err(error) => Err(error.into()),
        };
        match answered {
            Ok(()) => Disposition::Settled,
            Err(error) => {
                let (subscriber, key) = (&self.subscriber, &*short(&question.key));
                if let Some(unsaid) = self.unknown.again(Instant::now().into_std()) {
                    tracing::warn!(subscriber, key, %error, unsaid, "parked key check failed: it is tried again");
                }
                Disposition::RetryLocally(PAUSE)
            }
        }
    }

    async fn unpark(&self, question: &Question) -> Result<(), BusError> {
        let (subscriber, key) = (&self.subscriber, &question.key);
        loop {
            let (revision, park) = self.bus.park_of(subscriber, key).await?;
            let Some(park) = park else {
                self.known().remove(key);
                return Ok(());
            };
            let counts = park.id == question.park && park.redrive == Some(question.redrive);
            let left = self.bus.is_letter_after(subscriber, key, question.after);
            if !counts || left.await? {
                self.tell(key, KeyChange::StillParked);
                if let Some(known) = self.known().get_mut(key)
                    && known.park.id == question.park
                {
                    known.gives_way = Some(Instant::now() + GIVE_WAY);
                }
                return Ok(());
            }
            if self.bus.remove_park(subscriber, key, revision).await? {
                self.tell(key, KeyChange::Unparked);
            }
        }
    }

    fn tell(&self, key: &str, change: KeyChange<'_>) {
        let subscriber = &self.subscriber;
        self.observers.tell(&Observation::Key {
            subscriber,
            key,
            change,
        });
    }

    fn known(&self) -> MutexGuard<'_, HashMap<String, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The dead letter of an event of a parked key: the event that parked it keeps its error, the others refer to that
/// event.
fn letter(park: &Park, life: &str) -> DeadLetter {
    let head = &park.head;
    if head.life == life {
        let cause = CAUSES
            .into_iter()
            .find(|cause| cause.as_str() == head.cause);
        return DeadLetter {
            first_failed_at: head.first_failed_at,
            ..DeadLetter::new(
                cause.unwrap_or(Cause::Exhausted),
                &head.error,
                head.attempts,
            )
        };
    }
    let Head {
        stream, sequence, ..
    } = head;
    let error = format!("its key is parked since {stream} {sequence} was dead-lettered");
    DeadLetter::new(Cause::ParkedKey, &error, 0)
}

/// Parks the key before the dead letter is written.
pub(super) struct Parking {
    parks: Arc<Parks>,
    key: Option<String>,
    handle: Arc<AckHandle>,
}

impl Acknowledger for Parking {
    async fn ack(&self) -> Result<(), AckError> {
        self.handle.ack().await
    }

    async fn retry(&self, after: Duration, past: &Past) -> Result<(), AckError> {
        self.handle.retry(after, past).await
    }

    fn can_come_again(&self, past: &Past) -> bool {
        self.handle.can_come_again(past)
    }

    async fn hand_back(&self, after: Duration) -> Result<(), AckError> {
        self.handle.hand_back(after).await
    }

    async fn whereabouts(&self, noted: &Noted) -> Result<Whereabouts, AckError> {
        self.handle.whereabouts(noted).await
    }

    async fn dead_letter(&self, letter: &DeadLetter) -> Result<u64, AckError> {
        if let Some(key) = &self.key {
            Box::pin(self.parks.park(key, &self.handle, letter)).await?;
        }
        self.handle.dead_letter(letter).await
    }
}

/// Whether events of its key may be deferred for this one.
pub(super) fn may_pass(item: &Item) -> bool {
    item.ack.pass().is_some() || item.ack.question().is_some()
}

/// The key whose lane a delivery of an ordered subscriber joins.
pub(super) fn key_of(item: &Item) -> Option<String> {
    if let Some(question) = item.ack.question() {
        return Some(question.key.clone());
    }
    item.delivery.event()?.key().map(str::to_owned)
}
