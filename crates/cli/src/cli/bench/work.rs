//! A worker on a full stream, watched until it has handled everything. Never knows what its handlers do.

use std::time::{Duration, Instant};

use anyhow::ensure;
use tidings::Worker;
use tokio_util::sync::CancellationToken;

use super::{Job, tally::Tally};
use crate::cli::process;

/// The interval at which the tally is read: long enough not to disturb the measurement.
const LOOK_AGAIN: Duration = Duration::from_millis(2);
/// The longest time without a handled event.
const PATIENCE: Duration = Duration::from_secs(60);
/// The percentage of events after which the memory of the process is measured first.
const WARM: usize = 5;

/// The result of a measurement.
pub(super) struct Worked {
    pub(super) took: Duration,
    /// The memory of this process in bytes, after a twentieth, a half and all of the events; `None` where it cannot be
    /// known.
    pub(super) memory: Option<[u64; 3]>,
}

/// Runs a worker until its handlers were called for every event, and stops it.
pub(super) async fn work<S: Send + Sync + 'static>(
    worker: Worker<S>,
    tally: &Tally,
    job: Job,
) -> anyhow::Result<Worked> {
    let stop = CancellationToken::new();
    let began = Instant::now();
    let working = tokio::spawn(worker.run(stop.clone().cancelled_owned()));
    let mut memory = Vec::new();
    for share in [WARM, 50, 100] {
        reached(tally, job.events * share / 100, || !working.is_finished()).await?;
        memory.extend(process::memory_of_this());
    }
    stop.cancel();
    // The drain waits for the acknowledgements, which are part of the work.
    working.await??;
    Ok(Worked {
        took: began.elapsed(),
        memory: memory.try_into().ok(),
    })
}

/// Waits until handlers were called for this many events, and fails when the worker ends first.
pub(super) async fn reached(
    tally: &Tally,
    events: usize,
    is_working: impl Fn() -> bool,
) -> anyhow::Result<()> {
    let mut before = (tally.entered(), Instant::now());
    while before.0 < events {
        ensure!(is_working(), "the worker has ended");
        ensure!(before.1.elapsed() < PATIENCE, "nothing was handled in 60 s");
        tokio::time::sleep(LOOK_AGAIN).await;
        let entered = tally.entered();
        if entered != before.0 {
            before = (entered, Instant::now());
        }
    }
    Ok(())
}
