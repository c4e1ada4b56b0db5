//! The commands of the `tidings` program. Results go to stdout, logs and errors to stderr.

mod bench;
mod completions;
mod config;
mod consent;
mod database;
mod dead_letters;
mod demo;
mod doctor;
mod folder;
mod healthcheck;
mod judged;
mod logging;
mod migrate;
mod outbox;
mod output;
mod place;
mod process;
mod publish;
#[cfg(test)]
mod reference;
mod relay;
mod reload;
mod replay;
mod report;
mod signals;
mod span_export;
mod streams;
mod subscribers;
mod tail;
mod trace;
mod untrusted;
mod verify;

use std::{io, path::PathBuf, process::ExitCode};

use clap::{Args, Parser, Subcommand};
use tidings::{Bus, shutdown_signal};
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

use crate::config::{Config, DATABASE_URL, Flags, LOG_FILTER, NATS_URL, SCHEMA};
use logging::LogFilter;
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
    /// The configuration file [default: tidings.toml, if it exists] [environment: TIDINGS_CONFIG]
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The URLs of the NATS servers, separated by commas
    #[arg(long, global = true, value_name = "URL")]
    nats_url: Option<String>,
    /// The database URL: sqlite:PATH or postgres://USER:PASSWORD@HOST:PORT/DATABASE
    #[arg(long, global = true, value_name = "URL")]
    database_url: Option<String>,
    /// The schema of the outbox; on SQLite the prefix of its tables
    #[arg(long, global = true, value_name = "NAME")]
    schema: Option<String>,
    /// The filter for log lines on stderr, such as debug or "warn,tidings=debug"
    #[arg(long, global = true, value_name = "FILTER")]
    log: Option<String>,
}

#[derive(Subcommand)]
enum Command {
    /// Create the outbox in the database, or migrate it to this version
    Migrate(migrate::Migrate),
    /// Show the configured streams, or create and update them; never deletes a stream
    Streams(streams::Streams),
    /// Move events from the outbox into their streams until stopped
    ///
    /// While it starts, it checks how database and streams are configured: a danger is logged as a warning, and what
    /// cannot work ends the command.
    ///
    /// Reads its configuration again on SIGHUP, and when the file has changed: the settings of the relay, except those
    /// of its connections, and the log filter change at once. SIGTERM and Ctrl-C stop it, and so does closing its
    /// terminal.
    Relay(relay::RunRelay),
    /// Publish an event, through the outbox or directly to NATS
    Publish(publish::Publish),
    /// Print events as they arrive
    ///
    /// Acknowledges nothing, so it disturbs no subscriber.
    Tail(tail::Tail),
    /// Inspect and operate the outbox
    Outbox(outbox::OutboxCommand),
    /// Inspect, redrive or discard dead letters
    DeadLetters(dead_letters::DeadLettersCommand),
    /// Have a subscriber handle a part of its streams again
    Replay(replay::ReplayCommand),
    /// Inspect subscribers, and pause, resume, reset or remove them
    Subscribers(subscribers::SubscribersCommand),
    /// Find out what is wrong, the worst first, with cause and cure
    ///
    /// Looks at the outbox, its relays, the subscribers, their dead letters and how all of them are configured, and changes
    /// nothing. Takes ten seconds at most, and also works while NATS or the database does not answer.
    ///
    /// Exits with 0 when all is well or there are only notices, with 1 when something is degraded or in danger, with 2
    /// when something is stuck or refused, and with 3 when something could not be seen and nothing worse is known. It
    /// also exits with 1 when there is no subscriber NAME, and with 2 when the command line or the configuration cannot
    /// be used.
    Doctor(doctor::RunDoctor),
    /// Ask a running relay or worker whether it is ready or alive, over its health endpoints
    ///
    /// For container images without curl. Exits with 0 when it is, with 1 when it is not and prints why, and with 3 when
    /// nothing answers within three seconds.
    Healthcheck(healthcheck::Healthcheck),
    /// Find an event: in the outbox, in the streams, at its subscribers
    ///
    /// Prints when an event, or each event of a key or a conversation, was written, relayed and stored, and its outcome
    /// at each subscriber. Unknown facts are reported as unknown, with the reason. Without a database it prints what
    /// NATS knows, and without NATS what the database knows. Exits with 1 when nothing is found, and with 3 when
    /// something could not be seen.
    Trace(trace::RunTrace),
    /// Check that the streams hold the events that were confirmed
    ///
    /// Compares the outbox with the streams: every confirmed event must be there, as it was written, once, and in the
    /// order of its key. The relay may run meanwhile. Exits with 1 when something is wrong. Events that a stream's
    /// limits may have removed (`expired`) are not wrong. A stream without such limits has none of them: events that
    /// were purged from it are missing.
    ///
    /// With --repair, events that were confirmed and are missing are republished, in the order in which they were
    /// written, with their ids. Exits with 0 when nothing is wrong any more. Streams are append-only: a republished
    /// event may follow later events of its key (`late`), and modified, duplicate or reordered events stay as they are.
    Verify(verify::RunVerify),
    /// Run a demo on private servers: commits, rollbacks, a killed relay, and a check of the result
    Demo(demo::Demo),
    /// Measure a job on this machine, and the limit of the servers in the same run
    ///
    /// The servers are started for it, with fsync and `sync_interval: always`, or are those that `--nats-url` and
    /// `--database-url` name (without support for credentials).
    Bench(bench::BenchCommand),
    /// Print every setting in effect, and its source; or check the configuration
    Config(config::ShowConfig),
    /// Print completions for a shell
    Completions(completions::Completions),
}

