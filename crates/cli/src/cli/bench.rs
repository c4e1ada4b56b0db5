//! `tidings bench`: how fast a job is here, and how fast the servers allow it to be, in one run.
//!
//! The limit is the best loop that sqlx or async-nats alone can do for the same work, with the same
//! messages or rows, measured before and after the job so that a drifting machine shows.

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
use report::Report;
use world::{Given, World};

/// Starts servers for the measurement, with fsync and `sync_interval: always`, unless `--nats-url` or
/// `--database-url` name some; credentials are not supported then.
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
    /// The other process of `latency --relay other`.
    #[command(hide = true)]
    Handle,
}

/// What is measured.
#[derive(Debug, Clone, Copy, Subcommand)]
enum Measurement {
    /// Transactions with one event, or many, against the same transaction with a plain INSERT.
    Enqueue(EnqueueOptions),
    /// From rows of the outbox into the stream, against atomic batches alone; or against itself: a large
    /// backlog, or an old transaction.
    Relay(RelayOptions),
    /// From commit to handler at a rate, against a confirmed publish and a pull alone.
    Latency(LatencyOptions),
    /// From a full stream through handlers, with confirmed acknowledgements, against a loop that does the same
    /// alone; and the memory of this process meanwhile.
    Consume(ConsumeOptions),
    /// A full stream handled again, as a replay of a subscriber that has passed it, against a loop that reads and
    /// acknowledges the same alone.
    Replay(StoreOptions),
    /// Comparing the outbox with a stream, against reading the stream alone.
    Verify(StoreOptions),
    /// Everything that a stream has lost published again, against the relay.
    Republish(StoreOptions),
    /// What a relay costs that has nothing to do.
    Idle(IdleOptions),
}

/// How much of it.
#[derive(Debug, Clone, Copy, Args)]
struct Options {
    /// The database of the outbox.
    #[arg(long, value_enum, default_value_t = StoreKind::Postgres)]
    store: StoreKind,
    /// How many events [default: 20000 for enqueue, 200000 for relay, consume, replay, verify and republish, 30000 for
    /// consume --mode once, 5000 for latency, 1 for idle].
    #[arg(long)]
    events: Option<usize>,
    /// The size of a payload in bytes, 64 at least.
    #[arg(long, default_value_t = 256)]
    payload: usize,
    /// How many keys the events are spread over.
    #[arg(long, default_value_t = 1000)]
    keys: usize,
}

#[derive(Debug, Clone, Copy, Args)]
struct EnqueueOptions {
    #[command(flatten)]
    of: Options,
    /// Events in one transaction.
    #[arg(long, default_value_t = 1, value_name = "EVENTS")]
    bulk: usize,
}

#[derive(Debug, Clone, Copy, Args)]
struct RelayOptions {
    #[command(flatten)]
    of: Options,
    /// A backlog of so many events beside one of `--events`; the relay is a process of its own, and its
    /// memory is measured.
    #[arg(long, value_name = "EVENTS", conflicts_with = "pinned_xmin")]
    backlog: Option<usize>,
    /// With an old transaction that keeps Postgres from removing dead rows, of this age, beside without;
    /// Postgres only.
    #[arg(long, value_name = "AGE", value_parser = duration::parse)]
    pinned_xmin: Option<Duration>,
}

#[derive(Debug, Clone, Copy, Args)]
struct ConsumeOptions {
    #[command(flatten)]
    of: Options,
    /// What handles the events.
    #[arg(long, value_enum, default_value_t = Mode::Plain)]
    mode: Mode,
}

#[derive(Debug, Clone, Copy, Args)]
struct LatencyOptions {
    #[command(flatten)]
    of: Options,
    /// Events a second.
    #[arg(long, default_value_t = 500)]
    rate: u32,
    /// Where the relay and the handler are, seen from the producer.
    #[arg(long, value_enum, default_value_t = Place::Same)]
    relay: Place,
    /// With `enqueue` in a transaction of sqlx: nobody tells a relay elsewhere of the commit.
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
    /// For how long.
    #[arg(long = "for", value_name = "DURATION", default_value = "10s", value_parser = duration::parse)]
    length: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum StoreKind {
    Postgres,
    Sqlite,
}

/// One measurement's size, with every default filled in.
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
        };
        let stop = told_to_stop();
        // What it has started, the relay of its own and the servers, ends with it.
        let report = tokio::select! {
            report = report(measurement, given) => report?,
            () = stop.cancelled() => {
                return Err(Failure::new(Exit::Failed, "it was stopped before its end"));
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
        Measurement::Enqueue(EnqueueOptions { of, bulk }) => {
            enqueue::run(&world, of.job(20_000), bulk.max(1)).await
        }
        Measurement::Relay(RelayOptions { of, backlog, .. }) => {
            let job = of.job(200_000);
            match backlog {
                Some(events) => backlog::run(&world, job, events.max(1)).await,
                None => relay::run(&world, job).await,
            }
        }
        Measurement::Consume(ConsumeOptions { of, mode }) => {
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
    world.end().await?;
    report
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
