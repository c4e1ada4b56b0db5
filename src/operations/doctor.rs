//! Gathers the figures that [`judge`](crate::judge::judge) judges: the database and NATS are asked side by side, and
//! what does not answer is named. Never judges, and changes nothing.
//!
//! ```no_run
//! use tidings::{Bus, doctor::Doctor, judge::judge};
//!
//! # async fn example(bus: Bus) {
//! let verdict = judge(&Doctor::new(&bus).look().await);
//! println!("{}, {} findings", verdict.status, verdict.findings.len());
//! # }
//! ```

#[cfg(feature = "outbox")]
mod outbox;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use chrono::{DateTime, Utc};
use futures::future;
use serde::Serialize;
use tokio::time::timeout;

use super::{
    preflight::PreflightRequest,
    subscribers::{SubscriberOverview, Subscribers},
};
use crate::{
    instance::shortened,
    nats::{Bus, BusError, Park},
    policy::{issue_kind::IssueKind, preflight::PreflightFigures},
};
#[cfg(feature = "outbox")]
use outbox::LookedAt;
#[cfg(feature = "outbox")]
pub use outbox::OutboxFigures;

/// The longest that NATS may take for all questions; instances answer each within two seconds.
const NATS: Duration = Duration::from_secs(7);
/// What NATS could not tell, when it does not answer.
const SUBSCRIBERS: &str = "the subscribers";

/// Looks at an outbox and at subscribers.
pub struct Doctor {
    bus: Result<Bus, Unseen>,
    /// The outbox; it may be one whose database cannot be opened.
    #[cfg(feature = "outbox")]
    outbox: Option<LookedAt>,
    sees_subscribers: bool,
    pub(super) preflight: PreflightRequest,
}

/// The figures of one look.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Figures {
    /// When they were taken.
    pub at: DateTime<Utc>,
    /// The schema of the outbox; empty without one.
    pub schema: String,
    /// The outbox and its relays; `None` when no outbox was named.
    #[cfg(feature = "outbox")]
    pub outbox: Option<OutboxFigures>,
    /// The subscribers; `None` when they were not requested, or could not be seen.
    pub subscribers: Option<SubscriberOverview>,
    /// How many dead letters wait, by subscriber.
    pub dead_letters: BTreeMap<String, u64>,
    /// The parked keys, by subscriber.
    pub parked_keys: BTreeMap<String, ParkedKeys>,
    /// What the preflight looks at; `None` when it was not requested.
    pub preflight: Option<PreflightFigures>,
    /// The checks of the preflight that are silenced.
    pub allowed: BTreeSet<IssueKind>,
    /// What could not be seen, or is of another version.
    pub unseen: Vec<Unseen>,
}

/// The parked keys of a subscriber.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ParkedKeys {
    /// How many there are.
    pub count: u64,
    /// A few of them.
    pub some: Vec<ParkedBy>,
}

/// A parked key, and the event that has parked it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ParkedBy {
    /// The key.
    pub key: String,
    /// When the key was parked.
    pub since: DateTime<Utc>,
    /// The stream of the event.
    pub stream: String,
    /// Its sequence there.
    pub sequence: u64,
    /// The cause of its dead letter.
    pub cause: String,
    /// The error.
    pub error: String,
}

/// What was read over NATS of the subscribers.
struct OfNats {
    overview: Result<SubscriberOverview, Unseen>,
    dead_letters: Result<BTreeMap<String, u64>, Unseen>,
    parked_keys: Result<BTreeMap<String, ParkedKeys>, Unseen>,
}

/// Something that could not be seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Unseen {
    /// What.
    pub what: String,
    /// The kind of the reason.
    pub kind: IssueKind,
    /// The reason.
    pub why: String,
    /// What to do about it.
    pub cure: String,
}

impl Unseen {
    /// What could not be seen, the kind of the reason, the reason, and what to do.
    #[must_use]
    pub fn new(
        what: impl Into<String>,
        kind: IssueKind,
        why: impl Into<String>,
        cure: impl Into<String>,
    ) -> Self {
        Self {
            what: what.into(),
            kind,
            why: why.into(),
            cure: cure.into(),
        }
    }

