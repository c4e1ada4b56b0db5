//! The settings of a stream that the preflight looks at, and the limits of the account. Never judges them.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{limits::limits, settings::Role};
use crate::{
    nats::{
        Bus, BusError,
        protocol::{api, codes},
    },
    policy::preflight::{Holds, StreamFigures, offset},
};

/// A stream, and by how many seconds the clock of its leader is ahead.
pub(crate) struct StreamFacts {
    pub(crate) figures: StreamFigures,
    pub(crate) ahead_s: Option<f64>,
}

/// What an account may store in files, and stores, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct AccountStorage {
    #[cfg(feature = "ops")]
    pub(crate) used: u64,
    /// Negative without a limit.
    pub(crate) limit: i64,
}

#[derive(Deserialize)]
struct Described {
    config: Map<String, Value>,
    #[serde(default)]
    cluster: Option<Clustered>,
    /// When the server answered, by its clock.
    #[serde(default)]
    ts: Option<DateTime<Utc>>,
}

/// A server that is in no cluster names itself only.
#[derive(Deserialize)]
struct Clustered {
    #[serde(default)]
    name: Option<String>,
}

impl Bus {
    /// The settings of a stream; `None` when there is no such stream.
    pub(crate) async fn stream_facts(
        &self,
        stream: &str,
        role: Role,
    ) -> Result<Option<StreamFacts>, BusError> {
        let asked = Utc::now();
        let described: Described = match self.api(&api::stream_info(stream), &json!({})).await {
            Ok(described) => described,
            Err(BusError::Refused {
                code: codes::STREAM_NOT_FOUND,
                ..
            }) => return Ok(None),
            Err(error) => return Err(error),
        };
        let answered = Utc::now();
        let ahead_s = described.ts.map(|told| offset(asked, told, answered));
        let figures = figures(stream, role, &described);
        Ok(Some(StreamFacts { figures, ahead_s }))
    }

    /// The storage of the account.
    pub(crate) async fn account_storage(&self) -> Result<AccountStorage, BusError> {
        #[derive(Deserialize)]
        struct Account {
            #[cfg(feature = "ops")]
            #[serde(default)]
            storage: u64,
            limits: Limits,
            /// The limits by number of replicas, where the account has some.
            #[serde(default)]
            tiers: Map<String, Value>,
        }
        #[derive(Deserialize)]
        struct Limits {
            #[serde(default)]
            max_storage: i64,
        }
        let account: Account = self.api(api::ACCOUNT_INFO, &json!({})).await?;
        let of_tier = |tier: &Value| tier.get("limits")?.get("max_storage")?.as_i64();
        let tiers = account.tiers.values().filter_map(of_tier);
        Ok(AccountStorage {
            #[cfg(feature = "ops")]
            used: account.storage,
            limit: tiers.fold(account.limits.max_storage, i64::max),
        })
    }

    /// Whether all servers of the connection are on this host.
    pub(crate) fn is_local(&self) -> bool {
        let mut servers = self.options.servers.iter();
        servers.all(|server| is_loopback(server))
    }

    /// How often an idle connection is probed.
    pub(crate) fn ping_interval(&self) -> Duration {
        self.options.ping_interval
    }
}

fn figures(stream: &str, role: Role, described: &Described) -> StreamFigures {
    let config = &described.config;
    let number = |setting: &str| config.get(setting).and_then(Value::as_i64).unwrap_or(0);
    let nanos = |setting| Duration::from_nanos(u64::try_from(number(setting)).unwrap_or(0));
    let text = |setting: &str| {
        let text = config.get(setting).and_then(Value::as_str);
        text.unwrap_or_default().to_owned()
    };
    let cluster = described.cluster.as_ref();
    let cluster = cluster.and_then(|cluster| cluster.name.clone());
    let holds = match role {
        Role::Events => Holds::Events,
        Role::DeadLetters => Holds::DeadLetters,
        Role::Retries => Holds::Retries,
        Role::Bucket => Holds::Bucket,
    };
    let drops = match role {
        Role::Retries => limits(stream, config),
        _ => Vec::new(),
    };
    StreamFigures {
        name: stream.to_owned(),
        holds,
        is_fed: false,
        cluster: cluster.filter(|name| !name.is_empty()),
        replicas: number("num_replicas"),
        retention: text("retention"),
        discard: text("discard"),
        max_age: nanos("max_age"),
        max_bytes: number("max_bytes"),
        duplicate_window: nanos("duplicate_window"),
        drops,
    }
}

/// Whether a server's address leads to this host.
fn is_loopback(server: &str) -> bool {
    let address = server.split_once("://").map_or(server, |(_, rest)| rest);
    let address = address.rsplit_once('@').map_or(address, |(_, rest)| rest);
    let address = address.split('/').next().unwrap_or(address);
    let host = match address.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or(rest),
        None => address.split(':').next().unwrap_or(address),
    };
    match host.parse::<std::net::IpAddr>() {
        Ok(ip) => ip.is_loopback(),
        Err(_) => host == "localhost",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_on_this_host_is_recognised() {
        for here in [
            "127.0.0.1",
            "nats://127.0.0.1:4222",
            "nats://user:secret@localhost:4222",
            "tls://[::1]:4222",
        ] {
            assert!(is_loopback(here), "{here}");
        }
        for elsewhere in ["nats://n1:4222", "10.0.0.1:4222", "tls://[fd00::1]:4222"] {
            assert!(!is_loopback(elsewhere), "{elsewhere}");
        }
    }

    #[test]
    fn a_stream_is_read_as_the_server_describes_it() {
        let described = json!({
            "config": {
                "num_replicas": 1, "retention": "workqueue", "discard": "old", "max_age": 3_600_000_000_000_i64,
                "max_bytes": -1, "duplicate_window": 2_000_000_000, "allow_msg_schedules": true
            },
            "cluster": { "name": "c", "leader": "n1" },
        });
        let described: Described = serde_json::from_value(described).unwrap();
        let read = figures("RETRIES", Role::Retries, &described);
        assert_eq!(read.cluster.as_deref(), Some("c"));
        assert_eq!((read.replicas, read.max_bytes), (1, -1));
        assert_eq!(read.max_age, Duration::from_secs(3600));
        assert_eq!(read.duplicate_window, Duration::from_secs(2));
        assert_eq!(read.drops.len(), 1, "{read:?}");
    }
}
