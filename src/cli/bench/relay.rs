//! A backlog of the outbox into the stream.

use std::time::Instant;

use tidings::Relay;
use tokio_util::sync::CancellationToken;

use super::{
    Job,
    drain::fill,
    judge::judge,
    raw::{self, per_second},
    report::Report,
    store::BenchStore,
    world::{STREAM, World},
};

pub(super) async fn run<DB: BenchStore>(world: &World<DB>, job: Job) -> anyhow::Result<Report> {
    fill(world, job).await?;
    DB::settle(world.outbox.pool()).await;
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
