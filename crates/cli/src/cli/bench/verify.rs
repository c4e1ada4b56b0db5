//! Measures how fast `verify` compares the outbox with the stream.

use std::time::Instant;

use anyhow::ensure;
use tidings::verify::Verify;

use super::{
    Job, between::Between, drain::relayed, judge::judge, raw, report::Report, store::BenchStore,
    world::World,
};

/// The limit is a loop that only reads the headers of the same stream.
pub(super) async fn run<DB: BenchStore>(world: &World<DB>, job: Job) -> anyhow::Result<Report> {
    relayed(world, job).await?;
    DB::settle(world.outbox.pool()).await;
    let limit = async |_| raw::headers(world, job).await;
    let between = Between::measure(limit, async {
        let began = Instant::now();
        let found = Verify::new(&world.bus, &world.outbox).run().await?;
        Ok((found, began.elapsed()))
    });
    let between = between.await?;
    let (found, took) = &between.measured;
    let sound: u64 = found.streams.iter().map(|stream| stream.ok).sum();
    ensure!(
        found.is_ok() && sound == job.events as u64,
        "{sound} events are ok, and {} were written",
        job.events
    );
    let wrong = judge(world, job).await?;
    Ok(Report::new("verify", DB::KIND, world.servers, job)
        .between(*took, &between)
        .wrong(wrong))
}