    pub(super) fn by(what: impl Into<String>, error: &BusError) -> Self {
        Self::new(what, error.issue_kind(), error.to_string(), error.cure())
    }

    pub(super) fn silent(what: impl Into<String>) -> Self {
        Self::new(
            what,
            IssueKind::NatsSilent,
            format!("NATS has not answered within {NATS:?}"),
            "see whether that nats-server is frozen or overloaded, and whether the streams have leaders: nats server \
             report jetstream",
        )
    }
}

impl Doctor {
    /// Looks at the subscribers that are reached over a connection.
    #[must_use]
    pub fn new(bus: &Bus) -> Self {
        Self {
            bus: Ok(bus.clone()),
            #[cfg(feature = "outbox")]
            outbox: None,
            sees_subscribers: true,
            preflight: PreflightRequest::default(),
        }
    }

    /// Looks at an outbox alone; `why` says why NATS cannot be reached.
    #[must_use]
    pub fn without_nats(why: Unseen) -> Self {
        Self {
            bus: Err(why),
            #[cfg(feature = "outbox")]
            outbox: None,
            sees_subscribers: true,
            preflight: PreflightRequest::default(),
        }
    }

    /// Does not look at the subscribers.
    #[must_use]
    pub fn without_subscribers(mut self) -> Self {
        self.sees_subscribers = false;
        self
    }

    /// Looks, and takes seven seconds at most, or ten with the preflight. What does not answer is in [`Figures::unseen`],
    /// and hides nothing else.
    pub async fn look(&self) -> Figures {
        let (mut figures, nats) = future::join(self.ask_outbox(), self.ask_nats()).await;
        figures.unseen.extend(self.bus.as_ref().err().cloned());
        if let Some(nats) = nats {
            let mut seen = |why| figures.unseen.push(why);
            figures.subscribers = nats.overview.map_err(&mut seen).ok();
            let dead_letters = nats.dead_letters.map_err(&mut seen);
            figures.dead_letters = dead_letters.unwrap_or_default();
            let parked = nats.parked_keys.map_err(&mut seen);
            figures.parked_keys = parked.unwrap_or_default();
        }
        if self.preflight.is_wanted {
            self.look_ahead(self.bus.as_ref().ok(), &mut figures).await;
        }
        figures.at = Utc::now();
        figures
    }

    /// The figures of the outbox alone.
    async fn ask_outbox(&self) -> Figures {
        #[cfg(feature = "outbox")]
        if let Some(outbox) = &self.outbox {
            let bus = self.bus.as_ref().ok();
            return outbox.look(bus, self.preflight.is_wanted).await;
        }
        Figures::default()
    }

    /// The subscribers, and the dead letters and parked keys of each.
    async fn ask_nats(&self) -> Option<OfNats> {
        let bus = self.bus.as_ref().ok().filter(|_| self.sees_subscribers)?;
        let subscribers = Subscribers::new(bus);
        let overview = async {
            let overview = timeout(NATS, subscribers.overview()).await;
            overview.map_err(|_| Unseen::silent(SUBSCRIBERS))
        };
        let dead_letters = within("the dead letters", bus.dead_letters_by_subscriber());
        let parked = within("the parked keys", bus.park_signs());
        let (overview, dead_letters, parked) = future::join3(overview, dead_letters, parked).await;
        let parked = parked.map(BTreeMap::into_iter);
        Some(OfNats {
            overview,
            dead_letters,
            parked_keys: parked.map(|all| {
                let each = all.map(|(name, (count, parks))| {
                    let some = parks.into_iter().map(ParkedBy::from).collect();
                    (name, ParkedKeys { count, some })
                });
                each.collect()
            }),
        })
    }
}

async fn within<T>(
    what: &str,
    asking: impl Future<Output = Result<T, BusError>>,
) -> Result<T, Unseen> {
    match timeout(NATS, asking).await {
        Ok(told) => told.map_err(|error| Unseen::by(what, &error)),
        Err(_) => Err(Unseen::silent(what)),
    }
}

impl From<Park> for ParkedBy {
    fn from(park: Park) -> Self {
        Self {
            key: shortened(&park.key),
            since: park.since,
            stream: park.head.stream,
            sequence: park.head.sequence,
            cause: park.head.cause,
            error: park.head.error,
        }
    }
}
