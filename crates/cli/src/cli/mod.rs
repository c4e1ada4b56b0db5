//! The commands of the `tidings` program. Results go to stdout, logs and errors to stderr.

mod bench;
mod completions;
mod config;
mod consent;
mod database;
mod dead_letters;
mod demo;
mod folder;
mod logging;
mod migrate;
mod outbox;
mod output;
mod place;
mod process;
mod publish;
mod relay;
mod replay;
mod report;
mod streams;
mod subscribers;
mod tail;
mod trace;
mod untrusted;
mod verify;

use std::{path::PathBuf, process::ExitCode};

use clap::{Args, Parser, Subcommand};
use tidings::{Bus, shutdown_signal};
use tokio_util::sync::CancellationToken;

use crate::config::{Config, DATABASE_URL, Flags, LOG_FILTER, NATS_URL, SCHEMA};
use report::{EXIT_CODES, Exit, Outcome, Report};

/// Domain events over NATS JetStream with a transactional outbox.
#[derive(Parser)]
#[command(name = "tidings", version, after_help = EXIT_CODES, max_term_width = 100)]
struct Cli {
    #[command(flatten)]
    global: GlobalFlags,
    #[command(subcommand)]
    command: Command,
}

#[derive(Args)]
#[command(next_help_heading = "Global options")]
struct GlobalFlags {
    /// The configuration file [default: tidings.toml, if there is one] [environment: TIDINGS_CONFIG]
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The NATS servers, separated by commas
    #[arg(long, global = true, value_name = "URL")]
    nats_url: Option<String>,
    /// The database: sqlite:PATH or postgres://USER:PASSWORD@HOST:PORT/DATABASE
    #[arg(long, global = true, value_name = "URL")]
    database_url: Option<String>,
    /// The schema of the outbox; on SQLite the prefix of its tables
    #[arg(long, global = true, value_name = "NAME")]
    schema: Option<String>,
    /// What is logged on stderr, such as debug or "warn,tidings=debug"
    #[arg(long, global = true, value_name = "FILTER")]
    log: Option<String>,
}

#[derive(Subcommand)]
enum Command {
    /// Create the outbox in the database, or bring it to this version
    Migrate(migrate::Migrate),
    /// Show the streams that there should be, or create and update them; never deletes
    Streams(streams::Streams),
    /// Carry events from the outbox into their streams until told to stop
    Relay,
    /// Publish an event, through the outbox or straight to NATS
    Publish(publish::Publish),
    /// Print events as they come
    Tail(tail::Tail),
    /// Look into the outbox
    Outbox(outbox::OutboxCommand),
    /// Look at what subscribers gave up, and give it back to them
    DeadLetters(dead_letters::DeadLettersCommand),
    /// Have a subscriber handle events again: a part of its streams, at a rate, watched to its end
    Replay(replay::ReplayCommand),
    /// See how subscribers do, pause, resume and reset them
    Subscribers(subscribers::SubscribersCommand),
    /// Tell where an event is: in the outbox, in a stream, at its subscribers
    Trace(trace::RunTrace),
    /// Tell whether the streams hold what was confirmed
    Verify(verify::RunVerify),
    /// Show the whole way on servers of its own: commits, rollbacks, a killed relay, and a judge
    Demo(demo::Demo),
    /// Measure a job here, and the limit of the servers in the same run
    Bench(bench::BenchCommand),
    /// Print the configuration that is in effect, and where each value comes from
    Config(config::ShowConfig),
    /// Print the completions of a shell
    Completions(completions::Completions),
}

impl Command {
    /// Whether it changes something, so that it does not stop half way because the reader of its output has left.
    fn changes(&self) -> bool {
        match self {
            Self::Migrate(_) | Self::Streams(_) | Self::Relay | Self::Publish(_) => true,
            Self::Outbox(command) => command.changes(),
            Self::DeadLetters(command) => command.changes(),
            Self::Replay(command) => command.changes(),
            Self::Subscribers(command) => command.changes(),
            Self::Verify(command) => command.changes(),
            // What these make they clean up.
            Self::Demo(_) | Self::Bench(_) => false,
            Self::Tail(_) | Self::Trace(_) | Self::Config(_) | Self::Completions(_) => false,
        }
    }

    /// What is logged when nobody says: services tell what they do, tools what went wrong.
    fn log_filter(&self) -> &'static str {
        match self {
            // What the client says of its connection is in our own lines too.
            Self::Relay => "info,async_nats=warn",
            _ => "warn",
        }
    }
}

impl From<GlobalFlags> for Flags {
    fn from(flags: GlobalFlags) -> Self {
        let given = [
            (&NATS_URL, "--nats-url", flags.nats_url),
            (&DATABASE_URL, "--database-url", flags.database_url),
            (&SCHEMA, "--schema", flags.schema),
            (&LOG_FILTER, "--log", flags.log),
        ];
        let values = given
            .into_iter()
            .filter_map(|(setting, flag, text)| Some((setting, flag, text?)));
        Self {
            file: flags.config,
            values: values.collect(),
        }
    }
}

/// Runs the command of the command line.
pub(crate) fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(refused) => return refuse(&refused),
    };
    match begin(cli) {
        Ok(()) => Exit::Ok.into(),
        Err(report) => report.end(),
    }
}

/// Help and version as they are; of what is wrong with the arguments, which it repeats, nothing that a terminal obeys.
fn refuse(refused: &clap::Error) -> ExitCode {
    if !refused.use_stderr() {
        refused.exit();
    }
    output::note(refused.to_string().trim_end());
    Exit::Usage.into()
}

fn begin(cli: Cli) -> Outcome {
    let command = match cli.command {
        // Needs no configuration, which may be broken.
        Command::Completions(completions) => return completions.run(),
        command => command,
    };
    if command.changes() {
        output::outlive_the_reader();
    }
    let config = Config::load(cli.global.into())?;
    logging::begin(&config.log, command.log_filter());
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| {
            Report::new(Exit::Failed, "the program cannot start its threads").because(Some(&error))
        })?;
    runtime.block_on(run(command, &config))
}

async fn run(command: Command, config: &Config) -> Outcome {
    match command {
        Command::Migrate(command) => command.run(config).await,
        Command::Streams(command) => command.run(config).await,
        Command::Relay => relay::run(config).await,
        Command::Publish(command) => command.run(config).await,
        Command::Tail(command) => command.run(config).await,
        Command::Outbox(command) => command.run(config).await,
        Command::DeadLetters(command) => command.run(config).await,
        Command::Replay(command) => command.run(config).await,
        Command::Subscribers(command) => command.run(config).await,
        Command::Trace(command) => command.run(config).await,
        Command::Verify(command) => command.run(config).await,
        Command::Demo(command) => command.run().await,
        Command::Bench(command) => command.run(config).await,
        Command::Config(command) => command.run(config),
        Command::Completions(command) => command.run(),
    }
}

/// Connects to NATS.
async fn connect(config: &Config) -> Result<Bus, Report> {
    Ok(Bus::connect(config.nats.clone()).await?)
}

/// Cancelled at the first SIGTERM or Ctrl-C, from now on; a second one ends the program at once.
fn told_to_stop() -> CancellationToken {
    let stop = CancellationToken::new();
    let told = stop.clone();
    tokio::spawn(async move {
        shutdown_signal().await;
        told.cancel();
        shutdown_signal().await;
        std::process::exit(Exit::Failed as i32);
    });
    stop
}
