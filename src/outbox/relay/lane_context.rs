//! What the router and the lanes of a tenure share. Never sends.

use std::{sync::Arc, time::Duration};

use tidings_contract::wire;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio_util::sync::CancellationToken;

use super::{
    Fault,
    issue::Issues,
    parked_keys::ParkedKeys,
    progress::{Origin, Report, by_page},
    resume::Stored,
};
use crate::{
    nats::{Bus, Submission},
    observer::Observers,
    outbox::{
        lane::{self, Messages},
        store::{Cursor, Parked, ledger::LedgerKind, parked::BlockedOn},
    },
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
    /// How long a closed stream may hold up other streams.
    pub(super) stall_timeout: Duration,
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

    /// Events of this name wait from now on; the issue is recorded.
    pub(super) fn close_name(&self, name: &str, reason: &str, cure: &str) {
        let place = BlockedOn::Subject(name.to_owned()).to_string();
        self.issues.begin(&place, reason, cure);
        self.parked_keys.close_name(name, reason);
    }

    /// Has rows parked.
    pub(super) async fn park(
        &self,
        origins: Vec<Origin>,
        parked: Vec<Parked>,
    ) -> Result<(), Fault> {
        let pages = by_page(origins);
        self.report(Report::Park { pages, parked }).await
    }
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
