//! A backlog, and a relay in its own process that drains it.

use std::time::{Duration, Instant};

use anyhow::ensure;
use tidings::Relay;
use tokio_util::sync::CancellationToken;

use super::{
    Job,
    event::Written,
    judge::judge,
    report::Wrong,
    store::BenchStore,
    world::{STREAM, World},
};
use crate::cli::process::Process;

/// Events per transaction while the backlog is written.
const A_TRANSACTION: usize = 5000;
/// The interval at which the stream is asked for its message count: long enough not to disturb the measurement.
const LOOK_AGAIN: Duration = Duration::from_millis(10);
const PATIENCE: Duration = Duration::from_secs(1800);

/// How a backlog was drained.
pub(super) struct Drained {
    events: usize,
    /// From the start of the process until the last event was stored.
    pub(super) took: Duration,
    /// From the start of the process until the first event was stored: the cost of a start.
    pub(super) first: Duration,
    /// The peak memory of the process, in bytes, where it can be known.
    pub(super) peak_memory: Option<u64>,
    pub(super) wrong: Wrong,
}

impl Drained {
    /// Events per second, without the cost of a start.
    #[allow(clippy::cast_precision_loss)] // a rate
    pub(super) fn per_second(&self, start: Duration) -> f64 {
        // A time shorter than the interval of the looks cannot be measured.
        let worked = self.took.saturating_sub(start).max(LOOK_AGAIN);
        self.events as f64 / worked.as_secs_f64()
    }
}

/// Writes a backlog, has a new relay drain it, checks the stored events, and empties the stream.
pub(super) async fn backlog<DB: BenchStore>(
    world: &World<DB>,
    job: Job,
) -> anyhow::Result<Drained> {
    fill(world, job).await?;
    DB::settle(world.outbox.pool()).await;
    let began = Instant::now();
    let mut relay = world.process(&["relay"])?;
    until_stored(world, &mut relay, 1).await?;
    let first = began.elapsed();
    until_stored(world, &mut relay, job.events as u64).await?;
    let took = began.elapsed();
    let peak_memory = relay.peak_memory();
    relay.stop().await?;
    let wrong = judge(world, job).await?;
    world.purge(STREAM).await?;
    Ok(Drained {
        events: job.events,
        took,
        first,
        peak_memory,
        wrong,
    })
}

/// Waits until the relay has stored this many events, and fails when it ends first.
pub(super) async fn until_stored<DB: BenchStore>(
    world: &World<DB>,
    relay: &mut Process,
    events: u64,
) -> anyhow::Result<()> {
    let began = Instant::now();
    while world.stored(STREAM).await? < events {
        relay.still_runs()?;
        ensure!(
            began.elapsed() < PATIENCE,
            "{events} events were not stored within 30 min"
        );
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    Ok(())
}

/// Writes a backlog, runs a relay in this process until it is drained, and returns how long that took.
pub(super) async fn relayed<DB: BenchStore>(
    world: &World<DB>,
    job: Job,
) -> anyhow::Result<Duration> {
    fill(world, job).await?;
    DB::settle(world.outbox.pool()).await;
    let stop = CancellationToken::new();
    let began = Instant::now();
    let relay = Relay::new(world.outbox.clone());
    let running = world.observed.relay(relay, world.bus.clone(), stop.clone());
    let relaying = tokio::spawn(running);
    world.until_stored(STREAM, job.events as u64).await?;
    let took = began.elapsed();
    stop.cancel();
    relaying.await??;
    Ok(took)
}

/// Writes a backlog in the order of the event numbers.
pub(super) async fn fill<DB: BenchStore>(world: &World<DB>, job: Job) -> anyhow::Result<()> {
    for first in (0..job.events).step_by(A_TRANSACTION) {
        let mut tx = world.outbox.begin().await?;
        for number in first..(first + A_TRANSACTION).min(job.events) {
            tx.publish(&Written::new(job, number))?;
        }
        tx.commit().await?;
    }
    Ok(())
}
