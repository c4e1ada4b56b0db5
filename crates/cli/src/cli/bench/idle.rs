//! An idle relay in its own process: its cost for the database and the machine.

use std::time::{Duration, Instant};

use super::{
    Job, drain,
    report::{Report, rounded},
    store::BenchStore,
    world::World,
};

/// How long a relay needs after the last event to become fully idle.
const CALM_DOWN: Duration = Duration::from_secs(6);

pub(super) async fn run<DB: BenchStore>(
    world: &World<DB>,
    job: Job,
    idle: Duration,
) -> anyhow::Result<Report> {
    drain::fill(world, job).await?;
    let mut relay = world.process(&["relay"])?;
    drain::until_stored(world, &mut relay, job.events as u64).await?;
    tokio::time::sleep(CALM_DOWN).await;

    let pool = world.outbox.pool();
    DB::be_counted(pool).await?;
    let (began, transactions, seconds) = (
        Instant::now(),
        DB::transactions(pool).await?,
        relay.core_seconds(),
    );
    tokio::time::sleep(idle).await;
    let (ended, more_transactions, more_seconds) = (
        Instant::now(),
        DB::transactions(pool).await?,
        relay.core_seconds(),
    );
    let memory = relay.peak_memory();
    relay.stop().await?;

    let took = (ended - began).as_secs_f64();
    let mut report =
        Report::new("idle", DB::KIND, world.servers, job).figure("seconds", rounded(took, 1000.0));
    if let (Some(before), Some(after)) = (transactions, more_transactions) {
        // Each statement of the relay is a transaction. One transaction was ours.
        let queries = u32::try_from(after - before - 1).unwrap_or(0);
        report = report.figure(
            "queries_per_second",
            rounded(f64::from(queries) / took, 100.0),
        );
    }
    if let (Some(before), Some(after)) = (seconds, more_seconds) {
        report = report.figure(
            "core_percent",
            rounded((after - before) / took * 100.0, 100.0),
        );
    }
    if let Some(bytes) = memory {
        report = report.figure("relay_peak_mb", bytes.div_ceil(1024 * 1024));
    }
    Ok(report.wrong(super::judge::judge(world, job).await?))
}
