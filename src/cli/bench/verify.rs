//! Whether the stream holds what was confirmed: how fast that is found out.

use std::time::Instant;

use anyhow::ensure;
use tidings::Verify;

use super::{
    Job,
    drain::relayed,
    judge::judge,
    raw::{self, per_second},
    report::Report,
    store::BenchStore,
    world::World,
};

/// The limit is a loop that reads the headers of the same stream, and compares nothing.
pub(super) async fn run<DB: BenchStore>(world: &World<DB>, job: Job) -> anyhow::Result<Report> {
    relayed(world, job).await?;
    DB::settle(world.outbox.pool()).await;
    let limit_before = raw::headers(world, job).await?;

    let began = Instant::now();
    let found = Verify::new(&world.bus, &world.outbox).run().await?;
    let took = began.elapsed();

    let limit_after = raw::headers(world, job).await?;
    let sound: u64 = found.streams.iter().map(|stream| stream.sound).sum();
    ensure!(
        found.is_sound() && sound == job.events as u64,
        "{sound} events are sound, and {} were written",
        job.events
    );
    let wrong = judge(world, job).await?;
    let limit = (limit_before + limit_after) / 2.0;
    Ok(Report::new("verify", DB::KIND, world.servers, job)
        .against(took.as_secs_f64(), per_second(job.events, took), limit)
        .wrong(wrong)
        .figure("limit_before", limit_before.round())
        .figure("limit_after", limit_after.round()))
}
