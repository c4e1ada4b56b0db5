//! Measures a replay: a subscriber handles a full stream again that it has passed.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use chrono::Utc;
use tidings::{
    StartFrom, Worker,
    replays::{Replay, ReplayRequest, ReplayState, Replays},
    subscribers::Subscribers,
};
use tokio_util::sync::CancellationToken;

use super::{
    Job,
    between::Between,
    consume,
    raw::{self, IN_FLIGHT},
    report::{Report, Wrong, rounded},
    store::BenchStore,
    tally::Tally,
    work::reached,
    world::{STREAM, World},
};

const NAME: &str = "bench-replay";
/// The interval at which the state of the replay is read, after everything is handled.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// The most time that a worker may take to answer, and a replay to end.
const PATIENCE: Duration = Duration::from_secs(60);

/// The result of a measurement.
struct Replayed {
    /// From the request until the replay existed: its range is resolved, and the instances are asked.
    asked: Duration,
    /// From the start of the replay until the last event was handled.
    handled: Duration,
    /// From the start of the replay until it was done.
    done: Duration,
    wrong: Wrong,
}

/// The limit is a loop of pulls and confirmed acknowledgements over the same stream.
pub(super) async fn run<DB: BenchStore>(world: &World<DB>, job: Job) -> anyhow::Result<Report> {
    raw::fill(world, job).await?;
    let limit = async |_| raw::pull_and_confirm(world, job, STREAM).await;
    let between = Between::measure(limit, replay(world, job)).await?;
    let replayed = &between.measured;
    Ok(Report::new("replay", DB::KIND, world.servers, job)
        .between(replayed.handled, &between)
        .wrong(replayed.wrong)
        .figure("asked_seconds", seconds(replayed.asked))
        .figure("done_seconds", seconds(replayed.done))
        .figure("in_flight", IN_FLIGHT))
}

fn seconds(took: Duration) -> f64 {
    rounded(took.as_secs_f64(), 1000.0)
}

/// Replays every event to a subscriber whose durable has passed the stream.
async fn replay<DB: BenchStore>(world: &World<DB>, job: Job) -> anyhow::Result<Replayed> {
    let tally = Arc::new(Tally::new(job));
    let subscriber = consume::does_nothing(NAME).start(StartFrom::New);
    let worker = Worker::new(world.bus.clone(), Arc::clone(&tally)).subscribe(subscriber);
    let stop = CancellationToken::new();
    let working = tokio::spawn(worker.run(stop.clone().cancelled_owned()));
    let answering = tokio::time::timeout(PATIENCE, until_it_answers(world));
    answering.await.context("no worker answered in 60 s")?;
    ensure!(
        tally.entered() == 0,
        "the subscriber has not passed the stream"
    );

    let replays = Replays::new(&world.bus);
    let request = ReplayRequest::new(StartFrom::Beginning);
    let asking = Instant::now();
    let job_of_it = replays.start(NAME, &request).await?;
    // The worker may have started before the answer to the request arrived here.
    let begun = age(&job_of_it);
    let here = Instant::now();
    reached(&tally, job.events, || !working.is_finished()).await?;
    let handled = here.elapsed() + begun;
    let ending = tokio::time::timeout(PATIENCE, until_it_ends(&replays, &job_of_it));
    let state = ending.await.context("the replay did not end in 60 s")??;
    let done = here.elapsed() + begun;
    stop.cancel();
    working.await??;
    let word = state.as_str();
    ensure!(state == ReplayState::Done, "the replay is {word}");
    Ok(Replayed {
        asked: here.duration_since(asking).saturating_sub(begun),
        handled,
        done,
        wrong: Wrong {
            // Without order, an event out of order is no error.
            out_of_order: 0,
            ..tally.wrong()
        },
    })
}

async fn until_it_answers<DB: BenchStore>(world: &World<DB>) {
    loop {
        let found = Subscribers::new(&world.bus).find(NAME).await;
        if found.is_ok_and(|subscriber| !subscriber.instances.is_empty()) {
            return;
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

async fn until_it_ends(replays: &Replays, replay: &Replay) -> anyhow::Result<ReplayState> {
    loop {
        let state = replays.find(replay.id).await?.replay.state;
        if state.is_final() {
            return Ok(state);
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// How long ago the replay was created.
fn age(replay: &Replay) -> Duration {
    (Utc::now() - replay.created_at)
        .to_std()
        .unwrap_or_default()
}
