//! What a relay reports of itself over NATS, in answer to `tidings.status.relay.<outbox>`; also what it cannot write
//! into the database. Stores nothing, and never delays the relay's work.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures::StreamExt;
use serde::{Deserialize, Serialize};

mod source;

use super::{
    RelayControl, RelaySettings,
    issue::{CONFIGURATION, Issues},
};
use crate::{
    instance::Activity,
    log::Lasting,
    nats::{Bus, BusError, NatsIdentity, subjects},
    outbox::{
        Outbox, Store,
        store::status::{Issue, StoredIssue},
    },
};
use source::Moves;

/// The pause before the relay subscribes again.
const PAUSE: Duration = Duration::from_secs(1);

/// A process that runs a relay, as it was when it answered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct RelayInstance {
    /// The schema of the outbox, or the prefix of its tables.
    pub outbox: String,
    /// Its name as the owner of the lease: host, process, and a part that is unique to this relay.
    pub owner: String,
    /// The version of Tidings that it runs.
    pub version: String,
    /// The kind of its database.
    pub database: DatabaseKind,
    /// When it started.
    pub started_at: DateTime<Utc>,
    /// What it is doing. It is starting while it cannot take the lease because the database or NATS fails.
    pub activity: Activity,
    /// The epoch of its lease, while it holds the lease.
    pub epoch: Option<i64>,
    /// When it last wrote to the database that events were confirmed.
    pub confirmed_at: Option<DateTime<Utc>>,
    /// The NATS that it is connected to.
    pub nats: NatsIdentity,
    /// What hinders it.
    pub issues: Vec<Issue>,
    /// Its settings; `None` of an earlier version.
    #[serde(default)]
    pub settings: Option<RelaySettings>,
}

/// The kind of a database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum DatabaseKind {
    /// PostgreSQL.
    Postgres,
    /// SQLite.
    Sqlite,
    /// A kind that a later version of Tidings has added.
    #[serde(other)]
    Unknown,
}

impl DatabaseKind {
    /// The word for status and logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Postgres => "postgres",
            Self::Sqlite => "sqlite",
            Self::Unknown => "unknown",
        }
    }

    fn named(word: &str) -> Self {
        let mut known = [Self::Postgres, Self::Sqlite].into_iter();
        known
            .find(|kind| kind.as_str() == word)
            .unwrap_or(Self::Unknown)
    }
}

impl fmt::Display for DatabaseKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Written by the relay, read by status requests.
pub(super) struct Reporter {
    facts: RelayInstance,
    control: Arc<RelayControl>,
    issues: Issues,
    now: Mutex<Now>,
    moves: Mutex<Moves>,
}

struct Now {
    activity: Activity,
    epoch: Option<i64>,
    confirmed_at: Option<DateTime<Utc>>,
}

impl Reporter {
    pub(super) fn new(
        database: &str,
        owner: &str,
        control: &Arc<RelayControl>,
        issues: &Issues,
    ) -> Self {
        Self {
            facts: RelayInstance {
                outbox: control.outbox().to_owned(),
                owner: owner.to_owned(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                database: DatabaseKind::named(database),
                started_at: Utc::now(),
                activity: Activity::Starting,
                epoch: None,
                confirmed_at: None,
                nats: NatsIdentity::default(),
                issues: Vec::new(),
                settings: None,
            },
            control: Arc::clone(control),
            issues: issues.clone(),
            moves: Mutex::new(Moves::new(Instant::now())),
            now: Mutex::new(Now {
                activity: Activity::Starting,
                epoch: None,
                confirmed_at: None,
            }),
        }
    }

    /// This relay has the lease.
    pub(super) fn works(&self, epoch: i64) {
        let mut now = self.now();
        now.activity = Activity::Active;
        now.epoch = Some(epoch);
        drop(now);
        self.moves().is_interrupted();
    }

    /// Another relay has the lease.
    pub(super) fn stands_by(&self) {
        self.is(Activity::Standby);
        self.moves().stands_by(Instant::now());
    }

    /// This relay is interrupted.
    pub(super) fn begins(&self) {
        self.is(Activity::Starting);
        self.moves().is_interrupted();
    }

    /// A checkpoint with confirmed events was written.
    pub(super) fn confirmed(&self) {
        self.now().confirmed_at = Some(Utc::now());
    }

    /// The issue of the configuration, if there is one.
    pub(super) fn configuration(&self) -> Option<StoredIssue> {
        self.control.issue()
    }

    fn is(&self, activity: Activity) {
        let mut now = self.now();
        now.activity = activity;
        now.epoch = None;
    }

    /// Answers status requests, as long as it is polled.
    pub(super) async fn answer(self: Arc<Self>, bus: Bus) {
        let subject = subjects::relay_status(&self.facts.outbox);
        let unanswered = Lasting::default();
        loop {
            match bus.questions(&subject).await {
                Ok(mut questions) => {
                    while let Some(question) = questions.next().await {
                        // Strings and numbers always serialise.
                        let told = serde_json::to_vec(&self.told(&bus)).unwrap_or_default();
                        question.answer(Bytes::from(told)).await;
                    }
                }
                Err(error) => {
                    let error = error.to_string();
                    if let Some(unsaid) = unanswered.again_as(&error, Instant::now()) {
                        tracing::warn!(
                            subject,
                            error,
                            unsaid,
                            "relay status unavailable: requests are not received"
                        );
                    }
                }
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    fn told(&self, bus: &Bus) -> RelayInstance {
        let now = self.now();
        let mut issues = self.issues.all();
        issues.extend(
            self.configuration()
                .map(|issue| issue.at(CONFIGURATION.into())),
        );
        RelayInstance {
            activity: now.activity,
            epoch: now.epoch,
            confirmed_at: now.confirmed_at,
            nats: bus.identity(),
            issues,
            settings: Some(self.control.settings()),
            ..self.facts.clone()
        }
    }

    fn now(&self) -> MutexGuard<'_, Now> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RelayInstance {
    /// Returns the relays of an outbox that answer over NATS within two seconds, without its database. `schema` is
    /// what [`Outbox::in_schema`] takes, `tidings` by default.
    ///
    /// # Errors
    /// [`BusError`] when NATS does not answer or refuses.
    pub async fn of(bus: &Bus, schema: &str) -> Result<Vec<Self>, BusError> {
        let answers = bus.scatter_gather(&subjects::relay_status(schema)).await?;
        // An answer of another form is not from a relay.
        let read = |answer: &Bytes| serde_json::from_slice::<Self>(answer).ok();
        let mut relays: Vec<Self> = answers.iter().filter_map(read).collect();
        relays.sort_by(|a, b| (a.started_at, &a.owner).cmp(&(b.started_at, &b.owner)));
        Ok(relays)
    }
}

impl<DB: Store> Outbox<DB> {
    /// Returns the relays of this outbox that answer over NATS within two seconds. The database is not read: the
    /// answers include what a relay could not write there.
    ///
    /// # Errors
    /// [`BusError`] when NATS does not answer or refuses.
    pub async fn relays(&self, bus: &Bus) -> Result<Vec<RelayInstance>, BusError> {
        RelayInstance::of(bus, self.shared.names.schema()).await
    }
}
