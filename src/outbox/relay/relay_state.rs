//! What outlives the tenures of a relay: its issues, its status reports, and whether its NATS was found to be the
//! right one. Never relays.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{Fault, issue::Issues, reporter::Reporter, restore::RestoreSchedule};
use crate::{
    log::Lasting,
    nats::Bus,
    observer::Observers,
    outbox::{
        ElsewhereError,
        store::{
            Waiting,
            home::{Home, StoredHome},
            parked::BlockedOn,
        },
    },
    policy::issue_kind::IssueKind,
    process::{Living, Process},
};

/// The state that outlives a tenure.
pub(super) struct RelayState {
    pub(super) bus: Bus,
    pub(super) stop: CancellationToken,
    pub(super) issues: Issues,
    pub(super) observers: Observers,
    pub(super) restore_schedule: Arc<Mutex<RestoreSchedule>>,
    pub(super) reporter: Arc<Reporter>,
    /// Logs the missing permissions.
    pub(super) rights: Lasting,
    admission: Mutex<Admission>,
}

/// Whether tables and NATS were found to be the right ones.
#[derive(Default)]
struct Admission {
    /// Whether they ever were, in the life of this relay.
    is_given: bool,
    /// The connection that was checked (by the number of connections lost before it) and the NATS stored in the
    /// database.
    home: Option<(u64, Option<StoredHome>)>,
}

impl RelayState {
    pub(super) fn new(
        bus: &Bus,
        stop: &CancellationToken,
        observers: &Observers,
        reporter: impl FnOnce(&Issues) -> Reporter,
    ) -> Self {
        let issues = Issues::default();
        Self {
            bus: bus.clone(),
            stop: stop.clone(),
            restore_schedule: Arc::new(Mutex::new(RestoreSchedule::soon())),
            reporter: Arc::new(reporter(&issues)),
            issues,
            observers: observers.clone(),
            rights: Lasting::default(),
            admission: Mutex::default(),
        }
    }

    /// Starts what outlives each tenure: the answers and the issues of the relay. They end when it is dropped.
    pub(super) fn tell(&self, process: &Process, schema: &str) -> JoinSet<()> {
        let mut telling = JoinSet::new();
        let (issues, is_alive) = (self.issues.clone(), living(process, "issues", schema));
        telling.spawn(async move {
            let _is_alive = is_alive;
            issues.keep_saying().await;
        });
        let (reporter, bus) = (Arc::clone(&self.reporter), self.bus.clone());
        let is_alive = living(process, "status", schema);
        telling.spawn(async move {
            let _is_alive = is_alive;
            reporter.answer(bus).await;
        });
        telling
    }

    /// Checks whether the connected NATS is the one of this outbox, before claiming the lease: a relay at another
    /// NATS must not keep the lease from the others. Returns a new identity that is to be stored. While NATS does
    /// not answer, the lease is claimed all the same, and [`RelayState::admit`] checks.
    pub(super) async fn is_home(
        &self,
        home: &Home,
        within: Duration,
    ) -> Result<Option<StoredHome>, Fault> {
        let losses = *self.bus.losses().borrow();
        let known = (losses, home.stored.clone());
        if !self.bus.is_connected() || self.admission().home.as_ref() == Some(&known) {
            return Ok(None);
        }
        match tokio::time::timeout(within, home.check(&self.bus)).await {
            Ok(Ok(new)) => {
                let mut admission = self.admission();
                admission.is_given = true;
                admission.home = Some((losses, new.clone().or(known.1)));
                Ok(new)
            }
            Ok(Err(ElsewhereError::Elsewhere(reason))) => Err(Fault::Elsewhere(reason)),
            Ok(Err(error)) => {
                tracing::debug!(%error, "NATS identity unknown");
                Ok(None)
            }
            Err(_) => Ok(None),
        }
    }

    /// Checks the NATS before anything is read from it or written to it.
    pub(super) async fn admit(&self, home: &Home) -> Result<(), Fault> {
        let losses = *self.bus.losses().borrow();
        let at = self.admission().home.as_ref().map(|(at, _)| *at);
        if at == Some(losses) {
            return Ok(());
        }
        match home.check(&self.bus).await {
            Ok(_) => Ok(()),
            Err(ElsewhereError::Elsewhere(reason)) => Err(Fault::Elsewhere(reason)),
            Err(ElsewhereError::Bus(error)) => Err(Fault::Bus(error)),
        }
    }

    pub(super) fn is_admitted(&self) -> bool {
        self.admission().is_given
    }

    fn admission(&self) -> MutexGuard<'_, Admission> {
        self.admission
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Called when the tenure works. What parked rows still wait for stays an issue. All other issues end when
    /// events were confirmed, or when the log was read and was empty.
    pub(super) fn recall(&self, waiting: &Waiting) {
        let places: Vec<String> = waiting
            .reasons
            .iter()
            .map(|reason| reason.blocked_on.to_string())
            .collect();
        for (place, reason) in places.iter().zip(&waiting.reasons) {
            let (kind, cure) = match reason.blocked_on {
                BlockedOn::Stream(_) => (
                    IssueKind::StreamClosed,
                    "make room in the stream, or give its subjects to another stream",
                ),
                BlockedOn::Subject(_) => (
                    IssueKind::SubjectClosed,
                    "tidings streams apply, with a [[stream]] that takes the subject, and the right to publish to it",
                ),
            };
            self.issues.recall(place, kind, &reason.error, cure);
        }
        let mut restore_schedule = self
            .restore_schedule
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if places.is_empty() {
            *restore_schedule = RestoreSchedule::soon();
        } else {
            restore_schedule.later();
        }
    }
}

fn living(process: &Process, what: &str, schema: &str) -> Living {
    process.living(format!("{what} of the relay of {schema}"))
}

/// The name of this owner: host, process, and a part that is unique among the relays of the process.
pub(super) fn owner() -> String {
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
