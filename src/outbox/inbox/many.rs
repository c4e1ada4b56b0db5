//! Transactional batch handlers: one transaction, and one statement for the inbox. Never passes an event to the
//! handler that the inbox remembers.

use std::{
    collections::{BTreeMap, HashMap, HashSet, hash_map::Entry},
    ops::Range,
    sync::{Arc, atomic::Ordering},
};

use futures::FutureExt;
use tidings_contract::{Event, EventId};
use uuid::Uuid;

use super::{
    Inbox, InboxTransaction, dead_lettered::Known, housekeeping::housekeeping, in_begin_span,
    outside, patiently, period_of, time_of,
};
use crate::{
    handler::{
        Contents,
        batch::{
            Attempted, Batch, BatchContext, BatchResult, Batching, Call, Item, Many, decoded,
            in_time, judged,
        },
        context::Facts,
        housekeeping::Housekeeping,
        memory::Remembers,
        subscriber::EventSubscriber,
    },
    outbox::{
        Outbox, OutboxError, OutboxTransaction, Store,
        store::{
            inbox::{Added, Memory},
            inbox_ring::Ring,
            sessions::Backend,
        },
    },
    policy::{failure::Failure, outcome::Handled},
};

/// Handles events of one kind, many at once, in a transaction that remembers them. Every
/// `async fn(Vec<Item<E>>, InboxTransaction<DB>, BatchContext<S>) -> Result<BatchResult, Failure>` is one.
///
/// What it does through the transaction happens once for each event. An event that it names in its verdicts is not
/// remembered, so the handler must not have written anything for it. An error applies to all events, and nothing is
/// committed. When there are several, and the error states no delay, the handler is called again with halves of the
/// batch, until the failing event is alone.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a transactional handler of batches of `{E}`, in `{DB}` and with state `{S}`",
    label = "not a transactional handler of batches",
    note = "such a handler is `async fn(events: Vec<Item<{E}>>, tx: InboxTransaction<{DB}>, cx: BatchContext<{S}>) -> Result<BatchResult, Failure>`, and what it holds across an await is `Send`"
)]
pub trait BatchTransactionalHandler<E: Event, DB: Store, S>: Send + Sync + 'static {
    /// Handles the events, at least one, in the order of their delivery.
    fn handle(
        &self,
        events: Vec<Item<E>>,
        tx: InboxTransaction<DB>,
        cx: BatchContext<S>,
    ) -> impl Future<Output = Result<BatchResult, Failure>> + Send;
}

impl<E, DB, S, F, Fut> BatchTransactionalHandler<E, DB, S> for F
where
    E: Event,
    DB: Store,
    F: Fn(Vec<Item<E>>, InboxTransaction<DB>, BatchContext<S>) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<BatchResult, Failure>> + Send,
{
    fn handle(
        &self,
        events: Vec<Item<E>>,
        tx: InboxTransaction<DB>,
        cx: BatchContext<S>,
    ) -> impl Future<Output = Result<BatchResult, Failure>> + Send {
        self(events, tx, cx)
    }
}

impl<S: Send + Sync + 'static> EventSubscriber<S> {
    /// Adds a batch handler whose effect in this database happens once: see [`BatchTransactionalHandler`], and
    /// [`EventSubscriber::on_transactional`] for what the inbox remembers.
    #[must_use]
    pub fn on_batch_transactional<E, DB, H>(
        self,
        outbox: &Outbox<DB>,
        batching: Batching,
        handler: H,
    ) -> Self
    where
        E: Event,
        DB: Store,
        H: BatchTransactionalHandler<E, DB, S>,
    {
        let inbox = Inbox::new(outbox.clone());
        self.routed::<E>(Many::<E, _>::new(batching, Once { inbox, handler }))
    }
}

struct Once<DB: Store, H> {
    inbox: Inbox<DB>,
    handler: H,
}

/// Events of a batch in their transaction.
struct Begun<DB: Store> {
    tx: OutboxTransaction<DB>,
    ring: Ring,
    /// The ids that were added, by period.
    added: BTreeMap<i64, HashSet<Uuid>>,
    /// What the inbox knows of dead-lettered events among the others.
    known: HashMap<Uuid, Known>,
}

