//! What is there before anything is searched: the streams of the events, and the consumers of their subscribers.

use std::collections::{BTreeMap, BTreeSet};

use super::{Trace, TraceError};
use crate::{
    bus::{
        Bus, BusError, Durable, Expanse,
        streams::{StreamSpec, retry_subject},
    },
    job::Replay,
};

/// Streams and consumers.
pub(super) struct Inventory {
    /// The streams that may have events, by name; nothing for one that is gone.
    pub(super) streams: BTreeMap<String, Option<Expanse>>,
    /// The durable consumers of these streams.
    pub(super) durables: Vec<Durable>,
    /// The replays that are running or remembered.
    pub(super) replays: Vec<Replay>,
}

impl Inventory {
    pub(super) async fn take(trace: &Trace, known: Vec<String>) -> Result<Self, TraceError> {
        let mut durables = trace.bus.durables().await?;
        let subscribers: BTreeSet<String> = durables
            .iter()
            .filter(|durable| durable.takes_only(&retry_subject(&durable.name, ">")))
            .map(|durable| durable.name.clone())
            .collect();
        let of_subscribers = durables
            .iter()
            .filter(|durable| subscribers.contains(&durable.name))
            .map(|durable| durable.stream.clone());
        let ours = StreamSpec::of_subscribers().map(|spec| spec.name);
        let mut names: BTreeSet<String> = known.into_iter().chain(of_subscribers).collect();
        names.extend(trace.streams.iter().cloned());
        names.retain(|name| !ours.contains(name));
        let mut streams = BTreeMap::new();
        for name in names {
            let stream = trace.bus.expanse(&name).await?;
            streams.insert(name, stream);
        }
        // Those of replays are no subscribers.
        durables.retain(|durable| {
            streams.contains_key(&durable.stream) && !durable.name.starts_with("replay-")
        });
        Ok(Self {
            streams,
            durables,
            replays: replays_of(&trace.bus).await?,
        })
    }
}

/// All replays, the oldest first.
async fn replays_of(bus: &Bus) -> Result<Vec<Replay>, BusError> {
    let (mut replays, mut after) = (Vec::new(), 0);
    while let Some(entry) = bus.next_replay(None, after).await? {
        after = entry.revision;
        replays.extend(entry.value.value());
    }
    replays.sort_by_key(|replay: &Replay| replay.id);
    Ok(replays)
}
