//! The identity of the NATS that answers. Never decides whether that matters.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::nats::Bus;

/// What distinguishes one NATS from another, as far as the connected server states it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct NatsIdentity {
    /// The name of the cluster, when the server is in one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<String>,
    /// The JetStream domain, when there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
    /// The name of a standalone server, when its configuration has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<String>,
    /// The id of a standalone server; it changes at each start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_id: Option<String>,
}

impl Bus {
    /// What distinguishes the NATS of this connection from another one.
    #[must_use]
    pub fn identity(&self) -> NatsIdentity {
        let info = self.client.server_info();
        let given = |text: Option<String>| text.filter(|text| !text.is_empty());
        let cluster = given(info.cluster);
        let domain = given(info.domain);
        if cluster.is_some() {
            return NatsIdentity {
                cluster,
                domain,
                ..NatsIdentity::default()
            };
        }
        // A server without a configured name uses its id as its name.
        let server = given(Some(info.server_name)).filter(|name| *name != info.server_id);
        NatsIdentity {
            cluster,
            domain,
            server,
            server_id: Some(info.server_id),
        }
    }

    /// The configured servers, without secrets.
    #[must_use]
    pub fn servers(&self) -> String {
        super::connect::shown(&self.options.servers)
    }
}

impl NatsIdentity {
    /// Whether both are certainly the same NATS: their names match, or it is the same run of one server.
    #[cfg(feature = "outbox")]
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        if self.server_id.is_some() && self.server_id == other.server_id {
            return true;
        }
        let names = |one: &Self| (one.cluster.clone(), one.domain.clone(), one.server.clone());
        let has_name = self.cluster.is_some() || self.server.is_some();
        has_name && names(self) == names(other)
    }
}

impl fmt::Display for NatsIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.cluster, &self.server, &self.server_id) {
            (Some(cluster), _, _) => write!(f, "the NATS cluster {cluster}")?,
            (_, Some(server), _) => write!(f, "the nats-server {server}")?,
            (_, _, Some(id)) => write!(f, "a nats-server without a name, id {id}")?,
            _ => f.write_str("a nats-server that is not known")?,
        }
        match &self.domain {
            Some(domain) => write!(f, " of the domain {domain}"),
            None => Ok(()),
        }
    }
}
