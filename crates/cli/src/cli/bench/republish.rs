//! Everything that a stream has lost, published again, against the relay that has published it at first.

use std::time::{Duration, Instant};

use anyhow::ensure;
use tidings::Republish;

use super::{
    Job,
    between::Between,
    drain::relayed,
    judge::judge,
    raw::per_second,
    report::{Report, Wrong},
    store::BenchStore,
    world::World,
};

/// The limit is the relay, which has a backlog as large: before, and after, when a server that has been at work for as
/// long is slower.
pub(super) async fn run<DB: BenchStore>(world: &World<DB>, job: Job) -> anyhow::Result<Report> {
    let limit = async |is_first: bool| {
        if !is_first {
            world.lose_the_stream().await?;
        }
        Ok(per_second(job.events, relayed(world, job).await?))
    };
    let between = Between::measure(limit, republished(world, job)).await?;
    let between = Between {
        // The backlogs were written meanwhile, the stream was lost, and what it held was judged.
        cores: None,
        ..between
    };
    let (took, wrong) = between.measured;
    Ok(Report::new("republish", DB::KIND, world.servers, job)
        .between(took, &between)
        .wrong(wrong))
}

/// How long it takes, with what it takes to find out what is missing.
async fn republished<DB: BenchStore>(
    world: &World<DB>,
    job: Job,
) -> anyhow::Result<(Duration, Wrong)> {
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
    Ok((took, judge(world, job).await?))
}
