//! `tidings demo`: the whole path of events on private servers, with a relay that is killed half way, and a check that
//! counts lost, duplicate and reordered events.

mod directory;
mod judge;
mod load;
mod servers;
mod service;
mod store;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use clap::Args;
use tidings::{Bus, Outbox, Worker};
use tokio_util::sync::CancellationToken;

use super::{
    connect,
    database::{Database, with_outbox},
    output,
    process::Process,
    report::{Exit, Outcome, Report},
    streams, told_to_stop,
};
use directory::Directory;
use judge::{Handled, Judge};
use load::Truth;
use servers::Servers;
use service::{App, events_stream, user_directory, welcome_email};
use store::DemoStore;

/// The most time that the demo waits for an expected step.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Args)]
pub(super) struct Demo {
    /// Use this database instead of the demo's own SQLite file; the demo removes from it what it created
    #[arg(long, value_name = "URL")]
    database: Option<String>,
    /// Leave everything running at the end, and print commands to try
    #[arg(long)]
    keep: bool,
}

impl Demo {
    pub(super) async fn run(&self) -> Outcome {
        let stop = told_to_stop();
        output::line("starting nats-server with sync_interval: always ...")?;
        let servers = Servers::start(self.database.clone()).await?;
        let config = servers.config()?;
        let database = Database::open_or_create(&config).await?;
        let bus = connect(&config).await?;
        streams::apply(&bus, &config, &events_stream()).await?;
        let directory = Directory::of(&database);
        with_outbox!(database, outbox => {
            let stage = Stage { outbox, bus, servers, stop, keep: self.keep, is_told: AtomicBool::new(false) };
            stage.run(directory).await
        })
    }
}

/// Everything that the demo runs on.
struct Stage<DB: DemoStore> {
    outbox: Outbox<DB>,
    bus: Bus,
    servers: Servers,
    stop: CancellationToken,
    keep: bool,
    /// The result was printed, and the demo only keeps running for the user.
    is_told: AtomicBool,
}

impl<DB: DemoStore> Stage<DB> {
    async fn run(self, directory: Directory) -> Outcome {
        let broken = |error: sqlx::Error| Report::of(Exit::Failed, &error);
        DB::set_up(self.outbox.pool()).await.map_err(broken)?;
        self.outbox.migrate().await?;
        directory.create().await.map_err(broken)?;

        let played = tokio::select! {
            played = self.play(directory) => played,
            () = self.interrupted() => Err(Report::new(Exit::Failed, "the demo was interrupted")),
        };
        DB::clean_up(self.outbox.pool()).await.map_err(broken)?;
        self.outbox.pool().close().await;
        played
    }

    async fn play(&self, directory: Directory) -> Outcome {
        let handled = Handled::default();
        let worker = Running::start(self.bus.clone(), directory, handled.clone());
        let mut relay = self.servers.relay()?;
        output::line(
            "writing users and changes of e-mail from 8 tasks, every sixth rolled back ...",
        )?;
        let truth = self.write(&mut relay).await?;
        output::line("waiting until both subscribers have handled everything ...")?;
        let is_complete = judge::until_handled(&handled, &truth, PATIENCE).await;
        let verdict = Judge::new(&truth, &handled).verdict(&self.bus).await?;
        output::table(&verdict.table())?;
        if self.keep && is_complete && verdict.is_clean() {
            self.stay().await?;
        }
        relay.stop().await?;
        worker.stop().await?;
        verdict.outcome()
    }

    /// Writes all transactions. Kills the relay after half of them, and starts another one.
    async fn write(&self, relay: &mut Process) -> Result<Truth, Report> {
        let outbox = self.outbox.clone().notify_via(&self.bus);
        let load = load::Load::new(outbox);
        let half = load.half();
        let writing = load.run();
        let dying = async {
            half.cancelled().await;
            relay.kill().await?;
            output::line("killed the relay (SIGKILL); starting it again ...")?;
            *relay = self.servers.relay()?;
            Ok::<(), Report>(())
        };
        let (truth, died) = tokio::join!(writing, dying);
        died?;
        truth
    }

    /// Completes when the demo is interrupted. After the result was printed, stopping is the normal end and no
    /// interruption.
    async fn interrupted(&self) {
        self.stop.cancelled().await;
        if self.is_told.load(Ordering::Relaxed) {
            std::future::pending().await
        }
    }

    async fn stay(&self) -> Outcome {
        self.is_told.store(true, Ordering::Relaxed);
        let servers = &self.servers;
        let flags = servers.flags();
        output::line("\neverything is still running; in another terminal, try:\n")?;
        for command in [
            "tail 'user.>' --since 5m",
            "publish user.created --data '{\"id\":\"0190e6e4-7a3e-7c3e-9d3e-3b1f0d8a6a11\",\"email\":\"ada@example.org\",\"created_at\":\"2026-01-01T00:00:00Z\"}'",
            "outbox status",
        ] {
            output::line(format!("  tidings {flags} {command}"))?;
        }
        output::line("\nCtrl-C ends it.")?;
        self.stop.cancelled().await;
        Ok(())
    }
}

/// The worker of the demo with its two subscribers, in this process.
struct Running {
    stop: CancellationToken,
    task: tokio::task::JoinHandle<Result<(), tidings::worker::WorkerError>>,
}

impl Running {
    fn start(bus: Bus, directory: Directory, handled: Handled) -> Self {
        let stop = CancellationToken::new();
        let app = App {
            directory,
            observer: Box::new(move |cx| handled.note(cx)),
        };
        let worker = Worker::new(bus, app)
            .subscribe(welcome_email())
            .subscribe(user_directory());
        let task = tokio::spawn(worker.run(stop.clone().cancelled_owned()));
        Self { stop, task }
    }

    async fn stop(self) -> Outcome {
        self.stop.cancel();
        match self.task.await {
            Ok(ended) => Ok(ended?),
            Err(error) => Err(Report::of(Exit::Failed, &error)),
        }
    }
}

/// A value that several tasks share.
type Shared<T> = Arc<std::sync::Mutex<T>>;

/// Locks a shared value. A panic in another task leaves the notes valid.
fn locked<T>(shared: &Shared<T>) -> std::sync::MutexGuard<'_, T> {
    shared
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}
