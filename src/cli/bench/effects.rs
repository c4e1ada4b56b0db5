//! A handler whose effect is a row, and what the rows say afterwards.

use std::sync::Arc;

use tidings::{Context, EventSubscriber, Failure, InboxTransaction};

use super::{Job, event::Written, report::Wrong, store::BenchStore, tally::Tally, world::World};

/// Handles each event once: a row for each.
pub(super) fn once<DB: BenchStore>(world: &World<DB>) -> EventSubscriber<Arc<Tally>> {
    EventSubscriber::durable("bench")
        .on_once(&world.outbox, effect::<DB>)
        .concurrency(DB::HANDLERS)
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
        inversions: 0,
    })
}
