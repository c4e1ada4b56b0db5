//! A backlog of the outbox into the stream.

use std::{
    collections::{HashMap, HashSet},
    time::Instant,
};

use tidings::{Relay, Start};
use tokio_util::sync::CancellationToken;

use super::{
    Job,
    event::Written,
    raw::{self, per_second},
    report::{Report, Wrong},
    store::BenchStore,
    world::{STREAM, World},
};

/// Events in one transaction while the backlog is written.
const A_TRANSACTION: usize = 500;

pub(super) async fn run<DB: BenchStore>(world: &World<DB>, job: Job) -> anyhow::Result<Report> {
    fill(world, job).await?;
    let limit_before = raw::atomic_batches(world, job).await?;

    let stop = CancellationToken::new();
    let began = Instant::now();
    let relay = Relay::new(world.outbox.clone());
    let relaying = tokio::spawn(relay.run(world.bus.clone(), stop.clone()));
    world.until_stored(STREAM, job.events as u64).await?;
    let took = began.elapsed();
    stop.cancel();
    relaying.await??;

    let limit_after = raw::atomic_batches(world, job).await?;
    let wrong = judge(world, job).await?;
    let limit = (limit_before + limit_after) / 2.0;
    Ok(Report::new("relay", DB::KIND, world.servers, job)
        .against(took.as_secs_f64(), per_second(job.events, took), limit)
        .wrong(wrong)
        .figure("limit_before", limit_before.round())
        .figure("limit_after", limit_after.round()))
}

async fn fill<DB: BenchStore>(world: &World<DB>, job: Job) -> anyhow::Result<()> {
    for first in (0..job.events).step_by(A_TRANSACTION) {
        let mut tx = world.outbox.begin().await?;
        for number in first..(first + A_TRANSACTION).min(job.events) {
            tx.publish(&Written::new(job, number))?;
        }
        tx.commit().await?;
    }
    Ok(())
}

/// Reads the whole stream and counts what is missing, there twice, or out of order within its key.
async fn judge<DB: BenchStore>(world: &World<DB>, job: Job) -> anyhow::Result<Wrong> {
    let mut reader = world.bus.read(STREAM, &[], Start::Beginning).await?;
    let mut seen = HashSet::new();
    let mut last: HashMap<String, usize> = HashMap::new();
    let mut wrong = Wrong::default();
    while reader.pending() > 0 {
        let event: Written = reader.next().await?.envelope?.decode()?;
        if !seen.insert(event.number) {
            wrong.duplicates += 1;
        } else if last
            .insert(event.key, event.number)
            .is_some_and(|before| before > event.number)
        {
            wrong.inversions += 1;
        }
    }
    wrong.lost = job.events - seen.len();
    Ok(wrong)
}
