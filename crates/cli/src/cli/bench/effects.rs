//! Handlers whose effect is a row, and the check of the rows afterwards.

use std::{sync::Arc, time::Duration};

use tidings::{
    BatchResult, Batching, Context, EventSubscriber, Failure, InboxTransaction,
    handler::{BatchContext, Item},
};

use super::{Job, event::Written, report::Wrong, store::BenchStore, tally::Tally, world::World};

/// Events per batch.
pub(super) const BATCH: usize = 1000;
const LINGER: Duration = Duration::from_millis(5);

/// A transactional handler that writes one row per event.
pub(super) fn once<DB: BenchStore>(world: &World<DB>) -> EventSubscriber<Arc<Tally>> {
    EventSubscriber::durable("bench")
        .on_transactional(&world.outbox, effect::<DB>)
        .concurrency(DB::HANDLERS)
}

/// A transactional batch handler that writes one row per event.
pub(super) fn batches<DB: BenchStore>(world: &World<DB>) -> EventSubscriber<Arc<Tally>> {
    let batching = Batching::of(BATCH).linger(LINGER);
    EventSubscriber::durable("bench")
        .on_batch_transactional(&world.outbox, batching, effect_of_all::<DB>)
        .concurrency(DB::BATCHES)
}

async fn effect_of_all<DB: BenchStore>(
    events: Vec<Item<Written>>,
    mut tx: InboxTransaction<DB>,
    cx: BatchContext<Arc<Tally>>,
) -> Result<BatchResult, Failure> {
    let numbers = events.iter().map(|event| i64::try_from(event.number));
    let numbers: Vec<i64> = numbers.collect::<Result<_, _>>()?;
    DB::effect_of_all(&mut tx, &numbers).await?;
    events.iter().for_each(|event| cx.state().enter(event));
    Ok(BatchResult::done())
}

async fn effect<DB: BenchStore>(
    event: Written,
    mut tx: InboxTransaction<DB>,
    cx: Context<Arc<Tally>>,
) -> Result<(), Failure> {
    DB::effect(&mut tx, i64::try_from(event.number)?).await?;
    cx.state().enter(&event);
    Ok(())
}

/// Compares the rows with the events.
pub(super) async fn wrong<DB: BenchStore>(world: &World<DB>, job: Job) -> anyhow::Result<Wrong> {
    let (rows, events) = DB::effects(world.outbox.pool()).await?;
    Ok(Wrong {
        lost: job.events.saturating_sub(events),
        duplicates: rows - events,
        out_of_order: 0,
    })
}
