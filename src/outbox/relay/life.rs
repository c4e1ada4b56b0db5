//! What of a relay outlives its tenures: its issues, what it tells, and whether its NATS was found to be the right one.
//! Never relays.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio_util::sync::CancellationToken;

use super::{Fault, give_back::LookAgain, reporter::Reporter, trouble::Troubles};
use crate::{
    bus::Bus,
    log::Lasting,
    outbox::{
        ElsewhereError,
        home::{Home, KeptHome},
        parked::WaitsFor,
        store::Waiting,
    },
};

/// What outlives a tenure.
pub(super) struct Life {
    pub(super) bus: Bus,
    pub(super) stop: CancellationToken,
    pub(super) troubles: Troubles,
    pub(super) look_again: Arc<Mutex<LookAgain>>,
    pub(super) reporter: Arc<Reporter>,
    /// Rights that were missing.
    pub(super) rights: Lasting,
    admission: Mutex<Admission>,
}

/// Whether tables and NATS were found to be the right ones.
#[derive(Default)]
struct Admission {
    /// Ever, in the life of this relay.
    is_given: bool,
    /// For which connection, by how many were lost before, and for which NATS in the database.
    home: Option<(u64, Option<KeptHome>)>,
}

impl Life {
    pub(super) fn new(
        bus: &Bus,
        stop: &CancellationToken,
        reporter: impl FnOnce(&Troubles) -> Reporter,
    ) -> Self {
        let troubles = Troubles::default();
        Self {
            bus: bus.clone(),
            stop: stop.clone(),
            look_again: Arc::new(Mutex::new(LookAgain::soon())),
            reporter: Arc::new(reporter(&troubles)),
            troubles,
            rights: Lasting::default(),
            admission: Mutex::default(),
        }
    }

    /// Whether the connected NATS is the one of the outbox, before the lease is asked for: a relay elsewhere must not
    /// keep it from others. Gives what is new to be kept. While NATS does not answer, the lease is taken all the
    /// same, and [`Life::admit`] looks.
    pub(super) async fn is_home(
        &self,
        home: &Home,
        within: Duration,
    ) -> Result<Option<KeptHome>, Fault> {
        let losses = *self.bus.losses().borrow();
        let known = (losses, home.kept.clone());
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

    /// Before anything is read from NATS or written there.
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

    /// The tenure works. What parked rows still wait for goes on being a trouble. The rest is over when events were
    /// confirmed, or the log was read and nothing was there.
    pub(super) fn recall(&self, waiting: &Waiting) {
        let places: Vec<String> = waiting
            .reasons
            .iter()
            .map(|reason| reason.waits_for.to_string())
            .collect();
        for (place, reason) in places.iter().zip(&waiting.reasons) {
            let cure = match reason.waits_for {
                WaitsFor::Stream(_) => {
                    "make room in the stream, or give its subjects to another one"
                }
                WaitsFor::Subject(_) => {
                    "tidings streams apply, with a [[stream]] that takes it, and the right to publish to it"
                }
            };
            self.troubles.recall(place, &reason.error, cure);
        }
        let mut look_again = self
            .look_again
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if places.is_empty() {
            *look_again = LookAgain::soon();
        } else {
            look_again.later();
        }
    }
}

/// Who this is: host, process, and something that no other relay of the process has.
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
