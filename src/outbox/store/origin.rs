//! Whether the relay's cursor is valid in this database. Never changes anything.

use crate::policy::issue_kind::IssueKind;

/// The kind of database that an outbox is in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// The database that the cursor belongs to.
    Own,
    /// A standby server. Its snapshots leave out transactions in progress, so a relay would skip their rows.
    Standby,
    /// A row-by-row copy, with the evidence for it: its transaction ids come from another server, and mean nothing
    /// here.
    Foreign(String),
}

/// Why no relay runs on a standby server.
pub(in crate::outbox) const STANDBY: &str =
    "this database server is a standby: the relay waits until the server is promoted";
/// The cure on a standby.
pub(in crate::outbox) const PROMOTE: &str =
    "give the relay the URL of the primary, or promote this server";
/// The cure in a copy.
pub(in crate::outbox) const ADOPT: &str =
    "its transaction ids mean nothing here: run `tidings outbox adopt`";

impl Origin {
    /// The kind of the issue when no relay runs here.
    pub(in crate::outbox) fn kind(&self) -> IssueKind {
        match self {
            Self::Own => IssueKind::Unknown,
            Self::Standby => IssueKind::DatabaseStandby,
            Self::Foreign(_) => IssueKind::DatabaseForeign,
        }
    }

    /// Why no relay runs here, if that is so.
    pub(in crate::outbox) fn refusal(&self) -> Option<String> {
        match self {
            Self::Own => None,
            Self::Standby => Some(STANDBY.to_owned()),
            Self::Foreign(reason) => Some(format!("{reason}; {ADOPT}")),
        }
    }
}
