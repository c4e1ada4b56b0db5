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
}

impl Run {
    pub(super) async fn run(&self, config: &Config) -> Outcome {
        let stop = told_to_stop();
        let database = match self.setup {
            true => Database::open_or_create(config).await?,
            false => Database::open(config).await?,
        };
        let bus = connect(config).await?;
        let directory = Directory::of(&database);
        if self.setup {
            with_outbox!(&database, outbox => outbox.migrate().await)?;
            streams::apply(&bus, config, &events_stream(config)).await?;
            directory
                .create()
                .await
                .map_err(|error| no_directory(&error))?;
        }
        directory
            .check()
            .await
            .map_err(|error| no_directory(&error))?;
        let app = App {
            directory,
            observer: None,
        };
        with_outbox!(database, outbox => work(app, outbox, bus, config, stop).await)
    }
}

async fn work<DB: Store>(
    app: App,
    outbox: Outbox<DB>,
    bus: Bus,
    config: &Config,
    stop: CancellationToken,
) -> Outcome {
    let outbox = outbox.over(&bus);
    Worker::new(bus, app)
        .subscribe(welcome_email())
        .subscribe(user_directory())
        .with(relay(outbox, config))
        .drain_within(config.drain)
        .exit_when_stuck(Exit::Stuck as i32)
        .run(stop.cancelled_owned())
        .await?;
    Ok(())
}

fn no_directory(error: &sqlx::Error) -> Report {
    match database::exit_of(error) {
        Exit::Unreachable => Report::of(Exit::Unreachable, error),
        exit => Report::new(exit, "the table user_directory cannot be used")
            .because(Some(error))
            .cure("tidings run --setup, which creates it"),
    }
}
