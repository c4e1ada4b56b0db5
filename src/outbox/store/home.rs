//! What the database records about the NATS of an outbox, and the version of its tables. Never decides whether this NATS
//! is the right one.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Names, Positions};
use crate::nats::NatsIdentity;

/// The NATS that an outbox is relayed into, as the database stores it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::outbox) struct StoredHome {
    #[serde(flatten)]
    pub(in crate::outbox) nats: NatsIdentity,
    /// The streams that existed when an operator accepted this NATS, with the creation time of each.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(in crate::outbox) accepted: BTreeMap<String, String>,
}

/// What the database records about that NATS.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Home {
    pub(in crate::outbox) stored: Option<StoredHome>,
    pub(in crate::outbox) streams: Positions,
}

/// The statements about the NATS of an outbox and the version of its tables.
pub trait HomeStatements: sqlx::Database {
    /// Returns the newest migration that was run; `None` when this role has no right to read it.
    fn version(
        connection: &mut Self::Connection,
        names: &Names,
    ) -> impl Future<Output = Result<Option<i32>, sqlx::Error>> + Send;

    /// Returns the NATS that the outbox is relayed into, and how far.
    fn home(
        connection: &mut Self::Connection,
        names: &Names,
    ) -> impl Future<Output = Result<Home, sqlx::Error>> + Send;

    /// Stores another NATS, given as JSON.
    fn store_home(
        connection: &mut Self::Connection,
        names: &Names,
        nats: &str,
    ) -> impl Future<Output = Result<(), sqlx::Error>> + Send;
}

impl Home {
    pub(in crate::outbox) fn of(
        nats: Option<String>,
        streams: Positions,
    ) -> Result<Self, sqlx::Error> {
        let stored = nats.map(|nats| serde_json::from_str(&nats));
        let stored = stored.transpose();
        Ok(Self {
            stored: stored.map_err(|error| sqlx::Error::Decode(error.into()))?,
            streams,
        })
    }
}
