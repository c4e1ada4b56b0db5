//! The relay: carries what was committed into its stream, in order, once. This file owns its life:
//! lease, resume, pipeline, end. Never reads a row or sends a message itself.
//!
//! ```text
//! outbox ─ fetch ─> pages ─ route ─> a lane a stream ─ atomic batches ─> JetStream
//!                                         │ confirmed, parked
//!            checkpoint, lease <─ keeper <┘
//! ```
//!
//! There is one way to begin, whether after a start, a fault or a take-over: take the lease, read what
//! the streams hold behind the last checkpoint, go on behind the cursor and leave out what was found.

mod agenda;
#[cfg(feature = "failpoints")]
pub mod failpoint;
#[cfg(not(feature = "failpoints"))]
mod failpoint;
mod fetch;
mod janitor;
mod keeper;
mod lane;
mod progress;
mod route;
mod stand_by;

use std::{collections::HashMap, time::Duration};

use futures::{FutureExt, future::BoxFuture};
use tokio::{sync::mpsc, task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{
    Outbox, Store,
    origin::{Origin, REBASE, STANDBY},
    store::{Claim, Cursor, Position, Positions, Statements, Tenure},
};
use crate::{
    background::Background,
    bus::{Bus, BusError, Found, ReaderError, Refusal, StreamState},
};
use fetch::Fetcher;
use keeper::Keeper;
use lane::{Fence, Parking};
use progress::Report;
use route::Router;
use stand_by::StandBy;

/// Pages that are fetched ahead of what is being sent.
const PAGES_AHEAD: usize = 2;
/// Reports that the keeper may be behind.
const REPORTS: usize = 256;
/// The pauses after a fault.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Moves the outbox into the stream. Give it to a [`Worker`](crate::Worker), or run it alone.
///
/// Any number may run; one works, the others stand by and take over within the lease.
pub struct Relay<DB: Store> {
    outbox: Outbox<DB>,
    settings: Settings,
}

/// What can be set.
#[derive(Debug, Clone)]
struct Settings {
    owner: String,
    lease: Duration,
    batch: usize,
    retention: Duration,
    unbound_grace: Duration,
}

/// Why a relay can never work as it is.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RelayError {
    /// The tables are not there.
    #[error("the database has no outbox: run `tidings migrate`, or call `Outbox::migrate`")]
    NotMigrated(#[source] sqlx::Error),
    /// The database is a copy, made by dump and restore or row by row.
    #[error("{reason}; {REBASE}")]
    Foreign {
        /// How that shows.
        reason: String,
    },
}

/// What interrupts the relay; it begins again after a pause.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    #[error("the database failed: {0}")]
    Database(#[from] sqlx::Error),
    #[error(transparent)]
    Bus(#[from] BusError),
    #[error("{error}: {cause}", error = .0, cause = std::error::Error::source(.0).map(ToString::to_string).unwrap_or_default())]
    Reader(#[from] ReaderError),
    #[error("stream {stream} did not confirm: {refusal}")]
    Unconfirmed { stream: String, refusal: Refusal },
    #[error(
        "no stream takes {subject}: `tidings streams apply` creates it; events of this name are parked when there is none for {grace:?}"
    )]
    Unbound { subject: String, grace: Duration },
    #[error("the lease is over: it was not renewed in time, or another relay has it")]
    Fenced,
    #[error("the database does not answer")]
    Silent,
    #[error("{STANDBY}")]
    Standby,
    #[error("{0}; {REBASE}")]
    Foreign(String),
    #[error("{subject} has moved to another stream")]
    Moved { subject: String },
    #[error("the relay was told to stop")]
    Stopped,
    #[error("a part of the relay ended: {0}")]
    Ended(String),
}

/// The keeper's connection, what the lease came with, and the keys that have a parked row.
type Claimed<DB> = (
    <DB as sqlx::Database>::Connection,
    Claim<<DB as Statements>::Cursor>,
    Vec<(String, i64)>,
);

/// How a tenure ended.
enum Tenured {
    /// Somebody else has the lease.
    StandBy,
    /// Told to stop; the last checkpoint is written and the lease is released.
    Stopped,
}

impl<DB: Store> Relay<DB> {
    /// A relay of this outbox.
    #[must_use]
    pub fn new(outbox: Outbox<DB>) -> Self {
        Self {
            outbox,
            settings: Settings {
                owner: owner(),
                lease: Duration::from_secs(5),
                batch: 1000,
                retention: Duration::from_secs(18 * 3600),
                unbound_grace: Duration::from_secs(30),
            },
        }
    }

    /// Its name as the owner of the lease: host, process, and something that no other relay has.
    #[must_use]
    pub fn owner(&self) -> &str {
        &self.settings.owner
    }

    /// How long a stand-by waits for a relay that died; default 5 s.
    #[must_use]
    pub fn lease(mut self, lease: Duration) -> Self {
        self.settings.lease = lease;
        self
    }

    /// How many events go into one atomic batch at most: 1 to 1000, which is the server's limit and the
    /// default.
    #[must_use]
    pub fn batch(mut self, events: usize) -> Self {
        self.settings.batch = events.clamp(1, 1000);
        self
    }

    /// How long confirmed events stay in the outbox at least; default 18 h. Postgres frees them a slot at a
    /// time, so up to a sixth longer. It may change from one run to the next: the slots are made to fit.
    #[must_use]
    pub fn retention(mut self, retention: Duration) -> Self {
        self.settings.retention = retention;
        self
    }

    /// How long an event that no stream takes holds up the others before it is parked; default 30 s, so
    /// that a stream may be created after the first event.
    #[must_use]
    pub fn unbound_grace(mut self, grace: Duration) -> Self {
        self.settings.unbound_grace = grace;
        self
    }

    /// Relays until `stop` is cancelled. Faults of database and NATS are got over, with pauses, for ever.
    ///
    /// # Errors
    /// [`RelayError`] when it can never work as it is.
    pub async fn run(self, bus: Bus, stop: CancellationToken) -> Result<(), RelayError> {
        self.outbox.learn_limit(&bus);
        let schema = self.outbox.shared.names.schema();
        let mut stand_by = StandBy::listen(&bus, schema).await;
        let mut pause = FIRST_PAUSE;
        loop {
            let began = Instant::now();
            let wait = match self.tenure(&bus, &stop).await {
                Ok(Tenured::Stopped) => {
                    stand_by::tell_release(&bus, schema).await;
                    return Ok(());
                }
                Ok(Tenured::StandBy) => {
                    pause = FIRST_PAUSE;
                    tokio::select! {
                        () = stop.cancelled() => return Ok(()),
                        () = stand_by.wait(self.settings.lease / 4) => continue,
                    }
                }
                Err(Fault::Database(error)) if DB::is_missing_table(&error) => {
                    return Err(RelayError::NotMigrated(error));
                }
                Err(Fault::Foreign(reason)) => return Err(RelayError::Foreign { reason }),
                Err(fault) => {
                    if began.elapsed() > LONGEST_PAUSE {
                        pause = FIRST_PAUSE;
                    }
                    tracing::warn!(outbox = DB::KIND, %fault, again_in = ?pause, "the relay is interrupted");
                    let wait = pause;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                    wait
                }
            };
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// Takes the lease, resumes, and relays until a fault or the end. Whatever hangs, the fence ends it: a
    /// database that has gone silent must not keep the relay from trying again.
    async fn tenure(&self, bus: &Bus, stop: &CancellationToken) -> Result<Tenured, Fault> {
        let asked = Instant::now();
        let claiming = tokio::time::timeout(self.settings.lease, self.claim()).await;
        let Some((connection, claim, parked)) = claiming.map_err(|_| Fault::Silent)?? else {
            return Ok(Tenured::StandBy);
        };
        let Settings { owner, lease, .. } = &self.settings;
        tracing::info!(
            outbox = DB::KIND,
            owner,
            epoch = claim.epoch,
            "this relay has the lease"
        );
        let fence = Fence::until(asked + *lease);
        let tenure = Tenure {
            owner: owner.clone(),
            epoch: claim.epoch,
            lease: *lease,
        };
        let _working = self.outbox.shared.wake.work_here();

        // The keeper renews the lease from the first moment on, also while the streams are read.
        let (reports, reported) = mpsc::channel(REPORTS);
        let keeper = Keeper::new(
            self.outbox.clone(),
            bus.clone(),
            connection,
            tenure,
            claim.streams.clone(),
            self.settings.retention,
            fence.clone(),
        );
        let mut crew: JoinSet<Result<(), Fault>> = JoinSet::new();
        crew.spawn(keeper.run(reported));
        tokio::select! {
            result = self.pipeline(bus, stop, claim, fence.clone(), parked, reports) => result?,
            Some(ended) = crew.join_next() => return Err(fault_of(ended)),
            () = fence.passed() => return Err(Fault::Fenced),
        }
        // The reports' channel is closed: the keeper writes the last checkpoint and releases.
        tokio::select! {
            ended = crew.join_next() => match ended {
                Some(Ok(Ok(()))) | None => Ok(Tenured::Stopped),
                Some(ended) => Err(fault_of(ended)),
            },
            () = fence.passed() => Err(Fault::Fenced),
        }
    }

    /// Asks for the lease, on a connection that is kept.
    async fn claim(&self) -> Result<Option<Claimed<DB>>, Fault> {
        let names = &self.outbox.shared.names;
        let Settings { owner, lease, .. } = &self.settings;
        let mut connection = self.outbox.connect().await?;
        match DB::origin(&mut connection, names).await? {
            Origin::Own => {}
            Origin::Standby => return Err(Fault::Standby),
            Origin::Foreign(reason) => return Err(Fault::Foreign(reason)),
        }
        let Some(claim) = DB::claim(&mut connection, names, owner, *lease).await? else {
            return Ok(None);
        };
        let parked = DB::parked_keys(&mut connection, names).await?;
        Ok(Some((connection, claim, parked)))
    }

    /// Resumes behind the last checkpoint and carries events until `stop`, or until a fault.
    async fn pipeline(
        &self,
        bus: &Bus,
        stop: &CancellationToken,
        claim: Claim<DB::Cursor>,
        fence: Fence,
        parked: Vec<(String, i64)>,
        reports: mpsc::Sender<Report<DB::Cursor>>,
    ) -> Result<(), Fault> {
        let stored = stored_behind(bus, &claim.streams).await?;
        let began = Report::Began {
            ends: stored.ends.clone(),
            held: stored.found.keys().cloned().collect(),
        };
        if reports.send(began).await.is_err() {
            return Err(Fault::Ended("the keeper".to_owned()));
        }
        let (pages, paged) = mpsc::channel(PAGES_AHEAD);
        let fetcher = Fetcher::open(&self.outbox, bus, claim.cursor, self.settings.batch).await?;
        let router = Router::new(Course {
            bus: bus.clone(),
            source: self.outbox.shared.source.clone(),
            settings: self.settings.clone(),
            fence,
            stored,
            parking: Parking::new(parked),
            reports,
            stop: stop.clone(),
        });
        let mut crew: JoinSet<Result<(), Fault>> = JoinSet::new();
        crew.spawn(fetcher.run(pages, stop.clone()));
        crew.spawn(router.run(paged));
        // The fetcher ends first when all goes well, and its end travels down the channels.
        while let Some(ended) = crew.join_next().await {
            match ended {
                Ok(Ok(())) => {}
                ended => return Err(fault_of(ended)),
            }
        }
        Ok(())
    }
}

impl<DB: Store> Background for Relay<DB> {
    fn name(&self) -> String {
        "relay".to_owned()
    }

    fn run(
        self: Box<Self>,
        bus: Bus,
        stop: CancellationToken,
    ) -> BoxFuture<'static, Result<(), Box<dyn std::error::Error + Send + Sync>>> {
        async move { Ok(Relay::run(*self, bus, stop).await?) }.boxed()
    }
}

/// What the streams hold behind their positions: stored by an owner who did not live to write it down.
async fn stored_behind(bus: &Bus, streams: &Positions) -> Result<Stored, Fault> {
    let mut stored = Stored::default();
    for (stream, position) in streams {
        let Some(state) = bus.stream_state(stream).await? else {
            tracing::error!(
                stream,
                "the stream is gone: what was published into it is gone too"
            );
            continue;
        };
        let known = known_place(stream, position, &state);
        if state.last_sequence > known {
            let found = bus.ids_between(stream, known, state.last_sequence).await?;
            tracing::info!(
                stream,
                behind = known,
                events = found.len(),
                "read the stream's tail"
            );
            stored.found.insert(stream.clone(), found);
        }
        let end = Position {
            incarnation: state.incarnation,
            sequence: state.last_sequence,
        };
        stored.ends.insert(stream.clone(), end);
    }
    Ok(stored)
}

/// Up to where everything in the stream is known; its beginning when it is not the stream it was.
fn known_place(stream: &str, position: &Position, state: &StreamState) -> u64 {
    if state.incarnation != position.incarnation {
        tracing::error!(
            stream,
            was = position.incarnation,
            is = state.incarnation,
            "the stream was created anew: what was published into its predecessor is not in it"
        );
        return 0;
    }
    if state.last_sequence < position.sequence {
        tracing::error!(
            stream,
            known = position.sequence,
            is = state.last_sequence,
            "the stream has lost confirmed events: its last sequence went back"
        );
    }
    position.sequence
}

/// What the router and its lanes have in common for a tenure.
struct Course<C> {
    bus: Bus,
    source: String,
    settings: Settings,
    fence: Fence,
    stored: Stored,
    parking: Parking,
    reports: mpsc::Sender<Report<C>>,
    stop: CancellationToken,
}

impl<C: Cursor> Course<C> {
    async fn report(&self, report: Report<C>) -> Result<(), Fault> {
        let sent = self.reports.send(report).await;
        sent.map_err(|_| Fault::Ended("the keeper".to_owned()))
    }
}

/// What the streams held when the tenure began.
#[derive(Debug, Default)]
struct Stored {
    /// Per stream, the events behind its position.
    found: HashMap<String, Found>,
    /// Per stream, its end.
    ends: Positions,
}

fn fault_of(ended: Result<Result<(), Fault>, tokio::task::JoinError>) -> Fault {
    match ended {
        Ok(Ok(())) => Fault::Ended("without a reason".to_owned()),
        Ok(Err(fault)) => fault,
        Err(error) => Fault::Ended(error.to_string()),
    }
}

/// Who this is: host, process, and something that no other relay of the process has.
fn owner() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host = match host.trim() {
        "" => "localhost",
        host => host,
    };
    let id = tidings_contract::EventId::now()
        .as_uuid()
        .simple()
        .to_string();
    format!("{host}:{}:{}", std::process::id(), &id[24..])
}
