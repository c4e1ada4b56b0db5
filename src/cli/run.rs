//! `tidings run`: the reference worker, as a service of one's own would be put together.

use clap::Args;
use tidings::{Bus, Outbox, Store, Worker};
use tokio_util::sync::CancellationToken;

use super::{
    connect,
    database::{self, Database, with_outbox},
    reference::{App, Directory, events_stream, user_directory, welcome_email},
    relay::relay,
    report::{Exit, Outcome, Report},
    streams, told_to_stop,
};
use crate::config::Config;

#[derive(Args)]
pub(super) struct Run {
    /// First migrate the database, apply the streams and create the table user_directory
    #[arg(long)]
    setup: bool,
    /// Do what --setup does, and end
    #[arg(long, conflicts_with_all = ["setup", "subscriber"])]
    only_setup: bool,
    /// Run this subscriber alone, and no relay, which is `tidings relay` then; may be given more than once
    #[arg(long, value_name = "NAME", value_parser = SUBSCRIBERS)]
    subscriber: Vec<String>,
}

const WELCOME_EMAIL: &str = "welcome-email";
const USER_DIRECTORY: &str = "user-directory";
const SUBSCRIBERS: [&str; 2] = [WELCOME_EMAIL, USER_DIRECTORY];

impl Run {
    pub(super) async fn run(&self, config: &Config) -> Outcome {
        let stop = told_to_stop();
        let sets_up = self.setup || self.only_setup;
        let database = match sets_up {
            true => Database::open_or_create(config).await?,
            false => Database::open(config).await?,
        };
        let bus = connect(config).await?;
        let directory = Directory::of(&database);
        if sets_up {
            with_outbox!(&database, outbox => outbox.migrate().await)?;
            streams::apply(&bus, config, &events_stream(config)).await?;
            directory
                .create()
                .await
                .map_err(|error| no_directory(&error))?;
        }
        if self.only_setup {
            return Ok(());
        }
        if self.runs(USER_DIRECTORY) {
            let checked = directory.check().await;
            checked.map_err(|error| no_directory(&error))?;
        }
        let app = App {
            directory,
            observer: None,
        };
        with_outbox!(database, outbox => self.work(app, outbox, bus, config, stop).await)
    }

    async fn work<DB: Store>(
        &self,
        app: App,
        outbox: Outbox<DB>,
        bus: Bus,
        config: &Config,
        stop: CancellationToken,
    ) -> Outcome {
        let outbox = outbox.over(&bus);
        let mut worker = Worker::new(bus, app)
            .drain_within(config.drain)
            .exit_when_stuck(Exit::Stuck as i32);
        if self.runs(WELCOME_EMAIL) {
            worker = worker.subscribe(welcome_email());
        }
        if self.runs(USER_DIRECTORY) {
            worker = worker.subscribe(user_directory());
        }
        if self.subscriber.is_empty() {
            worker = worker.with(relay(outbox, config));
        }
        worker.run(stop.cancelled_owned()).await?;
        Ok(())
    }

    /// Whether it runs a subscriber: all, unless some are named.
    fn runs(&self, subscriber: &str) -> bool {
        self.subscriber.is_empty() || self.subscriber.iter().any(|name| name == subscriber)
    }
}

fn no_directory(error: &sqlx::Error) -> Report {
    match database::exit_of(error) {
        Exit::Unreachable => Report::of(Exit::Unreachable, error),
        exit => Report::new(exit, "the table user_directory cannot be used")
            .because(Some(error))
            .cure("tidings run --setup, which creates it"),
    }
}
