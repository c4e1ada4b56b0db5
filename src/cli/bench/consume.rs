//! A full stream through handlers.

use std::sync::Arc;

use clap::ValueEnum;
use tidings::{Context, EventSubscriber, Failure, Worker};

use super::{
    Job,
    cores::Cores,
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

/// What handles the events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Mode {
    /// A handler that does nothing, against a loop of pulls and confirmed acknowledgements.
    Plain,
    /// A handler whose row commits with the inbox's, against a loop of the same two statements.
    Once,
    /// A handler of a thousand events whose rows commit with the inbox's, against a loop of the same two statements.
    Batch,
    /// A handler that does nothing, in the order of each key, against one without order.
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

/// A measurement between its two limits.
struct Between {
    before: f64,
    worked: Worked,
    after: f64,
    wrong: Wrong,
    in_flight: usize,
    /// For how long this process had a core, in seconds: in the measurement, and in both limits together.
    cores: Option<[f64; 2]>,
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
    let limit = f64::midpoint(between.before, between.after);
    let took = between.worked.took;
    let mut report = Report::new("consume", DB::KIND, world.servers, job)
        .figure("mode", mode.as_str())
        .against(took.as_secs_f64(), per_second(job.events, took), limit)
        .wrong(between.wrong)
        .figure("in_flight", between.in_flight)
        .figure("limit_before", between.before.round())
        .figure("limit_after", between.after.round());
    if let Some([start, middle, end]) = between.worked.memory {
        report = report
            .figure("memory_start_mb", start / 1_000_000)
            .figure("memory_middle_mb", middle / 1_000_000)
            .figure("memory_end_mb", end / 1_000_000);
    }
    Ok(report.cores(between.cores))
}

async fn plain<DB: BenchStore>(world: &World<DB>, job: Job) -> anyhow::Result<Between> {
    let mut cores = Cores::default();
    cores.look();
    let before = raw::pull_and_confirm(world, job, STREAM).await?;
    cores.look();
    let (worked, wrong) = counted(world, job, does_nothing("bench")).await?;
    cores.look();
    let after = raw::pull_and_confirm(world, job, STREAM).await?;
    cores.look();
    Ok(Between {
        before,
        worked,
        after,
        cores: cores.of_three(),
        wrong: Wrong {
            // Without order nobody promised any.
            inversions: 0,
            ..wrong
        },
        in_flight: IN_FLIGHT,
    })
}

async fn once<DB: BenchStore>(world: &World<DB>, job: Job) -> anyhow::Result<Between> {
    let mut cores = Cores::default();
    cores.look();
    let before = raw_once::pull_commit_and_confirm(world, job).await?;
    cores.look();
    DB::empty(world.outbox.pool()).await?;
    DB::settle(world.outbox.pool()).await;
    let (worked, _) = counted(world, job, effects::once(world)).await?;
    let wrong = effects::wrong(world, job).await?;
    cores.look();
    let after = raw_once::pull_commit_and_confirm(world, job).await?;
    cores.look();
    Ok(Between {
        before,
        worked,
        after,
        cores: cores.of_three(),
        wrong,
        in_flight: DB::HANDLERS,
    })
}

async fn batch<DB: BenchStore>(world: &World<DB>, job: Job) -> anyhow::Result<Between> {
    let mut cores = Cores::default();
    cores.look();
    let before = raw_once::pull_commit_and_confirm_all(world, job).await?;
    cores.look();
    DB::empty(world.outbox.pool()).await?;
    DB::settle(world.outbox.pool()).await;
    let (worked, _) = counted(world, job, effects::batches(world)).await?;
    let wrong = effects::wrong(world, job).await?;
    cores.look();
    let after = raw_once::pull_commit_and_confirm_all(world, job).await?;
    cores.look();
    Ok(Between {
        before,
        worked,
        after,
        cores: cores.of_three(),
        wrong,
        in_flight: DB::BATCHES * effects::BATCH,
    })
}

async fn ordered<DB: BenchStore>(world: &World<DB>, job: Job) -> anyhow::Result<Between> {
    let mut cores = Cores::default();
    cores.look();
    let (before, _) = counted(world, job, does_nothing("bench-before")).await?;
    cores.look();
    let (worked, wrong) = counted(world, job, does_nothing("bench").ordered_by_key()).await?;
    cores.look();
    let (after, _) = counted(world, job, does_nothing("bench-after")).await?;
    cores.look();
    Ok(Between {
        before: per_second(job.events, before.took),
        worked,
        after: per_second(job.events, after.took),
        wrong,
        in_flight: IN_FLIGHT,
        cores: cores.of_three(),
    })
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

/// Has a subscriber handle every event.
async fn counted<DB: BenchStore>(
    world: &World<DB>,
    job: Job,
    subscriber: EventSubscriber<Arc<Tally>>,
) -> anyhow::Result<(Worked, Wrong)> {
    let tally = Arc::new(Tally::new(job));
    let worker = Worker::new(world.bus.clone(), Arc::clone(&tally)).subscribe(subscriber);
    let worked = work(worker, &tally, job).await?;
    Ok((worked, tally.wrong()))
}
