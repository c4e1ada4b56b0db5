//! Whether this database is the one that the relay's cursor speaks of. Never changes anything.

/// Where an outbox is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// The cursor means this database.
    Own,
    /// A server that follows another one. Its snapshots leave out what is in progress, so that a relay
    /// would pass over it.
    Standby,
    /// A copy made row by row, with the reason for saying so: the transaction ids in it are another
    /// server's, and mean nothing here.
    Foreign(String),
}

/// Why nobody relays on a server that follows another one.
pub(super) const STANDBY: &str =
    "this server is a standby, which only follows: the relay waits until it is promoted";
/// What helps there.
pub(super) const PROMOTE: &str =
    "give the relay the URL of the primary, or promote this server when it is to become that";
/// What to do about a copy.
pub(super) const REBASE: &str =
    "its transaction ids mean nothing here: run `tidings outbox rebase`";

impl Origin {
    /// Why no relay runs here, if none does.
    pub(super) fn refusal(&self) -> Option<String> {
        match self {
            Self::Own => None,
            Self::Standby => Some(STANDBY.to_owned()),
            Self::Foreign(reason) => Some(format!("{reason}; {REBASE}")),
        }
    }
}