impl<E, DB, S, H> Call<E, S> for Once<DB, H>
where
    E: Event,
    DB: Store,
    S: Send + Sync + 'static,
    H: BatchTransactionalHandler<E, DB, S>,
{
    fn name(&self) -> &'static str {
        std::any::type_name::<H>()
    }

    async fn attempt(&self, batch: &Batch<S>, range: Range<usize>) -> Attempted {
        let deliveries = &batch.deliveries[range];
        let begun = async {
            let writer = self.inbox.writer().await?;
            Ok((writer, self.inbox.begin_many(deliveries).await?))
        };
        let (_writer, begun) = match begun.await {
            Ok(begun) => begun,
            Err(failure) => {
                let all = deliveries.iter().map(|_| Ok(Handled::Done));
                return Attempted::Together(all.collect(), failure);
            }
        };
        let mut sorted = Sorted::<E>::of(deliveries, &begun);
        if sorted.items.is_empty() {
            return Attempted::Each(sorted.settled());
        }
        let events: Vec<EventId> = sorted.items.iter().map(Item::id).collect();
        let items = std::mem::take(&mut sorted.items);
        let Begun {
            tx, added, known, ..
        } = begun;
        let backend = tx.backend();
        let (tx, lent) = InboxTransaction::lend(tx);
        let handling = in_time(batch, |cx| self.handler.handle(items, tx, cx));
        let handled = match self.inbox.handled(backend, handling).await {
            Ok(handled) => handled,
            Err(lost) => {
                if let Some(tx) = lent.back() {
                    tx.close();
                }
                return Attempted::Together(sorted.open(), lost);
            }
        };
        match (handled, lent.back()) {
            (Ok(verdicts), Some(tx)) => {
                sorted.results = judged(sorted.results, &events, verdicts);
                let failed = sorted.failed(deliveries);
                let kept = self.inbox.keep(tx, &failed, &added, &known);
                match kept.await {
                    Ok(()) => Attempted::Each(sorted.settled()),
                    Err(failure) => Attempted::Together(sorted.open(), failure),
                }
            }
            (Ok(_), None) => Attempted::Together(sorted.open(), super::leaked()),
            (Err(failure), Some(tx)) => {
                let failure = self.inbox.roll_back(tx, failure).await;
                Attempted::Together(sorted.open(), failure)
            }
            (Err(failure), None) => Attempted::Together(sorted.open(), failure),
        }
    }

    fn memory(&self) -> Option<&dyn Remembers> {
        Some(&self.inbox)
    }

    fn housekeeping(&self) -> Option<Housekeeping> {
        Some(housekeeping(&self.inbox.outbox))
    }

    fn outbox(&self) -> Option<Contents<'_>> {
        Some(Contents {
            of: Arc::as_ptr(&self.inbox.outbox.shared).addr(),
            events: self.inbox.outbox.contents().boxed(),
        })
    }
}

/// The events of a batch, sorted by the answer of the inbox.
struct Sorted<E> {
    /// The events for the handler.
    items: Vec<Item<E>>,
    /// What is known of each delivery; `Done` for those that go to the handler.
    results: Vec<Result<Handled, Failure>>,
    /// The indexes of duplicates in the batch, each with the index of its first delivery, whose result it shares.
    copies: Vec<(usize, usize)>,
    /// The indexes of duplicates that were redriven since: they are redelivered later.
    later: Vec<usize>,
}

impl<E: Event> Sorted<E> {
    fn of<DB: Store>(deliveries: &[Arc<Facts>], begun: &Begun<DB>) -> Self {
        let mut sorted = Self {
            items: Vec::with_capacity(deliveries.len()),
            results: Vec::with_capacity(deliveries.len()),
            copies: Vec::new(),
            later: Vec::new(),
        };
        let mut places: HashMap<_, usize> = HashMap::with_capacity(deliveries.len());
        for (place, delivery) in deliveries.iter().enumerate() {
            let result = match places.entry(delivery.envelope.id()) {
                Entry::Occupied(first) => {
                    let first = *first.get();
                    match is_later(delivery, &deliveries[first]) {
                        true => sorted.later.push(place),
                        false => sorted.copies.push((place, first)),
                    }
                    Ok(Handled::Already)
                }
                Entry::Vacant(vacant) => {
                    vacant.insert(place);
                    match new_or_not(delivery, begun) {
                        Ok(Handled::Done) => decoded::<E>(delivery, &mut sorted.items),
                        known => known,
                    }
                }
            };
            sorted.results.push(result);
        }
        sorted
    }

