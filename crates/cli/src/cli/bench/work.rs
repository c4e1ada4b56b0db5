//! A worker on a full stream, watched until it has handled everything. Never knows what its handlers do.

use std::time::{Duration, Instant};

use anyhow::ensure;
use tidings::Worker;
use tokio_util::sync::CancellationToken;

use super::{Job, tally::Tally};
use crate::cli::process;

/// How often the tally is looked at: seldom enough to disturb nobody.
const LOOK_AGAIN: Duration = Duration::from_millis(2);
/// How long nothing may be handled.
const PATIENCE: Duration = Duration::from_secs(60);
/// By when a process has what it needs, in hundredths of the events.
const WARM: usize = 5;

/// What it took.
pub(super) struct Worked {
    pub(super) took: Duration,
    /// This process' memory in bytes after a twentieth of the events, after half of them, and after all; `None`
    /// where it cannot be known.
    pub(super) memory: Option<[u64; 3]>,
}

/// Runs a worker until its handlers have been called for every event, and it has ended.
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
    // The drain waits for the acknowledgements, which belong to the work.
    working.await??;
    Ok(Worked {
        took: began.elapsed(),
        memory: memory.try_into().ok(),
    })
}

/// Waits until handlers have been called for so many events, as long as the worker works.
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
