//! A full stream through a handler that does nothing.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use tidings::{Context, EventSubscriber, Failure, Worker};
use tokio_util::sync::CancellationToken;

use super::{
    Job,
    event::Written,
    raw::{self, IN_FLIGHT, per_second},
    report::{Report, Wrong},
    store::BenchStore,
    world::{STREAM, World},
};

/// How often each event was handled.
struct Handled {
    total: AtomicUsize,
    each: Vec<AtomicUsize>,
}

pub(super) async fn run<DB: BenchStore>(world: &World<DB>, job: Job) -> anyhow::Result<Report> {
    raw::fill(world, job).await?;
    let limit_before = raw::pull_and_confirm(world, job, STREAM).await?;

    let handled = Arc::new(Handled {
        total: AtomicUsize::new(0),
        each: (0..job.events).map(|_| AtomicUsize::new(0)).collect(),
    });
    let stop = CancellationToken::new();
    let began = Instant::now();
    let worker = Worker::new(world.bus.clone(), Arc::clone(&handled)).subscribe(
        EventSubscriber::durable("bench")
            .on(count)
            .concurrency(IN_FLIGHT),
    );
    let working = tokio::spawn(worker.run(stop.clone().cancelled_owned()));
    while handled.total.load(Ordering::Relaxed) < job.events {
        anyhow::ensure!(!working.is_finished(), "the worker has ended");
        anyhow::ensure!(
            began.elapsed() < Duration::from_secs(600),
            "not handled within 10 min"
        );
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    stop.cancel();
    // The drain flushes the acknowledgements, which belong to the work.
    working.await??;
    let took = began.elapsed();

    let limit_after = raw::pull_and_confirm(world, job, STREAM).await?;
    let times = handled
        .each
        .iter()
        .map(|times| times.load(Ordering::Relaxed));
    let wrong = Wrong {
        lost: times.clone().filter(|times| *times == 0).count(),
        duplicates: times.map(|times| times.saturating_sub(1)).sum(),
        inversions: 0,
    };
    let limit = (limit_before + limit_after) / 2.0;
    Ok(Report::new("consume", DB::KIND, world.servers, job)
        .against(took.as_secs_f64(), per_second(job.events, took), limit)
        .wrong(wrong)
        .figure("in_flight", IN_FLIGHT)
        .figure("limit_before", limit_before.round())
        .figure("limit_after", limit_after.round()))
}

async fn count(event: Written, cx: Context<Arc<Handled>>) -> Result<(), Failure> {
    let handled = cx.state();
    if let Some(times) = handled.each.get(event.number) {
        times.fetch_add(1, Ordering::Relaxed);
    }
    handled.total.fetch_add(1, Ordering::Relaxed);
    Ok(())
}
