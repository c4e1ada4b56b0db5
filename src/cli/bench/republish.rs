//! Everything that a stream has lost, published again, against the relay that has published it at first.

use std::time::Instant;

use anyhow::ensure;
use tidings::Republish;

use super::{
    Job, drain::relayed, judge::judge, raw::per_second, report::Report, store::BenchStore,
    world::World,
};

/// The rate of the republication includes finding out what is missing.
pub(super) async fn run<DB: BenchStore>(world: &World<DB>, job: Job) -> anyhow::Result<Report> {
    let relay = relayed(world, job).await?;
    world.lose_the_stream().await?;
    DB::settle(world.outbox.pool()).await;

    let began = Instant::now();
    let done = Republish::new(&world.bus, &world.outbox).run().await?;
    let took = began.elapsed();

    ensure!(
        done.events() == job.events as u64,
        "{} events were published again, and {} were lost",
        done.events(),
        job.events
    );
    let wrong = judge(world, job).await?;
    let limit = per_second(job.events, relay);
    Ok(Report::new("republish", DB::KIND, world.servers, job)
        .against(took.as_secs_f64(), per_second(job.events, took), limit)
        .wrong(wrong))
}
