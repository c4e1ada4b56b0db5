//! Claims the lease, where a relay may work. Never relays.

use std::time::Duration;

use super::{Fault, Relay, fault::is_of_version};
use crate::outbox::{
    Store,
    home::text,
    store::{
        Claim, Statements, Waiting,
        home::{Home, StoredHome},
        origin::Origin,
    },
};

/// What a claim of the lease returns.
pub(super) struct Claimed<DB: Statements> {
    /// The keeper's connection.
    pub(super) connection: DB::Connection,
    pub(super) claim: Claim<DB::Cursor>,
    /// The keys of parked rows.
    pub(super) keys: Vec<(String, i64)>,
    /// What parked rows wait for.
    pub(super) waiting: Waiting,
}

impl<DB: Store> Relay<DB> {
    /// Checks whether a relay may work here, and reads what is known of its NATS, on a connection that stays open.
    pub(super) async fn look(&self, lease: Duration) -> Result<(DB::Connection, Home), Fault> {
        let names = &self.outbox.shared.names;
        let mut connection = self.connect(lease).await?;
        is_of_version::<DB>(&mut connection, names).await?;
        match DB::origin(&mut connection, names).await? {
            Origin::Own => {}
            Origin::Standby => return Err(Fault::Standby),
            Origin::Foreign(reason) => return Err(Fault::Foreign(reason)),
        }
        let home = DB::home(&mut connection, names).await?;
        Ok((connection, home))
    }

    /// Claims the lease, and stores what has changed about the NATS.
    pub(super) async fn claim(
        &self,
        mut connection: DB::Connection,
        home: Option<&StoredHome>,
        lease: Duration,
    ) -> Result<Option<Claimed<DB>>, Fault> {
        let names = &self.outbox.shared.names;
        let Some(claim) = DB::claim(&mut connection, names, &self.owner, lease).await? else {
            return Ok(None);
        };
        if let Some(home) = home {
            DB::store_home(&mut connection, names, &text(home)?).await?;
        }
        Ok(Some(Claimed {
            claim,
            keys: DB::parked_keys(&mut connection, names).await?,
            waiting: DB::waiting(&mut connection, names).await?,
            connection,
        }))
    }
}
