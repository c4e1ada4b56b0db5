//! Measures the relay: a backlog of the outbox into the stream.

use super::{
    Job, between::Between, drain::relayed, judge::judge, raw, report::Report, store::BenchStore,
    world::World,
};

pub(super) async fn run<DB: BenchStore>(world: &World<DB>, job: Job) -> anyhow::Result<Report> {
    let limit = async |_| raw::atomic_batches(world, job).await;
    let between = Between::measure(limit, relayed(world, job)).await?;
    let wrong = judge(world, job).await?;
    Ok(Report::new("relay", DB::KIND, world.servers, job)
        .between(between.measured, &between)
        .wrong(wrong))
}