impl Command {
    /// Whether the command changes something. Then it runs to its end even when the reader of its output has closed the
    /// pipe.
    fn changes(&self) -> bool {
        match self {
            Self::Migrate(_) | Self::Streams(_) | Self::Relay(_) | Self::Publish(_) => true,
            Self::Outbox(command) => command.changes(),
            Self::DeadLetters(command) => command.changes(),
            Self::Replay(command) => command.changes(),
            Self::Subscribers(command) => command.changes(),
            Self::Verify(command) => command.changes(),
            // They remove what they create.
            Self::Demo(_) | Self::Bench(_) => false,
            Self::Tail(_)
            | Self::Doctor(_)
            | Self::Healthcheck(_)
            | Self::Trace(_)
            | Self::Config(_)
            | Self::Completions(_) => false,
        }
    }

    /// The log filter without a configured one: services log their work, tools log problems only.
    fn log_filter(&self) -> &'static str {
        match self {
            // Our own lines repeat the client's messages about its connection.
            Self::Relay(_) => "info,async_nats=warn",
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

/// Runs the command that the arguments name.
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

/// Prints help and version as they are, and an error about the arguments without control characters: it repeats the
/// arguments.
fn refuse(refused: &clap::Error) -> ExitCode {
    if !refused.use_stderr() {
        refused.exit();
    }
    output::note(refused.to_string().trim_end());
    Exit::Usage.into()
}

fn begin(cli: Cli) -> Outcome {
    let command = match cli.command {
        // Needs no configuration, which may be invalid.
        Command::Completions(completions) => return completions.run(),
        command => command,
    };
    let flags = Flags::from(cli.global);
    if let Command::Config(command) = &command
        && let Some(check) = command.check()
    {
        return check(flags);
    }
    if command.changes() {
        output::outlive_the_reader();
    }
    let config = Config::load(flags)?;
    let log = logging::begin(&config.log, command.log_filter());
    let runtime = threads(&config).map_err(|error| {
        Report::new(Exit::Failed, "the program cannot start its threads").because(Some(&error))
    })?;
    runtime.block_on(run(command, config, log))
}

/// The threads of the program.
fn threads(config: &Config) -> io::Result<Runtime> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    if let Some(threads) = config.runtime.worker_threads {
        builder.worker_threads(threads);
    }
    if let Some(threads) = config.runtime.blocking_threads {
        builder.max_blocking_threads(threads);
    }
    builder.enable_all().build()
}

async fn run(command: Command, config: Config, log: LogFilter) -> Outcome {
    let config = &config;
    match command {
        Command::Relay(command) => command.run(config, log).await,
        Command::Migrate(command) => command.run(config).await,
        Command::Streams(command) => command.run(config).await,
        Command::Publish(command) => command.run(config).await,
        Command::Tail(command) => command.run(config).await,
        Command::Outbox(command) => command.run(config).await,
        Command::DeadLetters(command) => command.run(config).await,
        Command::Replay(command) => command.run(config).await,
        Command::Subscribers(command) => command.run(config).await,
        Command::Doctor(command) => command.run(config).await,
        Command::Healthcheck(command) => command.run(config).await,
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

/// Returns a token that the first SIGTERM or Ctrl-C cancels. A second one ends the program at once.
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

#[cfg(test)]
mod tests {
    use clap::{Command, CommandFactory};

    /// Paths of subcommands with a flag that their parent has too, and that does not reach them from there.
    fn lost_flags(command: &Command) -> Vec<String> {
        let own = command.get_arguments().filter(|arg| !arg.is_global_set());
        let own: Vec<_> = own.filter_map(clap::Arg::get_long).collect();
        let mut lost = Vec::new();
        for below in command.get_subcommands() {
            let flags = below.get_arguments().filter_map(clap::Arg::get_long);
            let of_both = flags.filter(|flag| own.contains(flag));
            lost.extend(of_both.map(|flag| format!("{} --{flag}", below.get_name())));
            lost.extend(lost_flags(below));
        }
        lost
    }

    #[test]
    fn a_flag_before_a_subcommand_reaches_it() {
        assert_eq!(lost_flags(&super::Cli::command()), Vec::<String>::new());
        let json = || clap::Arg::new("json").long("json");
        let below = Command::new("check").arg(json());
        let bad = Command::new("config").arg(json()).subcommand(below);
        assert_eq!(lost_flags(&bad), ["check --json"]);
    }
}
