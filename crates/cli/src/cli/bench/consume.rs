//! Measures handlers on a full stream.

use std::sync::Arc;

use clap::ValueEnum;
use tidings::{Context, EventSubscriber, Failure, Worker};

use super::{
    Job,
    between::Between,
    effects,
    event::Written,
    raw::{self, IN_FLIGHT, per_second},
    raw_once,
    report::{Report, Wrong},
    store::BenchStore,
    tally::Tally,
    work::{Worked, work},
    world::{STREAM, World},
};

/// The kind of handler.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Mode {
    /// A handler that does nothing, against a loop of pulls and confirmed acknowledgements
    Plain,
    /// A handler whose row commits with the inbox row, against a loop of the same two statements
    Once,
    /// A handler of a thousand events whose rows commit with the inbox rows, against a loop of the same two statements
    Batch,
    /// A handler that does nothing, ordered by key, against one without order
    Ordered,
}

impl Mode {
    pub(super) fn default_events(self) -> usize {
        match self {
            Self::Plain | Self::Ordered | Self::Batch => 200_000,
            Self::Once => 30_000,
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Once => "once",
            Self::Batch => "batch",
            Self::Ordered => "ordered",
        }
    }
}

/// The result of a measurement.
struct Consumed {
    worked: Worked,
    wrong: Wrong,
    in_flight: usize,
}

pub(super) async fn run<DB: BenchStore>(
    world: &World<DB>,
    job: Job,
    mode: Mode,
) -> anyhow::Result<Report> {
    raw::fill(world, job).await?;
    let between = match mode {
        Mode::Plain => plain(world, job).await?,
        Mode::Once => once(world, job).await?,
        Mode::Batch => batch(world, job).await?,
        Mode::Ordered => ordered(world, job).await?,
    };
    let Consumed {
        worked,
        wrong,
        in_flight,
    } = &between.measured;
    let mut report = Report::new("consume", DB::KIND, world.servers, job)
        .figure("mode", mode.as_str())
        .between(worked.took, &between)
        .wrong(*wrong)
        .figure("in_flight", *in_flight);
    if let Some([start, middle, end]) = worked.memory {
        report = report
            .figure("memory_start_mb", start / 1_000_000)
            .figure("memory_middle_mb", middle / 1_000_000)
            .figure("memory_end_mb", end / 1_000_000);
    }
    Ok(report)
}

async fn plain<DB: BenchStore>(world: &World<DB>, job: Job) -> anyhow::Result<Between<Consumed>> {
    let limit = async |_| raw::pull_and_confirm(world, job, STREAM).await;
    let work = async {
        let (worked, wrong) = counted(world, job, does_nothing("bench")).await?;
        Ok(Consumed {
            worked,
            wrong: Wrong {
                // Without order, an event out of order is no error.
                out_of_order: 0,
                ..wrong
            },
            in_flight: IN_FLIGHT,
        })
    };
    Between::measure(limit, work).await
}

async fn once<DB: BenchStore>(world: &World<DB>, job: Job) -> anyhow::Result<Between<Consumed>> {
    let limit = async |_| raw_once::pull_commit_and_confirm(world, job).await;
    let work = effective(world, job, effects::once(world), DB::HANDLERS);
    Between::measure(limit, work).await
}

async fn batch<DB: BenchStore>(world: &World<DB>, job: Job) -> anyhow::Result<Between<Consumed>> {
    let limit = async |_| raw_once::pull_commit_and_confirm_all(world, job).await;
    let in_flight = DB::BATCHES * effects::BATCH;
    let work = effective(world, job, effects::batches(world), in_flight);
    Between::measure(limit, work).await
}

/// Runs a subscriber that writes a row for every event.
async fn effective<DB: BenchStore>(
    world: &World<DB>,
    job: Job,
    subscriber: EventSubscriber<Arc<Tally>>,
    in_flight: usize,
) -> anyhow::Result<Consumed> {
    DB::empty(world.outbox.pool()).await?;
    DB::settle(world.outbox.pool()).await;
    let (worked, _) = counted(world, job, subscriber).await?;
    Ok(Consumed {
        worked,
        wrong: effects::wrong(world, job).await?,
        in_flight,
    })
}

async fn ordered<DB: BenchStore>(world: &World<DB>, job: Job) -> anyhow::Result<Between<Consumed>> {
    let limit = async |is_first| {
        let durable = if is_first {
            "bench-before"
        } else {
            "bench-after"
        };
        let (worked, _) = counted(world, job, does_nothing(durable)).await?;
        Ok(per_second(job.events, worked.took))
    };
    let work = async {
        let subscriber = does_nothing("bench").ordered_by_key();
        let (worked, wrong) = counted(world, job, subscriber).await?;
        Ok(Consumed {
            worked,
            wrong,
            in_flight: IN_FLIGHT,
        })
    };
    Between::measure(limit, work).await
}

pub(super) fn does_nothing(durable: &str) -> EventSubscriber<Arc<Tally>> {
    EventSubscriber::durable(durable)
        .on(count)
        .concurrency(IN_FLIGHT)
}

async fn count(event: Written, cx: Context<Arc<Tally>>) -> Result<(), Failure> {
    cx.state().enter(&event);
    Ok(())
}

/// Runs a subscriber that handles every event.
async fn counted<DB: BenchStore>(
    world: &World<DB>,
    job: Job,
    subscriber: EventSubscriber<Arc<Tally>>,
) -> anyhow::Result<(Worked, Wrong)> {
    let tally = Arc::new(Tally::new(job));
    let worker = Worker::new(world.bus.clone(), Arc::clone(&tally)).subscribe(subscriber);
    let worker = world.observed.worker(worker);
    let worked = work(worker, &tally, job).await?;
    Ok((worked, tally.wrong()))
}
