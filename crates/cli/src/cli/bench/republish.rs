//! Measures republishing everything that a stream has lost, against the relay that first published it.

use std::time::{Duration, Instant};

use anyhow::ensure;
use tidings::republish::Republish;

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

/// The limit is the relay with an equally large backlog. It is measured before and after, because a server that has
/// worked for a while is slower.
pub(super) async fn run<DB: BenchStore>(world: &World<DB>, job: Job) -> anyhow::Result<Report> {
    let limit = async |is_first: bool| {
        if !is_first {
            world.lose_the_stream().await?;
        }
        Ok(per_second(job.events, relayed(world, job).await?))
    };
    let between = Between::measure(limit, republished(world, job)).await?;
    let between = Between {
        // The processor time includes writing the backlogs, deleting the stream, and checking its content.
        cores: None,
        ..between
    };
    let (took, wrong) = between.measured;
    Ok(Report::new("republish", DB::KIND, world.servers, job)
        .between(took, &between)
        .wrong(wrong))
}

/// How long republishing takes, including the search for missing events.
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
        "{} events were republished, and {} were lost",
        done.events(),
        job.events
    );
    Ok((took, judge(world, job).await?))
}
