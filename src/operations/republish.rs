//! Republishes rows that the outbox still keeps: the requested ones, in the order in which they were written. Never
//! publishes a row before the relay has, and never twice into a stream unless that is forced.

mod held;
mod late;
mod ledger;
mod sift;

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::Serialize;
use tokio::{sync::mpsc, task::JoinSet};

use crate::{
    nats::Bus,
    outbox::{Outbox, Range, RepublishError, Sender, Sending, Store},
    policy::rate::Rate,
};
use sift::Sift;

/// How many chunks of rows may wait to be read or sent.
const AHEAD: usize = 1;

/// Publishes rows of the outbox again; by default only those that their streams do not hold.
///
/// ```no_run
/// use tidings::{Bus, Outbox, Rate, republish::Republish};
///
/// # async fn example(bus: Bus, outbox: Outbox<sqlx::Postgres>) -> Result<(), tidings::outbox::RepublishError> {
/// let done = Republish::new(&bus, &outbox)
///     .since(chrono::Utc::now() - chrono::TimeDelta::hours(2))
///     .name("user.created")
///     .rate_limit(Rate::per_second(500))
///     .run()
///     .await?;
/// println!("{} of {} were missing", done.events(), done.rows);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Republish<DB: Store> {
    bus: Bus,
    outbox: Outbox<DB>,
    range: Range,
    is_missing_only: bool,
    prefix: Option<String>,
    rate: Option<Rate>,
    is_forced: bool,
}

/// What was republished, or would be.
#[derive(Debug, Clone, Default, Serialize)]
#[non_exhaustive]
pub struct Republished {
    /// The requested rows that the outbox keeps and that the relay has passed.
    pub rows: u64,
    /// How many of them the streams already hold; not counted where that makes no difference.
    pub stored: u64,
    /// How many of them have an id under which their stream holds another event. They are left out; when forced,
    /// they are stored in addition to it.
    pub duplicate_ids: u64,
    /// How many of them no stream has ever confirmed: `outbox discard` leaves such rows. They are left out. Also
    /// counts rows whose name or version no event can have; they are left out even when forced.
    pub unconfirmed: u64,
    /// How many of them are to be published.
    pub wanted: u64,
    /// The row id of the first one.
    pub first: Option<i64>,
    /// The row id of the last one.
    pub last: Option<i64>,
    /// How many of them will lie behind later events of their key in the stream, at most.
    pub late: u64,
    /// How many were published, by stream.
    pub republished: BTreeMap<String, u64>,
    /// Rows that the outbox has freed meanwhile, or that are no events; the log names the latter.
    pub gone: u64,
}

impl Republished {
    /// How many events were republished.
    #[must_use]
    pub fn events(&self) -> u64 {
        self.republished.values().sum()
    }
}

impl<DB: Store> Republish<DB> {
    /// Selects everything that the outbox keeps.
    #[must_use]
    pub fn new(bus: &Bus, outbox: &Outbox<DB>) -> Self {
        Self {
            bus: bus.clone(),
            outbox: outbox.clone(),
            range: Range::default(),
            is_missing_only: false,
            prefix: None,
            rate: None,
            is_forced: false,
        }
    }

    /// Only rows that were written at this time or later.
    #[must_use]
    pub fn since(mut self, time: DateTime<Utc>) -> Self {
        self.range.since = Some(time);
        self
    }

    /// Only rows that were written at this time or before.
    #[must_use]
    pub fn until(mut self, time: DateTime<Utc>) -> Self {
        self.range.until = Some(time);
        self
    }

    /// Only rows from this row id on.
    #[must_use]
    pub fn from_row(mut self, id: i64) -> Self {
        self.range.first = id;
        self
    }

    /// Only rows up to this row id.
    #[must_use]
    pub fn to_row(mut self, id: i64) -> Self {
        self.range.last = id;
        self
    }

    /// Only events of this name; call it again for another one.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.range.names.push(name.into());
        self
    }

    /// Only events of this key.
    #[must_use]
    pub fn key(mut self, key: impl Into<String>) -> Self {
        self.range.key = Some(key.into());
        self
    }

    /// Only events that the target stream does not hold. For the events' own streams that is the default.
    #[must_use]
    pub fn missing(mut self) -> Self {
        self.is_missing_only = true;
        self
    }

    /// Publishes under the subjects `prefix.name`, which a stream has to take, instead of the events' own.
    #[must_use]
    pub fn into_prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = Some(prefix.into());
        self
    }

    /// Publishes at most at this rate; the default is no limit.
    #[must_use]
    pub fn rate_limit(mut self, rate: Rate) -> Self {
        self.rate = Some(rate);
        self
    }

    /// Also publishes events that a stream already holds: it then has them twice, and consumers without an inbox
    /// handle them twice.
    #[must_use]
    pub fn force(mut self) -> Self {
        self.is_forced = true;
        self
    }

    /// Returns what [`Republish::run`] would publish.
    ///
    /// # Errors
    /// [`RepublishError`] when that cannot be determined, or no stream takes a subject.
    pub async fn dry_run(&self) -> Result<Republished, RepublishError> {
        Sift::begin(self.shared(), None).await?.run().await
    }

    /// Publishes, and returns when everything is stored and in the ledger. The relay may run meanwhile. The first
    /// rows found are published while the search continues.
    ///
    /// # Errors
    /// [`RepublishError`]; what was published until then stays. Without [`Republish::force`] the same call again
    /// continues with the rest.
    ///
    /// # Cancel safety
    /// Messages in flight may be stored.
    pub async fn run(&self) -> Result<Republished, RepublishError> {
        let sending = Sending {
            prefix: self.prefix.clone(),
            is_forced: self.is_forced || self.prefix.is_some() && !self.is_missing_only,
            interval: self.rate.map(Rate::interval),
        };
        let mut sender = Sender::begin(&self.bus, &self.outbox, sending).await?;
        let sent = self.send(&mut sender).await;
        let ended = sender.end().await;
        let mut told = sent?;
        told.republished = ended?;
        Ok(told)
    }

    async fn send(&self, sender: &mut Sender<DB>) -> Result<Republished, RepublishError> {
        let (to, wanted) = mpsc::channel(AHEAD);
        let sift = Sift::begin(self.shared(), Some(to)).await?;
        let mut sifting = JoinSet::new();
        sifting.spawn(sift.run());
        let gone = sender.send(wanted).await?;
        let mut told = match sifting.join_next().await {
            Some(Ok(told)) => told?,
            Some(Err(error)) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            // No other code cancels the task.
            _ => Republished::default(),
        };
        told.gone = gone;
        Ok(told)
    }

    fn shared(&self) -> Self {
        Self {
            bus: self.bus.clone(),
            outbox: self.outbox.clone(),
            range: self.range.clone(),
            is_missing_only: self.is_missing_only,
            prefix: self.prefix.clone(),
            rate: self.rate,
            is_forced: self.is_forced,
        }
    }

    /// Whether it matters what the streams already hold.
    fn looks(&self) -> bool {
        !self.is_forced && (self.prefix.is_none() || self.is_missing_only)
    }

    /// Whether every row behind the first one of the range is in the range, or of another key.
    fn sees_what_follows(&self) -> bool {
        let range = &self.range;
        let is_open = range.last == i64::MAX && range.since.is_none() && range.until.is_none();
        is_open && range.names.is_empty() && self.prefix.is_none()
    }
}