    /// The failed deliveries, by event id.
    fn failed<'a>(&self, deliveries: &'a [Arc<Facts>]) -> HashMap<Uuid, &'a Facts> {
        let all = self.results.iter().zip(deliveries);
        let failed = all.filter(|(result, _)| result.is_err());
        failed
            .map(|(_, delivery)| (*delivery.envelope.id().as_uuid(), &**delivery))
            .collect()
    }

    /// The results when nothing was committed.
    fn open(self) -> Vec<Result<Handled, Failure>> {
        self.shared(Handled::Done)
    }

    /// The results when everything was committed.
    fn settled(self) -> Vec<Result<Handled, Failure>> {
        self.shared(Handled::Already)
    }

    fn shared(mut self, of_done: Handled) -> Vec<Result<Handled, Failure>> {
        for (copy, first) in self.copies {
            self.results[copy] = match &self.results[first] {
                Ok(Handled::Done) => Ok(of_done.clone()),
                // The dead letter is of the first delivery.
                Ok(Handled::Already | Handled::DeadLettered(_)) => Ok(Handled::Already),
                Err(failure) => Err(failure.copy()),
            };
        }
        for place in self.later {
            let why = Failure::retry("an earlier delivery of the event is in the batch");
            self.results[place] = Err(why.undecided());
        }
        self.results
    }
}

/// Whether a delivery of an event was redriven after another one; see the note of a dead-lettered event.
fn is_later(delivery: &Facts, other: &Facts) -> bool {
    delivery.redrives > other.redrives
        || delivery.redrives == u32::MAX && delivery.redriven_from != other.redriven_from
}

/// Returns `Done` when the event is to be handled.
fn new_or_not<DB: Store>(delivery: &Facts, begun: &Begun<DB>) -> Result<Handled, Failure> {
    let ring = &begun.ring;
    let event = *delivery.envelope.id().as_uuid();
    let period = period_of(delivery, ring.slot_seconds);
    let ids = begun.added.get(&period);
    if ids.is_some_and(|ids| ids.contains(&event)) {
        return Ok(Handled::Done);
    }
    match begun.known.get(&event) {
        Some(Known::Reopened { .. }) => return Ok(Handled::Done),
        Some(Known::DeadLettered(letter)) => {
            return Ok(Handled::DeadLettered(letter.clone().into()));
        }
        Some(Known::Handled) | None => {}
    }
    if ring.reaches(period) {
        return Ok(Handled::Already);
    }
    let time = time_of(delivery, ring.slot_seconds);
    Err(Failure::outside_inbox(outside(time, ring)))
}

impl<DB: Store> Inbox<DB> {
    /// Begins a transaction that remembers the new ones of these events.
    async fn begin_many(&self, deliveries: &[Arc<Facts>]) -> Result<Begun<DB>, Failure> {
        let begun = self.ask(|| async {
            let mut tx = self.outbox.begin_to_remember().await?;
            let remembering = async {
                self.look_again(&mut tx).await?;
                loop {
                    let slot_seconds = self.slot_seconds.load(Ordering::Relaxed);
                    let (ring, added, backend) =
                        self.remember_all(&mut tx, deliveries, slot_seconds).await?;
                    if ring.slot_seconds == slot_seconds {
                        let known = self.known_of(&mut tx, deliveries, &added).await?;
                        return Ok((ring, added, known, backend));
                    }
                    self.slot_seconds
                        .store(ring.slot_seconds, Ordering::Relaxed);
                }
            };
            match self.attend(remembering).await {
                Ok((ring, added, known, backend)) => Ok(Begun {
                    tx: tx.of(backend),
                    ring,
                    added,
                    known,
                }),
                Err(error) => Err(tx.lost(error)),
            }
        });
        in_begin_span(begun).await
    }

