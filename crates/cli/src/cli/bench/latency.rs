//! Measures the time from the commit of a transaction to its handler, and its parts.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use clap::ValueEnum;
use tidings::{StartFrom, worker::WorkerError};
use tokio::{
    sync::mpsc,
    task::{JoinHandle, JoinSet},
    time::MissedTickBehavior,
};
use tokio_util::sync::CancellationToken;

use super::{
    Job,
    event::Written,
    handle::{self, NOTES, Note, now},
    raw,
    report::{Report, Wrong, percentiles},
    store::BenchStore,
    world::{STREAM, World},
};
use crate::cli::process::Process;

/// Events before the measurement: the first ones include the cost of leases, consumers and caches.
const WARM_UP: usize = 200;
/// After this time, events that are still missing count as lost.
const PATIENCE: Duration = Duration::from_secs(60);

/// The process of the relay and the handler.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Place {
    /// The process of the producer, which wakes the relay directly
    Same,
    /// Another process, which NATS notifies of commits
    Other,
}

/// The settings of the measurement.
#[derive(Debug, Clone, Copy)]
pub(super) struct How {
    pub(super) rate: u32,
    pub(super) relay: Place,
    /// Uses `enqueue` in a transaction of sqlx, which notifies nothing of its commit.
    pub(super) enqueue: bool,
}

/// The time at which a transaction was committed, in microseconds since 1970.
struct Committed {
    number: usize,
    asked: i64,
    done: i64,
}

pub(super) async fn run<DB: BenchStore>(
    world: &World<DB>,
    job: Job,
    how: How,
) -> anyhow::Result<Report> {
    let mut handling = Handling::start(world, how.relay)?;
    let warm_up = Job {
        events: WARM_UP,
        ..job
    };
    produce(world, warm_up, job.events, how).await?;
    handling.until(WARM_UP).await?;
    let committed = produce(world, job, 0, how).await?;
    handling.until(WARM_UP + job.events).await?;
    let handled = handling.stop().await?;
    let stored = stored(world).await?;

    let of_each = |time: fn(&Committed, i64, i64) -> i64| -> Vec<Duration> {
        let times = committed.iter().filter_map(|event| {
            let (handled, _) = handled.get(&event.number)?;
            let micros = time(event, *stored.get(&event.number)?, *handled);
            Some(Duration::from_micros(u64::try_from(micros).unwrap_or(0)))
        });
        times.collect()
    };
    let times = of_each(|event, _, handled| handled - event.done);
    let wrong = Wrong {
        lost: job.events - times.len(),
        duplicates: handled.values().map(|(_, times)| times - 1).sum(),
        out_of_order: 0,
    };
    let [p50, p99, max] = percentiles(times);
    let [commit_p50, commit_p99, _] = percentiles(of_each(|event, _, _| event.done - event.asked));
    let [stored_p50, stored_p99, _] = percentiles(of_each(|event, stored, _| stored - event.done));
    let [handled_p50, handled_p99, _] = percentiles(of_each(|_, stored, handled| handled - stored));
    let [floor_p50, floor_p99, _] = percentiles(raw::publish_and_pull(world, job, how.rate).await?);
    let relay = match how.relay {
        Place::Same => "same process",
        Place::Other => "other process",
    };
    Ok(Report::new("latency", DB::KIND, world.servers, job)
        .figure("rate", how.rate)
        .figure("relay", relay)
        .figure("enqueue", how.enqueue)
        .figure("p50_us", p50)
        .figure("p99_us", p99)
        .figure("max_us", max)
        .figure("commit_p50_us", commit_p50)
        .figure("commit_p99_us", commit_p99)
        .figure("to_stream_p50_us", stored_p50)
        .figure("to_stream_p99_us", stored_p99)
        .figure("to_handler_p50_us", handled_p50)
        .figure("to_handler_p99_us", handled_p99)
        .figure("limit_p50_us", floor_p50)
        .figure("limit_p99_us", floor_p99)
        .wrong(wrong))
}

/// For each event, when its handler was first called, and how often.
type Handled = HashMap<usize, (i64, usize)>;

