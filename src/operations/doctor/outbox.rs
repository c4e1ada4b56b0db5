//! Looks at an outbox: its database, and its relays over NATS. Never judges.

use std::time::Duration;

use futures::{
    FutureExt,
    future::{self, BoxFuture},
};
use tokio::time::timeout;

use super::{Doctor, Figures, Unseen};
use crate::{
    error_text::error_texts,
    nats::Bus,
    outbox::{ElsewhereError, Outbox, OutboxError, RelayInstance, Status, Store},
    policy::{
        issue_kind::IssueKind,
        preflight::{PreflightFigures, StreamFigures},
    },
};

/// How long the database may take for its first answer.
const ANSWERS: Duration = Duration::from_secs(3);
/// How long it may take for its figures: the status waits two seconds when nothing moves.
const FIGURES: Duration = Duration::from_secs(4);

/// The figures of an outbox.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct OutboxFigures {
    /// The schema of the outbox, or the prefix of its tables.
    pub schema: String,
    /// Its state; `None` when the database does not answer, or is of another version.
    pub status: Option<Status>,
    /// The relays that answer over NATS.
    pub relays: Vec<RelayInstance>,
}

/// The outbox that a doctor looks at.
pub(super) struct LookedAt {
    schema: String,
    outbox: Result<Box<dyn Look>, Unseen>,
}

/// What the database has answered.
struct Answers {
    status: Result<Status, Unseen>,
    home: Result<(), Unseen>,
    preflight: Option<Result<PreflightFigures, Unseen>>,
}

impl Answers {
    fn unseen(why: Unseen) -> Self {
        Self {
            status: Err(why),
            home: Ok(()),
            preflight: None,
        }
    }
}

/// An outbox in either database.
trait Look: Send + Sync {
    /// Whether its tables are of this version.
    fn version(&self) -> BoxFuture<'_, Result<(), Unseen>>;
    fn status(&self) -> BoxFuture<'_, Result<Status, Unseen>>;
    /// What the preflight looks at in the database. Of its streams only the names are known.
    fn preflight(&self) -> BoxFuture<'_, Result<PreflightFigures, Unseen>>;
    /// Whether this is the NATS of the outbox.
    fn is_home<'a>(&'a self, bus: &'a Bus) -> BoxFuture<'a, Result<(), Unseen>>;
}

impl Doctor {
    /// Also looks at an outbox and its relays.
    #[must_use]
    pub fn outbox<DB: Store>(mut self, outbox: &Outbox<DB>) -> Self {
        self.outbox = Some(LookedAt {
            schema: outbox.schema().to_owned(),
            outbox: Ok(Box::new(outbox.clone())),
        });
        self
    }

    /// Also asks the relays of an outbox whose database cannot be opened, which `why` explains.
    #[must_use]
    pub fn unseen_outbox(mut self, schema: impl Into<String>, why: Unseen) -> Self {
        self.outbox = Some(LookedAt {
            schema: schema.into(),
            outbox: Err(why),
        });
        self
    }
}

impl LookedAt {
    pub(super) async fn look(&self, bus: Option<&Bus>, is_ahead: bool) -> Figures {
        let (asked, relays) = future::join(self.ask(bus, is_ahead), self.relays(bus)).await;
        let Answers {
            status,
            home,
            preflight,
        } = asked;
        let mut unseen = Vec::new();
        unseen.extend(home.err());
        let preflight = preflight.transpose().map_err(|error| unseen.push(error));
        let status = status.map_err(|error| unseen.push(error)).ok();
        let relays = relays.map_err(|error| unseen.push(error));
        Figures {
            schema: self.schema.clone(),
            outbox: Some(OutboxFigures {
                schema: self.schema.clone(),
                status,
                relays: relays.unwrap_or_default(),
            }),
            preflight: preflight.ok().flatten(),
            unseen,
            ..Figures::default()
        }
    }

