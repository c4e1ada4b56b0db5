//! `tidings bench`: the rate of a job on this machine, and the limit that the servers allow, in one run.
//!
//! The limit is the best loop that sqlx or async-nats alone can do for the same work, with the same messages or rows.
//! It is measured before and after the job, so that drift of the machine is visible.

mod backlog;
mod between;
mod consume;
mod drain;
mod effects;
mod enqueue;
mod event;
mod handle;
mod idle;
mod judge;
mod latency;
mod observed;
mod pinned;
mod raw;
mod raw_once;
mod relay;
mod replay;
mod report;
mod republish;
mod store;
mod tally;
mod verify;
mod work;
mod world;

use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use sqlx::{Postgres, Sqlite};

use super::{
    output,
    report::{Exit, Outcome, Report as Failure},
    told_to_stop,
};
use crate::config::{Config, DatabaseUrl, duration};
use consume::Mode;
use latency::{How, Place};
use observed::ObserveOptions;
use report::Report;
use world::{Given, World};

#[derive(Args)]
pub(super) struct BenchCommand {
    #[command(subcommand)]
    bench: Bench,
    /// Print one JSON object
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Clone, Copy, Subcommand)]
enum Bench {
    #[command(flatten)]
    Measure(Measurement),
    /// Run the other process of `latency --relay other`
    #[command(hide = true)]
    Handle,
}

/// The measured job.
#[derive(Debug, Clone, Copy, Subcommand)]
enum Measurement {
    /// Measure transactions with one or more events, against the same transaction with a plain INSERT
    Enqueue(EnqueueOptions),
    /// Measure the relay from outbox rows to the stream, against atomic batches alone; or against itself, with a large
    /// backlog or an old transaction
    Relay(RelayOptions),
    /// Measure the time from commit to handler at a given rate, against a confirmed publish and a pull alone
    Latency(LatencyOptions),
    /// Measure handlers on a full stream, with confirmed acknowledgements, against a loop that does the same alone; and
    /// the memory of this process at the start, in the middle and at the end
    Consume(ConsumeOptions),
    /// Measure a replay: a full stream is handled again by a subscriber that has passed it, against a loop that reads
    /// and acknowledges the same alone
    ///
    /// Counts from the start of the replay until the last event is handled, and prints how long the request took and
    /// when the replay was done.
    Replay(StoreOptions),
    /// Measure `verify`: comparing the outbox with a stream, against reading the stream alone
    Verify(StoreOptions),
    /// Measure `republish`: publishing again every event that a stream has lost, against the relay
    Republish(StoreOptions),
    /// Measure the cost of an idle relay
    Idle(IdleOptions),
}

/// The size of a measurement.
#[derive(Debug, Clone, Copy, Args)]
struct Options {
    /// The database of the outbox
    #[arg(long, value_enum, default_value_t = StoreKind::Postgres)]
    store: StoreKind,
    /// The number of events [default: 20000 for enqueue, 200000 for relay, consume, replay, verify and republish, 30000
    /// for consume --mode once, 5000 for latency, 1 for idle]
    #[arg(long)]
    events: Option<usize>,
    /// The size of a payload in bytes, at least 64
    #[arg(long, default_value_t = 256)]
    payload: usize,
    /// The number of keys over which the events are spread
    #[arg(long, default_value_t = 1000)]
    keys: usize,
}

#[derive(Debug, Clone, Copy, Args)]
struct EnqueueOptions {
    #[command(flatten)]
    of: Options,
    /// The number of events in one transaction
    #[arg(long, default_value_t = 1, value_name = "EVENTS")]
    bulk: usize,
    #[command(flatten)]
    observe: ObserveOptions,
}

#[derive(Debug, Clone, Copy, Args)]
struct RelayOptions {
    #[command(flatten)]
    of: Options,
    /// Compare a backlog of this size with one of `--events`; the relay runs in its own process, and its memory is
    /// measured
    #[arg(long, value_name = "EVENTS", conflicts_with = "pinned_xmin")]
    backlog: Option<usize>,
    /// Compare with and without an old transaction of this age, which keeps Postgres from removing dead rows; Postgres
    /// only
    #[arg(long, value_name = "AGE", value_parser = duration::parse)]
    pinned_xmin: Option<Duration>,
    #[command(flatten)]
    observe: ObserveOptions,
}

#[derive(Debug, Clone, Copy, Args)]
struct ConsumeOptions {
    #[command(flatten)]
    of: Options,
    /// The kind of handler
    #[arg(long, value_enum, default_value_t = Mode::Plain)]
    mode: Mode,
    #[command(flatten)]
    observe: ObserveOptions,
}

#[derive(Debug, Clone, Copy, Args)]
struct LatencyOptions {
    #[command(flatten)]
    of: Options,
    /// The number of events per second
    #[arg(long, default_value_t = 500)]
    rate: u32,
    /// The process of the relay and the handler
    #[arg(long, value_enum, default_value_t = Place::Same)]
    relay: Place,
    /// Use `enqueue` in a transaction of sqlx, which notifies no relay in another process of the commit
    #[arg(long)]
    enqueue: bool,
}

#[derive(Debug, Clone, Copy, Args)]
struct StoreOptions {
    #[command(flatten)]
    of: Options,
}