/// The running relay and handler, and their notes.
struct Handling {
    works: Works,
    collecting: JoinHandle<()>,
    handled: Arc<Mutex<Handled>>,
}

enum Works {
    Here(CancellationToken, JoinHandle<Result<(), WorkerError>>),
    Elsewhere(Process, JoinHandle<std::io::Result<()>>),
}

impl Handling {
    fn start<DB: BenchStore>(world: &World<DB>, place: Place) -> anyhow::Result<Self> {
        let (notes, mut noted) = mpsc::channel(NOTES);
        let works = match place {
            Place::Same => {
                let stop = CancellationToken::new();
                let (bus, outbox) = (world.bus.clone(), world.outbox.clone());
                let working = tokio::spawn(handle::work(bus, outbox, notes, stop.clone()));
                Works::Here(stop, working)
            }
            Place::Other => {
                let mut process = world.process(&["bench", "handle"])?;
                let lines = process.stdout().context("the stdout of the handler")?;
                Works::Elsewhere(process, tokio::spawn(handle::read(lines, notes)))
            }
        };
        let handled = Arc::new(Mutex::new(Handled::new()));
        let entered = Arc::clone(&handled);
        let collecting = tokio::spawn(async move {
            while let Some(Note { number, at }) = noted.recv().await {
                locked(&entered).entry(number).or_insert((at, 0)).1 += 1;
            }
        });
        Ok(Self {
            works,
            collecting,
            handled,
        })
    }

    /// Waits until this many events were handled, or the time is over.
    async fn until(&mut self, events: usize) -> anyhow::Result<()> {
        let began = Instant::now();
        while locked(&self.handled).len() < events {
            ensure!(!self.collecting.is_finished(), "the worker has ended");
            if began.elapsed() > PATIENCE {
                tracing::warn!(within = ?PATIENCE, "events not handled in time");
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }

    async fn stop(self) -> anyhow::Result<Handled> {
        match self.works {
            Works::Here(stop, working) => {
                stop.cancel();
                working.await??;
            }
            Works::Elsewhere(process, reading) => {
                process.stop().await?;
                reading.await??;
            }
        }
        self.collecting.await?;
        Ok(std::mem::take(&mut *locked(&self.handled)))
    }
}

fn locked(handled: &Mutex<Handled>) -> MutexGuard<'_, Handled> {
    handled.lock().unwrap_or_else(PoisonError::into_inner)
}

/// For each event, when the stream stored it, in microseconds since 1970.
async fn stored<DB: BenchStore>(world: &World<DB>) -> anyhow::Result<HashMap<usize, i64>> {
    let mut reader = world.bus.read(STREAM, &[], StartFrom::Beginning).await?;
    let mut stored = HashMap::new();
    while reader.pending() > 0 {
        let seen = reader.next().await?;
        let event: Written = seen.envelope?.decode()?;
        let at = seen.stored_at.timestamp_micros();
        stored.entry(event.number).or_insert(at);
    }
    Ok(stored)
}

/// Commits at a constant rate, regardless of how long the commits take.
async fn produce<DB: BenchStore>(
    world: &World<DB>,
    job: Job,
    first: usize,
    how: How,
) -> anyhow::Result<Vec<Committed>> {
    let mut tick = tokio::time::interval(Duration::from_secs(1) / how.rate.max(1));
    tick.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut commits = JoinSet::new();
    for number in first..first + job.events {
        tick.tick().await;
        let outbox = world.outbox.clone();
        let event = Written::new(job, number);
        commits.spawn(async move {
            let asked = if how.enqueue {
                let mut tx = outbox.pool().begin_with(DB::BEGIN).await?;
                outbox.enqueue(&mut tx, &event).await?;
                let asked = now();
                tx.commit().await?;
                asked
            } else {
                let mut tx = outbox.begin().await?;
                tx.publish(&event)?;
                let asked = now();
                tx.commit().await?;
                asked
            };
            anyhow::Ok(Committed {
                number,
                asked,
                done: now(),
            })
        });
    }
    let mut committed = Vec::with_capacity(job.events);
    while let Some(commit) = commits.join_next().await {
        committed.push(commit??);
    }
    Ok(committed)
}
