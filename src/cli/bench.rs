//! `tidings bench`: how fast a job is here, and how fast the servers allow it to be, in one run.
//!
//! The limit is the best loop that sqlx or async-nats alone can do for the same work, with the same
//! messages or rows, measured before and after the job so that a drifting machine shows.

mod consume;
mod enqueue;
mod event;
mod latency;
mod raw;
mod relay;
mod report;
mod store;
mod world;

use clap::{Args, Subcommand, ValueEnum};
use sqlx::{Postgres, Sqlite};

use super::{
    output,
    report::{Exit, Outcome, Report as Failure},
};
use crate::config::{Config, DatabaseUrl};
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

/// What is measured.
#[derive(Debug, Clone, Copy, Subcommand)]
enum Bench {
    /// Transactions with one event, against the same transaction with a plain INSERT.
    Enqueue(Options),
    /// From rows of the outbox into the stream, against atomic batches alone.
    Relay(Options),
    /// From commit to handler at a rate, against a confirmed publish and a pull alone.
    Latency(LatencyOptions),
    /// A no-op handler with confirmed acknowledgements, against a pull-and-confirm loop alone.
    Consume(Options),
}

/// How much of it.
#[derive(Debug, Clone, Copy, Args)]
struct Options {
    /// The database of the outbox.
    #[arg(long, value_enum, default_value_t = StoreKind::Postgres)]
    store: StoreKind,
    /// How many events [default: 20000 for enqueue, 200000 for relay and consume].
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
struct LatencyOptions {
    /// The database of the outbox.
    #[arg(long, value_enum, default_value_t = StoreKind::Postgres)]
    store: StoreKind,
    /// How many events.
    #[arg(long, default_value_t = 5000)]
    events: usize,
    /// The size of a payload in bytes, 64 at least.
    #[arg(long, default_value_t = 256)]
    payload: usize,
    /// How many keys the events are spread over.
    #[arg(long, default_value_t = 1000)]
    keys: usize,
    /// Events a second.
    #[arg(long, default_value_t = 500)]
    rate: u32,
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
        let report = measure(self.bench, given).await.map_err(failed)?;
        if self.json {
            output::json(&report.json())?;
        } else {
            output::line(report.to_string().trim_end())?;
        }
        report.verdict().map_err(failed)
    }
}

fn failed(error: anyhow::Error) -> Failure {
    Failure::of(Exit::Failed, &*error)
}

async fn measure(bench: Bench, given: Given) -> anyhow::Result<Report> {
    let store = match bench {
        Bench::Enqueue(options) | Bench::Relay(options) | Bench::Consume(options) => options.store,
        Bench::Latency(options) => options.store,
    };
    match store {
        StoreKind::Postgres => measured(bench, World::<Postgres>::start(given).await?).await,
        StoreKind::Sqlite => measured(bench, World::<Sqlite>::start(given).await?).await,
    }
}

async fn measured<DB: store::BenchStore>(bench: Bench, world: World<DB>) -> anyhow::Result<Report> {
    let report = match bench {
        Bench::Enqueue(options) => enqueue::run(&world, options.job(20_000)).await,
        Bench::Relay(options) => relay::run(&world, options.job(200_000)).await,
        Bench::Consume(options) => consume::run(&world, options.job(200_000)).await,
        Bench::Latency(options) => latency::run(&world, options.job(), options.rate).await,
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

impl LatencyOptions {
    fn job(self) -> Job {
        Job {
            events: self.events.max(1),
            payload: self.payload,
            keys: self.keys.max(1),
        }
    }
}
