//! A backlog of the outbox into the stream.

use super::{
    Job,
    drain::relayed,
    judge::judge,
    raw::{self, per_second},
    report::Report,
    store::BenchStore,
    world::World,
};

pub(super) async fn run<DB: BenchStore>(world: &World<DB>, job: Job) -> anyhow::Result<Report> {
    let limit_before = raw::atomic_batches(world, job).await?;
    let took = relayed(world, job).await?;
    let limit_after = raw::atomic_batches(world, job).await?;
    let wrong = judge(world, job).await?;
    let limit = (limit_before + limit_after) / 2.0;
    Ok(Report::new("relay", DB::KIND, world.servers, job)
        .against(took.as_secs_f64(), per_second(job.events, took), limit)
        .wrong(wrong)
        .figure("limit_before", limit_before.round())
        .figure("limit_after", limit_after.round()))
}