    /// Returns what is known of dead-lettered events among those that were not added.
    async fn known_of(
        &self,
        connection: &mut DB::Connection,
        deliveries: &[Arc<Facts>],
        all_added: &BTreeMap<i64, HashSet<Uuid>>,
    ) -> Result<HashMap<Uuid, Known>, OutboxError> {
        let mut known = HashMap::new();
        for (period, added) in all_added {
            let id_of = |delivery: &Arc<Facts>| *delivery.envelope.id().as_uuid();
            let of_period = deliveries
                .iter()
                .filter(|delivery| self.period(delivery) == *period);
            let others = of_period.map(id_of).filter(|event| !added.contains(event));
            let mut others: Vec<Uuid> = others.collect();
            others.sort_unstable();
            others.dedup();
            if others.is_empty() {
                continue;
            }
            let memory = self.memory(&deliveries[0], *period, &others);
            for (event, _) in self.notes(connection, &memory).await? {
                let first = deliveries.iter().find(|delivery| id_of(delivery) == event);
                if let Some(delivery) = first {
                    let said = self.known(connection, &memory, delivery).await?;
                    known.insert(event, said);
                }
            }
        }
        Ok(known)
    }

    /// Runs one statement for each period: one, or two about midnight. Periods and ids are sorted, so that two
    /// batches with the same events do not deadlock.
    async fn remember_all(
        &self,
        connection: &mut DB::Connection,
        deliveries: &[Arc<Facts>],
        slot_seconds: i64,
    ) -> Result<(Ring, BTreeMap<i64, HashSet<Uuid>>, Option<Backend>), OutboxError> {
        let (names, first) = (&self.outbox.shared.names, &deliveries[0]);
        let mut periods: BTreeMap<i64, Vec<Uuid>> = BTreeMap::new();
        for delivery in deliveries {
            let period = period_of(delivery, slot_seconds);
            let id = *delivery.envelope.id().as_uuid();
            periods.entry(period).or_default().push(id);
        }
        let mut all_added = BTreeMap::new();
        let (mut known, mut backend) = (None, None);
        for (period, mut events) in periods {
            events.sort_unstable();
            events.dedup();
            let memory = Memory {
                slot_seconds,
                ..self.memory(first, period, &events)
            };
            let remembering = DB::remember(connection, names, &memory).await;
            let remembered = self.outbox.translated(remembering).await?;
            let added = match remembered.added {
                Added::All => events.into_iter().collect(),
                Added::Only(added) => added.into_iter().collect(),
            };
            all_added.insert(period, added);
            backend = remembered.backend;
            // The first answer decides what is in reach: a later one may be a period ahead.
            let ring = *known.get_or_insert(remembered.ring);
            if ring.slot_seconds != slot_seconds {
                break;
            }
        }
        let ring = known.unwrap_or(Ring {
            slot_seconds,
            now: 0,
            first: 0,
        });
        Ok((ring, all_added, backend))
    }

    /// Commits, without remembering the failed events.
    async fn keep(
        &self,
        mut tx: OutboxTransaction<DB>,
        failed: &HashMap<Uuid, &Facts>,
        added: &BTreeMap<i64, HashSet<Uuid>>,
        known: &HashMap<Uuid, Known>,
    ) -> Result<(), Failure> {
        let names = &self.outbox.shared.names;
        let forgetting = async {
            for (period, added) in added {
                let mut events: Vec<Uuid> = failed.keys().copied().collect();
                events.retain(|event| added.contains(event));
                events.sort_unstable();
                let Some(facts) = events.first().and_then(|event| failed.get(event)) else {
                    continue;
                };
                let memory = self.memory(facts, *period, &events);
                let forgotten = DB::forget(&mut tx, names, &memory).await;
                forgotten.map_err(OutboxError::database)?;
            }
            for (event, facts) in failed {
                if let Some(Known::Reopened { note }) = known.get(event) {
                    let event = [*event];
                    let memory = self.memory(facts, self.period(facts), &event);
                    self.change(&mut tx, &memory, None, Some(note)).await?;
                }
            }
            Ok(())
        };
        if let Err(error) = patiently(self.attend(forgetting)).await {
            return Err(Self::blamed(tx.lost(error)));
        }
        self.commit(tx).await
    }
}
