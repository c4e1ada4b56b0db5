//! Looks whether the disk of the database has room for new events. Never decides what follows.

use super::{Fault, Keeper};
use crate::{
    outbox::{Store, relay::issue::DATABASE, store::diagnosis::Diagnosis},
    policy::issue_kind::IssueKind,
};

impl<DB: Store> Keeper<DB> {
    /// The log is written by others: while it is empty, a full disk hinders no write of the relay.
    pub(super) async fn look_for_room(&mut self) -> Result<(), Fault> {
        let issues = &self.context.issues;
        let names = &self.context.outbox.shared.names;
        match DB::has_room(&mut self.context.connection, names).await {
            Ok(()) => self.dirty |= issues.end(DATABASE),
            Err(error) => match Diagnosis::of(&error) {
                Some(full) if full.kind == IssueKind::DatabaseFull => {
                    let cause = format!("{}: no event can be enqueued", full.cause);
                    issues.begin(DATABASE, full.kind, &cause, full.cure);
                    self.dirty = true;
                }
                _ if DB::is_lost(&error) => return Err(error.into()),
                // A limit on temporary files, for one: then it is not known.
                _ => tracing::debug!(%error, "disk of the database not looked at"),
            },
        }
        Ok(())
    }
}
