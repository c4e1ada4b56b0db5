//! From the commit of a transaction to its handler.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use tidings::{Context, EventSubscriber, Failure, Relay, Worker};
use tokio::{task::JoinSet, time::MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::{
    Job,
    event::Written,
    raw,
    report::{Report, Wrong, percentiles},
    store::BenchStore,
    world::World,
};

/// Events before the measurement.
const WARM_UP: usize = 200;

/// When each event's handler began, and how often it was called.
type Handled = Arc<Mutex<HashMap<usize, (Instant, usize)>>>;

async fn note(event: Written, cx: Context<Handled>) -> Result<(), Failure> {
    let now = Instant::now();
    let mut handled = cx.state().lock().unwrap_or_else(PoisonError::into_inner);
    handled.entry(event.number).or_insert((now, 0)).1 += 1;
    Ok(())
}

pub(super) async fn run<DB: BenchStore>(
    world: &World<DB>,
    job: Job,
    rate: u32,
) -> anyhow::Result<Report> {
    let handled = Handled::default();
    let stop = CancellationToken::new();
    let worker = Worker::new(world.bus.clone(), Arc::clone(&handled))
        .subscribe(EventSubscriber::durable("bench").on(note).concurrency(64))
        .with(Relay::new(world.outbox.clone()));
    let working = tokio::spawn(worker.run(stop.clone().cancelled_owned()));
    // The first events pay for leases, consumers and caches: they are not counted.
    let warm_up = Job {
        events: WARM_UP,
        ..job
    };
    produce(world, warm_up, job.events, rate).await?;
    until_handled(&handled, WARM_UP).await;
    let committed = produce(world, job, 0, rate).await?;
    until_handled(&handled, WARM_UP + job.events).await;
    stop.cancel();
    working.await??;

    let handled = handled
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .clone();
    let times: Vec<Duration> = committed
        .iter()
        .filter_map(|(number, committed)| {
            let (began, _) = handled.get(number)?;
            Some(began.saturating_duration_since(*committed))
        })
        .collect();
    let wrong = Wrong {
        lost: job.events - times.len(),
        duplicates: handled.values().map(|(_, times)| times - 1).sum(),
        inversions: 0,
    };
    let [p50, p99, max] = percentiles(times);
    let [floor_p50, floor_p99, _] = percentiles(raw::publish_and_pull(world, job, rate).await?);
    Ok(Report::new("latency", DB::KIND, world.servers, job)
        .figure("rate", rate)
        .figure("p50_us", p50)
        .figure("p99_us", p99)
        .figure("max_us", max)
        .figure("limit_p50_us", floor_p50)
        .figure("limit_p99_us", floor_p99)
        .wrong(wrong))
}

/// Commits at a rate, whatever the commits take; gives the moment of each commit.
async fn produce<DB: BenchStore>(
    world: &World<DB>,
    job: Job,
    first: usize,
    rate: u32,
) -> anyhow::Result<Vec<(usize, Instant)>> {
    let mut tick = tokio::time::interval(Duration::from_secs(1) / rate.max(1));
    tick.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut commits = JoinSet::new();
    for number in first..first + job.events {
        tick.tick().await;
        let outbox = world.outbox.clone();
        commits.spawn(async move {
            let mut tx = outbox.begin().await?;
            tx.publish(&Written::new(job, number))?;
            tx.commit().await?;
            Ok::<_, tidings::OutboxError>((number, Instant::now()))
        });
    }
    let mut committed = Vec::with_capacity(job.events);
    while let Some(commit) = commits.join_next().await {
        committed.push(commit??);
    }
    Ok(committed)
}

async fn until_handled(handled: &Handled, events: usize) {
    let all = async {
        while handled.lock().unwrap_or_else(PoisonError::into_inner).len() < events {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    // What is missing then counts as lost.
    if tokio::time::timeout(Duration::from_secs(60), all)
        .await
        .is_err()
    {
        tracing::warn!("not all events were handled within a minute");
    }
}
