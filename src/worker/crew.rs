//! The tasks that make attempts, for one subscriber: each is made when there is work and none is free, and kept
//! for the next. Never decides what is attempted, or when.
//!
//! A task for each attempt would be allocated anew each time, and it is as large as everything that an attempt may
//! have to wait for.

use std::{any::Any, panic::AssertUnwindSafe, sync::Arc};

use futures::FutureExt;
use tokio::{sync::mpsc, task::JoinSet};
use tokio_util::sync::CancellationToken;

use super::{parks::Parks, source::Item};
use crate::{
    breaker::Permit,
    executor::{Executor, Step, batch::InHand},
    lanes::Turn,
};

/// What may be attempted.
pub(super) struct Begun {
    pub(super) turn: Turn,
    pub(super) item: Item,
    pub(super) permit: Permit,
}

/// What was attempted.
pub(super) struct Finished {
    pub(super) turn: Turn,
    pub(super) item: Item,
    pub(super) step: Step,
}

/// What an attempt is made with.
pub(super) struct Means<S> {
    pub(super) executor: Arc<Executor<S>>,
    pub(super) parks: Arc<Parks>,
    pub(super) halt: CancellationToken,
}

enum Work {
    One(Begun),
    Batch(Vec<Begun>),
}

/// What a task has done.
enum Done {
    One(Finished),
    Batch(Vec<Finished>),
    /// It has panicked, which handlers cannot make it do.
    Panicked(Box<dyn Any + Send>),
}

/// The tasks. When it is dropped they are cut off.
pub(super) struct Crew<S> {
    means: Arc<Means<S>>,
    /// How each is given work.
    members: Vec<mpsc::Sender<Work>>,
    /// Those without work, the one that had some last at the end.
    free: Vec<usize>,
    to: mpsc::UnboundedSender<(usize, Done)>,
    done: mpsc::UnboundedReceiver<(usize, Done)>,
    tasks: JoinSet<()>,
}

impl<S: Send + Sync + 'static> Crew<S> {
    pub(super) fn new(means: Means<S>) -> Self {
        let (to, done) = mpsc::unbounded_channel();
        Self {
            means: Arc::new(means),
            members: Vec::new(),
            free: Vec::new(),
            to,
            done,
            tasks: JoinSet::new(),
        }
    }

    /// How many have work.
    pub(super) fn at_work(&self) -> usize {
        self.members.len() - self.free.len()
    }

    pub(super) fn attempt(&mut self, begun: Begun) {
        self.give(Work::One(begun));
    }

    pub(super) fn attempt_batch(&mut self, batch: Vec<Begun>) {
        self.give(Work::Batch(batch));
    }

    fn give(&mut self, mut work: Work) {
        while let Some(free) = self.free.pop() {
            match self.members[free].try_send(work) {
                Ok(()) => return,
                // It is going down with the runtime.
                Err(left) => work = left.into_inner(),
            }
        }
        let (member, more) = mpsc::channel(1);
        let number = self.members.len();
        self.members.push(member);
        let (means, to) = (Arc::clone(&self.means), self.to.clone());
        self.tasks.spawn(member_of(means, number, work, more, to));
    }

    /// Waits for what is done, and takes what else is done by then; `None` when nobody has work.
    pub(super) async fn done(&mut self) -> Option<Vec<Finished>> {
        const AT_A_TIME: usize = 256;
        if self.at_work() == 0 {
            return None;
        }
        let mut finished = Vec::new();
        let (number, done) = self.done.recv().await?;
        self.take(number, done, &mut finished);
        while finished.len() < AT_A_TIME
            && let Ok((number, done)) = self.done.try_recv()
        {
            self.take(number, done, &mut finished);
        }
        Some(finished)
    }

    fn take(&mut self, number: usize, done: Done, finished: &mut Vec<Finished>) {
        self.free.push(number);
        match done {
            Done::One(one) => finished.push(one),
            Done::Batch(batch) => finished.extend(batch),
            Done::Panicked(panic) => std::panic::resume_unwind(panic),
        }
    }
}

/// One task: ends when there can be no more work, or nobody wants to know what became of it.
async fn member_of<S: Send + Sync + 'static>(
    means: Arc<Means<S>>,
    number: usize,
    mut work: Work,
    mut more: mpsc::Receiver<Work>,
    to: mpsc::UnboundedSender<(usize, Done)>,
) {
    loop {
        let done = AssertUnwindSafe(means.work(work)).catch_unwind().await;
        let done = done.unwrap_or_else(Done::Panicked);
        if to.send((number, done)).is_err() {
            return;
        }
        match more.recv().await {
            Some(next) => work = next,
            None => return,
        }
    }
}

impl<S: Send + Sync + 'static> Means<S> {
    async fn work(&self, work: Work) -> Done {
        match work {
            Work::One(begun) => Done::One(self.attempt(begun).await),
            // Boxed, as all that is rare beside single attempts: the task is as large as the largest of them.
            Work::Batch(batch) => Done::Batch(Box::pin(self.attempt_batch(batch)).await),
        }
    }

    async fn attempt(&self, mut begun: Begun) -> Finished {
        let Begun { turn, item, permit } = &mut begun;
        let (parks, key) = (Arc::clone(&self.parks), turn.key.as_deref());
        let step = parks.run(&self.executor, item, key, &self.halt, *permit);
        let step = step.await;
        let Begun { turn, item, .. } = begun;
        Finished { turn, item, step }
    }

    async fn attempt_batch(&self, mut batch: Vec<Begun>) -> Vec<Finished> {
        let _beside = self.parks.beside().await;
        let in_hand = batch.iter_mut().map(|begun| {
            let key = begun.turn.key.as_deref();
            InHand {
                acknowledger: self.parks.acknowledger(
                    key,
                    &begun.item.delivery,
                    &begun.item.arrival,
                ),
                arrival: &mut begun.item.arrival,
                permit: begun.permit,
            }
        });
        let steps = self.executor.run_batch(in_hand.collect(), &self.halt).await;
        let each = batch.into_iter().zip(steps);
        each.map(|(Begun { turn, item, .. }, step)| Finished { turn, item, step })
            .collect()
    }
}
