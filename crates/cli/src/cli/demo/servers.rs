//! The servers of the demo, and the settings with which its processes reach them.

use std::{io, process::Stdio};

use tidings_test_servers::NatsServer;

use crate::{
    cli::{
        folder::Folder,
        process::Process,
        report::{Exit, Report},
    },
    config::{Config, DATABASE_URL, Flags, NATS_URL, SCHEMA},
};

/// The schema of the demo in a given database.
const SCHEMA_OF_DEMO: &str = "tidings_demo";

pub(super) struct Servers {
    nats: NatsServer,
    database: String,
    schema: &'static str,
    folder: Option<Folder>,
}

impl Servers {
    pub(super) async fn start(database: Option<String>) -> Result<Self, Report> {
        let nats = NatsServer::options()
            .sync_always(true)
            .start()
            .await
            .map_err(|error| Report::of(Exit::Unreachable, &error))?;
        let (database, schema, folder) = match database {
            Some(url) => (url, SCHEMA_OF_DEMO, None),
            None => {
                let folder = Folder::new("demo")?;
                let url = format!("sqlite:{}", folder.path().join("demo.db").display());
                (url, "tidings", Some(folder))
            }
        };
        Ok(Self {
            nats,
            database,
            schema,
            folder,
        })
    }

    /// The configuration of the demo: only its own servers, regardless of the other configuration.
    pub(super) fn config(&self) -> Result<Config, Report> {
        let values = vec![
            (&NATS_URL, "--nats-url", self.nats.url()),
            (&DATABASE_URL, "--database", self.database.clone()),
            (&SCHEMA, "--schema", self.schema.to_owned()),
        ];
        Ok(Config::of_flags(Flags { file: None, values })?)
    }

    /// Starts the relay in its own process, so that the demo can kill it.
    pub(super) fn relay(&self) -> io::Result<Process> {
        Process::start(&["relay"], &self.environment(), Stdio::null())
    }

    /// The settings for a process of the demo. Not as flags, which other users can see: a URL may contain a password.
    fn environment(&self) -> [(&'static str, String); 4] {
        [
            ("TIDINGS_NATS_URL", self.nats.url()),
            ("TIDINGS_DATABASE_URL", self.database.clone()),
            ("TIDINGS_SCHEMA", self.schema.to_owned()),
            ("TIDINGS_RELAY_LEASE", "1s".to_owned()),
        ]
    }

    /// The settings as flags, for the user.
    pub(super) fn flags(&self) -> String {
        let database = match self.folder {
            Some(_) => format!(" --database-url {}", self.database),
            None => " --database-url <as given> --schema tidings_demo".to_owned(),
        };
        format!("--nats-url {}{database}", self.nats.url())
    }
}
