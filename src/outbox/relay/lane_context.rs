//! What the router and the lanes of a tenure share. Never sends.

use std::{sync::Arc, time::Duration};

use tidings_contract::wire;
use tokio::sync::{OwnedSemaphorePermit, mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::{
    Fault,
    issue::Issues,
    parked_keys::ParkedKeys,
    progress::{Origin, Report, by_page},
    resume::Stored,
};
use crate::{
    nats::{Bus, Cause, Submission},
    observer::{Blocked, Observation, Observers},
    outbox::{
        lane::{self, Messages},
        store::{Cursor, Parked, ledger::LedgerKind, parked::BlockedOn},
    },
    policy::adjustment::RelayTuning,
    task::fence::Fence,
};

/// A row of the relay in flight.
pub(super) type Item = lane::Item<ReadFrom>;
pub(super) type InFlight = lane::InFlight<ReadFrom>;

/// Where a row was read.
pub(super) struct ReadFrom {
    pub(super) origin: Origin,
    /// Its share of the payload that a lane may hold in memory.
    pub(super) _share: OwnedSemaphorePermit,
}

/// The most rows of different keys that are sent side by side: where the costs of the two methods meet, measured with
/// `sync_interval: always`.
const SIDE_BY_SIDE: usize = 16;

/// One exists for restoring parked rows, another for new rows.
pub(super) struct LaneContext<C> {
    pub(super) owner: String,
    pub(super) bus: Bus,
    pub(super) source: String,
    /// The most events in a batch.
    pub(super) batch: usize,
    /// How long a closed stream may hold up other streams; `None` while parked rows are restored: not at all.
    pub(super) tuning: Option<watch::Receiver<RelayTuning>>,
    pub(super) fence: Fence,
    pub(super) stored: Arc<Stored>,
    pub(super) parked_keys: Arc<ParkedKeys>,
    pub(super) issues: Issues,
    pub(super) observers: Observers,
    pub(super) reports: mpsc::Sender<Report<C>>,
    pub(super) stop: CancellationToken,
}

impl<C: Cursor> LaneContext<C> {
    pub(super) async fn report(&self, report: Report<C>) -> Result<(), Fault> {
        let sent = self.reports.send(report).await;
        sent.map_err(|_| Fault::Ended("the keeper".to_owned()))
    }

    /// How long a closed stream may hold up other streams, as of now.
    pub(super) fn stall_timeout(&self) -> Duration {
        let tuning = self.tuning.as_ref();
        tuning.map_or(Duration::ZERO, |tuning| tuning.borrow().stall_timeout)
    }

    /// Events of this name wait from now on; the issue is recorded.
    pub(super) fn close_name(&self, name: &str, cause: &Cause) {
        let place = BlockedOn::Subject(name.to_owned()).to_string();
        let reason = &cause.reason;
        self.issues.begin(&place, cause.kind, reason, cause.cure);
        self.parked_keys.close_name(name, reason);
    }

    /// Has rows parked.
    pub(super) async fn park(
        &self,
        origins: Vec<Origin>,
        parked: Vec<Parked>,
    ) -> Result<(), Fault> {
        let pages = by_page(origins);
        for (blocked_on, events) in by_reason(&parked) {
            let parked = Observation::Parked { blocked_on, events };
            self.observers.tell(&parked);
        }
        self.report(Report::Park { pages, parked }).await
    }
}

/// How many of these events wait for what.
fn by_reason(parked: &[Parked]) -> impl Iterator<Item = (Blocked, usize)> {
    let waits_for = |parked: &Parked| match parked.blocked_on {
        None => Blocked::Decision,
        Some(BlockedOn::Stream(_)) => Blocked::Stream,
        Some(BlockedOn::Subject(_)) => Blocked::Subject,
    };
    let all = [Blocked::Decision, Blocked::Stream, Blocked::Subject].into_iter();
    let counts = all.map(move |of| {
        let its = parked.iter().filter(|parked| waits_for(parked) == of);
        (of, its.count())
    });
    counts.filter(|(_, events)| *events > 0)
}

impl<C: Cursor> Messages for Arc<LaneContext<C>> {
    type Note = ReadFrom;
    const SIDE_BY_SIDE: usize = SIDE_BY_SIDE;

    fn kind(&self) -> LedgerKind {
        LedgerKind::Relayed
    }

    fn message(&self, item: &Item) -> Submission {
        let (source, time) = (&*self.source, item.row.at);
        Submission::new(&item.envelope, wire::Defaults::new(source, time))
    }
}