#[derive(Debug, Clone, Copy, Args)]
struct IdleOptions {
    #[command(flatten)]
    of: Options,
    /// The length of the measurement
    #[arg(long = "for", value_name = "DURATION", default_value = "10s", value_parser = duration::parse)]
    length: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum StoreKind {
    Postgres,
    Sqlite,
}

/// The size of one measurement, with all defaults filled in.
#[derive(Debug, Clone, Copy)]
struct Job {
    events: usize,
    payload: usize,
    keys: usize,
}

impl BenchCommand {
    pub(super) async fn run(&self, config: &Config) -> Outcome {
        let measurement = match self.bench {
            Bench::Handle => return handle::run(config).await,
            Bench::Measure(measurement) => measurement,
        };
        let given = Given {
            nats: config
                .is_given("nats.url")
                .then(|| config.nats.servers.clone()),
            database: config
                .is_given("database.url")
                .then(|| match &config.database {
                    DatabaseUrl::Postgres(url) => url.clone(),
                    DatabaseUrl::Sqlite(path) => format!("sqlite:{}", path.display()),
                }),
            observe: measurement.observe(),
        };
        let stop = told_to_stop();
        // Dropping it ends everything that it started, its relay process and the servers.
        let report = tokio::select! {
            report = report(measurement, given) => report?,
            () = stop.cancelled() => {
                return Err(Failure::new(Exit::Failed, "the benchmark was stopped before its end"));
            }
        };
        if self.json {
            output::json(&report.json())?;
        } else {
            output::line(report.to_string().trim_end())?;
        }
        report.verdict().map_err(failed)
    }
}

async fn report(measurement: Measurement, given: Given) -> Result<Report, Failure> {
    match measurement {
        Measurement::Relay(RelayOptions {
            of,
            pinned_xmin: Some(age),
            ..
        }) => under_a_pin(of, age, given).await,
        _ => measure(measurement, given).await.map_err(failed),
    }
}

fn failed(error: anyhow::Error) -> Failure {
    Failure::of(Exit::Failed, &*error)
}

async fn under_a_pin(of: Options, age: Duration, given: Given) -> Result<Report, Failure> {
    if of.store == StoreKind::Sqlite {
        let what =
            "--pinned-xmin measures Postgres only: SQLite has no dead rows that wait for vacuum";
        return Err(Failure::new(Exit::Usage, what).cure("--store postgres"));
    }
    let measured = async {
        let world = World::<Postgres>::start(given).await?;
        let report = pinned::run(&world, of.job(200_000), age).await;
        world.end().await?;
        report
    };
    measured.await.map_err(failed)
}

async fn measure(what: Measurement, given: Given) -> anyhow::Result<Report> {
    let store = match what {
        Measurement::Enqueue(EnqueueOptions { of, .. })
        | Measurement::Relay(RelayOptions { of, .. })
        | Measurement::Latency(LatencyOptions { of, .. })
        | Measurement::Idle(IdleOptions { of, .. })
        | Measurement::Replay(StoreOptions { of })
        | Measurement::Verify(StoreOptions { of })
        | Measurement::Republish(StoreOptions { of })
        | Measurement::Consume(ConsumeOptions { of, .. }) => of.store,
    };
    match store {
        StoreKind::Postgres => measured(what, World::<Postgres>::start(given).await?).await,
        StoreKind::Sqlite => measured(what, World::<Sqlite>::start(given).await?).await,
    }
}

async fn measured<DB: store::BenchStore>(
    what: Measurement,
    world: World<DB>,
) -> anyhow::Result<Report> {
    let report = match what {
        Measurement::Enqueue(EnqueueOptions { of, bulk, .. }) => {
            enqueue::run(&world, of.job(20_000), bulk.max(1)).await
        }
        Measurement::Relay(RelayOptions { of, backlog, .. }) => {
            let job = of.job(200_000);
            match backlog {
                Some(events) => backlog::run(&world, job, events.max(1)).await,
                None => relay::run(&world, job).await,
            }
        }
        Measurement::Consume(ConsumeOptions { of, mode, .. }) => {
            consume::run(&world, of.job(mode.default_events()), mode).await
        }
        Measurement::Latency(options) => {
            let how = How {
                rate: options.rate.max(1),
                relay: options.relay,
                enqueue: options.enqueue,
            };
            latency::run(&world, options.of.job(5000), how).await
        }
        Measurement::Replay(StoreOptions { of }) => replay::run(&world, of.job(200_000)).await,
        Measurement::Verify(StoreOptions { of }) => verify::run(&world, of.job(200_000)).await,
        Measurement::Republish(StoreOptions { of }) => {
            republish::run(&world, of.job(200_000)).await
        }
        Measurement::Idle(IdleOptions { of, length }) => idle::run(&world, of.job(1), length).await,
    };
    let report = report.map(|report| world.observed.report(report));
    world.end().await?;
    report
}

impl Measurement {
    /// What is observed while it runs.
    fn observe(self) -> ObserveOptions {
        match self {
            Self::Enqueue(EnqueueOptions { observe, .. })
            | Self::Relay(RelayOptions { observe, .. })
            | Self::Consume(ConsumeOptions { observe, .. }) => observe,
            Self::Latency(_)
            | Self::Replay(_)
            | Self::Verify(_)
            | Self::Republish(_)
            | Self::Idle(_) => ObserveOptions::default(),
        }
    }
}

impl Options {
    fn job(self, default_events: usize) -> Job {
        Job {
            events: self.events.unwrap_or(default_events).max(1),
            payload: self.payload,
            keys: self.keys.max(1),
        }
    }
}
