//! The servers of a measurement: started for it, or given on the command line.

use std::{process::Stdio, time::Duration};

use anyhow::Context as _;
use async_nats::jetstream;
use tidings::{Bus, NatsOptions, Outbox, StreamSpec, event::Pattern};
use tidings_test_servers::{NatsServer, PostgresServer};

use super::{
    observed::{ObserveOptions, Observed},
    store::{BenchStore, SCHEMA},
};
use crate::cli::{folder::Folder, process::Process};

/// The stream of the measured job, and the stream of the limit.
pub(super) const STREAM: &str = "TIDINGS_BENCH";
pub(super) const RAW_STREAM: &str = "TIDINGS_BENCH_RAW";
pub(super) const RAW_SUBJECT: &str = "bench-raw.written";

/// Given servers.
#[derive(Debug, Default)]
pub(super) struct Given {
    pub(super) nats: Option<Vec<String>>,
    pub(super) database: Option<String>,
    /// What is observed.
    pub(super) observe: ObserveOptions,
}

pub(super) struct World<DB: BenchStore> {
    pub(super) bus: Bus,
    pub(super) outbox: Outbox<DB>,
    /// The plain client, for the limit.
    pub(super) client: async_nats::Client,
    pub(super) servers: &'static str,
    pub(super) observed: Observed,
    nats_urls: Vec<String>,
    database_url: String,
    nats: Option<NatsServer>,
    postgres: Option<PostgresServer>,
    folder: Option<Folder>,
}

impl<DB: BenchStore> World<DB> {
    pub(super) async fn start(given: Given) -> anyhow::Result<Self> {
        let servers = match (&given.nats, &given.database) {
            (None, None) => "started for this run: fsync on, sync_interval always",
            _ => "given",
        };
        let mut world_nats = None;
        let nats_urls = match given.nats {
            Some(urls) => urls,
            None => {
                let server = NatsServer::options().sync_always(true).start().await?;
                vec![world_nats.insert(server).url()]
            }
        };
        let (mut postgres, mut folder) = (None, None);
        let database_url = match given.database {
            Some(url) => url,
            None if DB::KIND == "postgres" => postgres.insert(PostgresServer::start().await?).url(),
            None => {
                let file = folder.insert(Folder::new("bench")?).path().join("bench.db");
                format!("sqlite:{}", file.display())
            }
        };
        let bus = Bus::connect(NatsOptions::servers(nats_urls.clone())).await?;
        let outbox = DB::connect(&database_url).await?.notify_via(&bus);
        DB::prepare(outbox.pool()).await?;
        outbox.migrate().await?;
        let world = Self {
            observed: Observed::begin(given.observe, &outbox)?,
            bus,
            outbox,
            client: async_nats::connect(nats_urls.clone()).await?,
            servers,
            nats_urls,
            database_url,
            nats: world_nats,
            postgres,
            folder,
        };
        world.delete_streams().await?;
        for (name, subject) in [(STREAM, "bench.>"), (RAW_STREAM, "bench-raw.>")] {
            let spec = StreamSpec::new(name, [Pattern::parse(subject)?])?;
            world.bus.apply_stream(&spec).await?;
        }
        for spec in StreamSpec::internal() {
            world.bus.apply_stream(&spec).await?;
        }
        Ok(world)
    }

    /// Removes everything that the measurement created.
    pub(super) async fn end(self) -> anyhow::Result<()> {
        self.delete_streams().await?;
        DB::clean_up(self.outbox.pool()).await?;
        self.outbox.pool().close().await;
        drop((self.nats, self.postgres, self.folder));
        Ok(())
    }

    /// Starts this program in another process, on the same servers, with a pipe as stdout.
    pub(super) fn process(&self, arguments: &[&str]) -> std::io::Result<Process> {
        // Not as flags, which other users can see: a URL may contain a password.
        let environment = [
            ("TIDINGS_NATS_URL", self.nats_urls.join(",")),
            ("TIDINGS_DATABASE_URL", self.database_url.clone()),
            ("TIDINGS_SCHEMA", SCHEMA.to_owned()),
        ];
        Process::start(arguments, &environment, Stdio::piped())
    }

    pub(super) fn jetstream(&self) -> jetstream::Context {
        jetstream::new(self.client.clone())
    }

    /// Deletes the measured stream, and recreates it.
    pub(super) async fn lose_the_stream(&self) -> anyhow::Result<()> {
        self.jetstream().delete_stream(STREAM).await?;
        let spec = StreamSpec::new(STREAM, [Pattern::parse("bench.>")?])?;
        self.bus.apply_stream(&spec).await?;
        Ok(())
    }

    /// How many messages a stream holds.
    pub(super) async fn stored(&self, stream: &str) -> anyhow::Result<u64> {
        let stream = self.jetstream().get_stream(stream).await?;
        Ok(stream.cached_info().state.messages)
    }

    /// Empties a stream between two measurements.
    pub(super) async fn purge(&self, stream: &str) -> anyhow::Result<()> {
        self.jetstream().get_stream(stream).await?.purge().await?;
        Ok(())
    }

    /// Waits until a stream holds this many messages.
    pub(super) async fn until_stored(&self, stream: &str, events: u64) -> anyhow::Result<()> {
        let reached = async {
            while self.stored(stream).await? < events {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            anyhow::Ok(())
        };
        tokio::time::timeout(Duration::from_secs(600), reached)
            .await
            .with_context(|| format!("{events} events were not stored within 10 min"))?
    }

    async fn delete_streams(&self) -> anyhow::Result<()> {
        use jetstream::{ErrorCode, context::DeleteStreamErrorKind};
        for stream in [STREAM, RAW_STREAM] {
            match self.jetstream().delete_stream(stream).await {
                Ok(_) => {}
                Err(error) => match error.kind() {
                    DeleteStreamErrorKind::JetStream(error)
                        if error.error_code() == ErrorCode::STREAM_NOT_FOUND => {}
                    _ => return Err(error.into()),
                },
            }
        }
        Ok(())
    }
}
