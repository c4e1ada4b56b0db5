//! The pool of tasks that make the attempts of one subscriber. A task is spawned when there is work and none is idle,
//! and is kept for later work. Never decides what is attempted, or when.
//!
//! A task for each attempt would be allocated each time, and a task is as large as everything that an attempt may
//! await.

use std::{
    any::Any,
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, PoisonError},
    task::Poll,
};

use futures::{FutureExt, task::AtomicWaker};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{item::Item, parks::Parks};
use crate::{
    executor::{Attempt, Disposition, Executor},
    policy::{breaker::Permit, lanes::Ticket},
};

/// An attempt to be made.
pub(super) struct Begun {
    pub(super) ticket: Ticket,
    pub(super) item: Item,
    pub(super) permit: Permit,
}

/// An attempt that was made.
pub(super) struct Finished {
    pub(super) ticket: Ticket,
    pub(super) item: Item,
    pub(super) disposition: Disposition,
}

/// The dependencies of an attempt.
pub(super) struct Dependencies<S> {
    pub(super) executor: Arc<Executor<S>>,
    pub(super) parks: Arc<Parks>,
    pub(super) halt: CancellationToken,
}

#[allow(clippy::large_enum_variant)] // most are one, and a box would be allocated for each of them
enum Work {
    One(Begun),
    Batch(Vec<Begun>),
}

/// The result of a task.
#[allow(clippy::large_enum_variant)] // most are one, as in `Work`
enum Done {
    One(Finished),
    Batch(Vec<Finished>),
    /// The task has panicked, which no handler can cause.
    Panicked(Box<dyn Any + Send>),
}

/// The tasks. Dropping it aborts them.
pub(super) struct TaskPool<S> {
    dependencies: Arc<Dependencies<S>>,
    /// Where each task finds its work.
    slots: Vec<Arc<Slot<Option<Work>>>>,
    /// The idle tasks; the one that worked last is at the end.
    free: Vec<usize>,
    done: Arc<Slot<Vec<(usize, Done)>>>,
    tasks: JoinSet<()>,
}

/// Where one task puts a value for another one, which waits for it. A channel has capacity for many, in blocks that
/// are allocated and moved; this holds one value, or all that have arrived.
#[derive(Default)]
struct Slot<T> {
    what: Mutex<T>,
    waits: AtomicWaker,
}

impl<T: Default> Slot<T> {
    fn put(&self, change: impl FnOnce(&mut T)) {
        change(&mut self.what.lock().unwrap_or_else(PoisonError::into_inner));
        self.waits.wake();
    }

    /// Waits until the value meets the condition.
    async fn has(&self, is_something: impl Fn(&T) -> bool) {
        std::future::poll_fn(|cx| {
            // A value that is put after this wakes the task.
            self.waits.register(cx.waker());
            let what = self.what.lock().unwrap_or_else(PoisonError::into_inner);
            match is_something(&what) {
                true => Poll::Ready(()),
                false => Poll::Pending,
            }
        })
        .await;
    }

    fn take(&self) -> T {
        std::mem::take(&mut self.what.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl<S: Send + Sync + 'static> TaskPool<S> {
    pub(super) fn new(dependencies: Dependencies<S>) -> Self {
        Self {
            dependencies: Arc::new(dependencies),
            slots: Vec::new(),
            free: Vec::new(),
            done: Arc::default(),
            tasks: JoinSet::new(),
        }
    }

    /// How many tasks have work.
    pub(super) fn at_work(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    pub(super) fn attempt(&mut self, begun: Begun) {
        self.give(Work::One(begun));
    }

    pub(super) fn attempt_batch(&mut self, batch: Vec<Begun>) {
        self.give(Work::Batch(batch));
    }

    fn give(&mut self, work: Work) {
        let number = self.free.pop().unwrap_or_else(|| self.spawn());
        self.slots[number].put(|slot| *slot = Some(work));
    }

    fn spawn(&mut self) -> usize {
        let number = self.slots.len();
        let slot = Arc::default();
        self.slots.push(Arc::clone(&slot));
        let (dependencies, done) = (Arc::clone(&self.dependencies), Arc::clone(&self.done));
        self.tasks.spawn(run_task(dependencies, number, slot, done));
        number
    }

    /// Waits until an attempt is done.
    pub(super) async fn has_done(&self) {
        self.done.has(|done| !done.is_empty()).await;
    }

    /// Takes the attempts that are done.
    pub(super) fn take_done(&mut self) -> Vec<Finished> {
        let done = self.done.take();
        let mut finished = Vec::with_capacity(done.len());
        for (number, done) in done {
            self.free.push(number);
            match done {
                Done::One(one) => finished.push(one),
                Done::Batch(batch) => finished.extend(batch),
                Done::Panicked(panic) => std::panic::resume_unwind(panic),
            }
        }
        finished
    }
}

/// One task: performs the work in its slot, one piece after another.
async fn run_task<S: Send + Sync + 'static>(
    dependencies: Arc<Dependencies<S>>,
    number: usize,
    slot: Arc<Slot<Option<Work>>>,
    to: Arc<Slot<Vec<(usize, Done)>>>,
) {
    loop {
        slot.has(Option::is_some).await;
        let Some(work) = slot.take() else { continue };
        let done = AssertUnwindSafe(dependencies.work(work))
            .catch_unwind()
            .await;
        let done = done.unwrap_or_else(Done::Panicked);
        to.put(|all| all.push((number, done)));
    }
}

impl<S: Send + Sync + 'static> Dependencies<S> {
    async fn work(&self, work: Work) -> Done {
        match work {
            Work::One(begun) => Done::One(self.attempt(begun).await),
            // Boxed, like everything that is rare beside single attempts: a task is as large as the largest of them.
            Work::Batch(batch) => Done::Batch(Box::pin(self.attempt_batch(batch)).await),
        }
    }

    async fn attempt(&self, begun: Begun) -> Finished {
        let Begun {
            ticket,
            mut item,
            permit,
        } = begun;
        let attempt = Attempt {
            delivery: &mut item.delivery,
            ack: &item.ack,
            halt: &self.halt,
            permit,
        };
        let key = ticket.key.as_deref();
        let disposition = self.parks.run(&self.executor, attempt, key).await;
        Finished {
            ticket,
            item,
            disposition,
        }
    }

    async fn attempt_batch(&self, mut batch: Vec<Begun>) -> Vec<Finished> {
        let _beside = self.parks.beside().await;
        let parking = |begun: &Begun| self.parks.parking_of(&begun.ticket, &begun.item);
        let parkings: Vec<_> = batch.iter().map(parking).collect();
        let attempts = batch.iter_mut().zip(&parkings).map(|(begun, ack)| Attempt {
            delivery: &mut begun.item.delivery,
            ack,
            halt: &self.halt,
            permit: begun.permit,
        });
        let dispositions = self.executor.run_batch(attempts.collect()).await;
        let each = batch.into_iter().zip(dispositions);
        each.map(|(Begun { ticket, item, .. }, disposition)| Finished {
            ticket,
            item,
            disposition,
        })
        .collect()
    }
}
