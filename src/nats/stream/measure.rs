//! What a stream holds at the moment, for metrics. Never judges it.

use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde_json::json;

use crate::{
    nats::{
        Bus, BusError,
        protocol::{api, codes},
    },
    policy::preflight::offset,
};

/// What a stream holds.
#[derive(Debug, Clone)]
pub(crate) struct MeasuredStream {
    pub(crate) name: String,
    /// `None` while it has no leader.
    pub(crate) state: Option<StreamMeasures>,
}

/// What the leader of a stream tells of it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct StreamMeasures {
    pub(crate) bytes: u64,
    /// Negative or 0 without a limit.
    pub(crate) max_bytes: i64,
    pub(crate) messages: u64,
    /// The age of the oldest message; 0 without one.
    pub(crate) oldest_s: f64,
    /// The configured copies.
    pub(crate) replicas: u64,
    /// The copies that are up to date.
    pub(crate) current: u64,
    /// By how many seconds the clock of the leader is ahead.
    pub(crate) ahead_s: Option<f64>,
}

#[derive(Deserialize)]
struct Described {
    config: Config,
    state: State,
    #[serde(default)]
    cluster: Option<Cluster>,
    #[serde(default)]
    ts: Option<DateTime<Utc>>,
}

#[derive(Deserialize)]
struct Config {
    #[serde(default)]
    max_bytes: i64,
    #[serde(default)]
    num_replicas: u64,
}

#[derive(Deserialize)]
struct State {
    #[serde(default)]
    messages: u64,
    #[serde(default)]
    bytes: u64,
    #[serde(default)]
    first_ts: Option<DateTime<Utc>>,
}

#[derive(Deserialize)]
struct Cluster {
    #[serde(default)]
    leader: Option<String>,
    #[serde(default)]
    replicas: Option<Vec<Peer>>,
}

#[derive(Deserialize)]
struct Peer {
    #[serde(default)]
    current: bool,
    #[serde(default)]
    offline: bool,
}

impl Bus {
    /// What a stream holds; `None` when there is no such stream.
    pub(crate) async fn measured_stream(
        &self,
        stream: &str,
    ) -> Result<Option<MeasuredStream>, BusError> {
        let asked = Utc::now();
        let described: Result<Described, BusError> =
            self.api(&api::stream_info(stream), &json!({})).await;
        let state = match described {
            Ok(described) => Some(measures(&described, (asked, Utc::now()))),
            Err(BusError::Refused {
                code: codes::STREAM_NOT_FOUND,
                ..
            }) => return Ok(None),
            Err(BusError::Refused {
                code: codes::CLUSTER_NOT_AVAILABLE,
                ..
            }) => None,
            Err(error) => return Err(error),
        };
        let name = stream.to_owned();
        Ok(Some(MeasuredStream { name, state }))
    }
}

fn measures(
    described: &Described,
    (asked, answered): (DateTime<Utc>, DateTime<Utc>),
) -> StreamMeasures {
    let Described {
        config,
        state,
        cluster,
        ts,
    } = described;
    let peers = cluster.as_ref().and_then(|one| one.replicas.as_deref());
    let peers = peers.unwrap_or_default().iter();
    let followers = peers.filter(|peer| peer.current && !peer.offline).count();
    // A server that is in no cluster leads all of its streams.
    let leads = cluster.as_ref().is_none_or(|one| one.leader.is_some());
    let first = state.first_ts.filter(|_| state.messages > 0);
    let oldest = first.map(|first| (ts.unwrap_or(answered) - first).as_seconds_f64());
    StreamMeasures {
        bytes: state.bytes,
        max_bytes: config.max_bytes,
        messages: state.messages,
        oldest_s: oldest.unwrap_or(0.0).max(0.0),
        replicas: config.num_replicas,
        current: u64::try_from(followers).unwrap_or(u64::MAX) + u64::from(leads),
        ahead_s: ts.map(|told| offset(asked, told, answered)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_that_are_behind_or_offline_are_not_current() {
        let described = json!({
            "config": { "num_replicas": 3, "max_bytes": -1 },
            "state": { "messages": 2, "bytes": 90, "first_ts": "2026-01-01T00:00:00Z" },
            "cluster": { "leader": "n1", "replicas": [
                { "name": "n2", "current": true },
                { "name": "n3", "current": true, "offline": true },
            ] },
            "ts": "2026-01-01T00:01:00Z",
        });
        let described: Described = serde_json::from_value(described).unwrap();
        let at = "2026-01-01T00:00:50Z".parse().unwrap();
        let read = measures(&described, (at, at));
        assert_eq!((read.replicas, read.current), (3, 2));
        assert_eq!((read.messages, read.bytes, read.max_bytes), (2, 90, -1));
        assert!((read.oldest_s - 60.0).abs() < 1e-9, "{read:?}");
        assert_eq!(read.ahead_s, Some(10.0));
    }

    #[test]
    fn a_server_without_a_cluster_has_the_one_copy() {
        let described = json!({
            "config": { "num_replicas": 1 },
            "state": { "messages": 0, "first_ts": "0001-01-01T00:00:00Z" },
        });
        let described: Described = serde_json::from_value(described).unwrap();
        let read = measures(&described, (Utc::now(), Utc::now()));
        assert_eq!((read.replicas, read.current), (1, 1));
        assert!(read.oldest_s.abs() < 1e-9, "{read:?}");
    }
}