    async fn ask(&self, bus: Option<&Bus>, is_ahead: bool) -> Answers {
        let outbox = match &self.outbox {
            Ok(outbox) => outbox,
            Err(why) => return Answers::unseen(why.clone()),
        };
        if let Err(why) = outbox.version().await {
            return Answers::unseen(why);
        }
        let preflight = async {
            match is_ahead {
                true => Some(outbox.preflight().await),
                false => None,
            }
        };
        let home = async {
            match bus {
                Some(bus) => outbox.is_home(bus).await,
                None => Ok(()),
            }
        };
        let (status, home, preflight) = future::join3(outbox.status(), home, preflight).await;
        Answers {
            status,
            home,
            preflight,
        }
    }

    async fn relays(&self, bus: Option<&Bus>) -> Result<Vec<RelayInstance>, Unseen> {
        let Some(bus) = bus else {
            return Ok(Vec::new());
        };
        let asked = RelayInstance::of(bus, &self.schema).await;
        asked.map_err(|error| Unseen::by("the relays", &error))
    }
}

impl<DB: Store> Look for Outbox<DB> {
    fn version(&self) -> BoxFuture<'_, Result<(), Unseen>> {
        within(ANSWERS, self.check_version()).boxed()
    }

    fn status(&self) -> BoxFuture<'_, Result<Status, Unseen>> {
        within(FIGURES, Outbox::status(self)).boxed()
    }

    fn preflight(&self) -> BoxFuture<'_, Result<PreflightFigures, Unseen>> {
        async move {
            let seen = within(FIGURES, Outbox::preflight(self, true)).await;
            let seen = seen.map_err(|unseen| Unseen {
                what: "the settings of the database".to_owned(),
                ..unseen
            })?;
            let named = |name| StreamFigures {
                name,
                ..StreamFigures::default()
            };
            Ok(PreflightFigures {
                streams: seen.streams.into_iter().map(named).collect(),
                database: Some(seen.figures),
                ..PreflightFigures::default()
            })
        }
        .boxed()
    }

    fn is_home<'a>(&'a self, bus: &'a Bus) -> BoxFuture<'a, Result<(), Unseen>> {
        within(ANSWERS, self.check_home(bus)).boxed()
    }
}

async fn within<T>(
    time: Duration,
    reading: impl Future<Output = Result<T, OutboxError>>,
) -> Result<T, Unseen> {
    match timeout(time, reading).await {
        Ok(read) => read.map_err(|error| unseen(&error)),
        Err(_) => Err(Unseen::new(
            WHAT,
            IssueKind::DatabaseSilent,
            format!("the database has not answered within {time:?}"),
            "check whether the database is frozen, overloaded or cut off, and what waits for a lock in \
             pg_stat_activity",
        )),
    }
}

const WHAT: &str = "the outbox";

fn unseen(error: &OutboxError) -> Unseen {
    let of_database =
        |kind: IssueKind, cure: &str| Unseen::new(WHAT, kind, error_texts(error).join(": "), cure);
    match error {
        OutboxError::NotMigrated(_) => Unseen::new(
            WHAT,
            IssueKind::NotMigrated,
            "the database has no outbox in this schema",
            "tidings migrate, or correct database.url or database.schema",
        ),
        OutboxError::Version { is_newer: true, .. } => of_database(
            IssueKind::SchemaNewer,
            "use the program of the newest Tidings version that has migrated the database",
        ),
        OutboxError::Version { .. } => of_database(IssueKind::SchemaOlder, "tidings migrate"),
        OutboxError::Elsewhere(ElsewhereError::Elsewhere(reason)) => Unseen::new(
            WHAT,
            IssueKind::Elsewhere,
            reason,
            "use another nats.url; or tidings outbox use-nats, to relay the outbox into this NATS from now on",
        ),
        OutboxError::Elsewhere(ElsewhereError::Bus(error)) => {
            Unseen::by("whether this is the NATS of the outbox", error)
        }
        OutboxError::Locked { .. } => of_database(
            IssueKind::DatabaseLocked,
            "wait until that transaction ends, or end it",
        ),
        OutboxError::Database(failed) => match failed.diagnosis() {
            Some(told) => of_database(told.kind, told.cure),
            None => of_database(IssueKind::DatabaseFailed, "see the log of the database"),
        },
        _ => of_database(IssueKind::DatabaseFailed, "see the log of the database"),
    }
}
