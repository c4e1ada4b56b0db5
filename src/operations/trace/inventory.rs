//! What exists before the search begins: the streams of the events, and the consumers of their subscribers.

use std::collections::{BTreeMap, BTreeSet};

use super::search::Search;
use crate::{
    nats::{Bus, BusError, Durable, Durables, Expanse, stream::streams::StreamSpec, subjects},
    replay::Replay,
};

/// Streams and consumers, as far as they can be seen.
#[derive(Default)]
pub(super) struct Inventory {
    /// The streams known to have events of Tidings, by name; `None` for one that is missing.
    pub(super) streams: BTreeMap<String, Option<Expanse>>,
    /// The other streams that may have some: neither the outbox, a subscriber nor the caller names them.
    pub(super) others: Vec<String>,
    /// The names of all streams; `None` when NATS does not answer.
    pub(super) all: Option<Vec<String>>,
    /// Streams that do not answer.
    pub(super) unseen: BTreeSet<String>,
    /// The durable consumers of all streams.
    pub(super) durables: Vec<Durable>,
    /// The replays that the bucket still has.
    pub(super) replays: Vec<Replay>,
}

impl Inventory {
    /// Whether it is known if the stream exists, and what it has.
    pub(super) fn sees(&self, stream: &str) -> bool {
        self.all.is_some() && !self.unseen.contains(stream)
    }

    /// Takes the inventory, and reports to the search what cannot be seen. Fails when nothing can be seen.
    pub(super) async fn take(
        search: &mut Search<'_>,
        bus: &Bus,
        known: Vec<String>,
    ) -> Result<Self, BusError> {
        let Durables {
            found: mut durables,
            streams: all,
            unseen,
            ..
        } = bus.seen_durables().await;
        let mut inventory = Self::default();
        for (stream, error) in unseen {
            let Some(stream) = stream else {
                return Err(error);
            };
            let what = format!("its consumers could not be read: {error}");
            search.miss_unseen(&stream, what);
        }
        let is_ours =
            |one: &&Durable| one.is_ours() || one.takes_only(&subjects::retry(&one.name, ">"));
        let subscribers: BTreeSet<String> = durables
            .iter()
            .filter(is_ours)
            .map(|durable| durable.name.clone())
            .collect();
        let internal = durables
            .iter()
            .filter(|durable| subscribers.contains(&durable.name))
            .map(|durable| durable.stream.clone());
        let ours = StreamSpec::internal().map(|spec| spec.name);
        let may_have_events = |name: &&String| {
            let is_of_the_system = ["$", "KV_", "OBJ_"].iter().any(|one| name.starts_with(one));
            !is_of_the_system && !ours.contains(name)
        };
        let mut names: BTreeSet<String> = known.into_iter().chain(internal).collect();
        names.extend(search.trace.streams.iter().cloned());
        names.retain(|name| !ours.contains(name));
        let others = all.iter().filter(may_have_events);
        let others = others.filter(|name| !names.contains(*name));
        inventory.others = others.cloned().collect();
        for name in names {
            match bus.expanse(&name).await {
                Ok(stream) => drop(inventory.streams.insert(name, stream)),
                Err(error) => {
                    search.miss_unseen(&name, format!("not searched: {error}"));
                    inventory.unseen.insert(name);
                }
            }
        }
        // The consumers of replays are not subscribers.
        durables.retain(|durable| !durable.is_of_replay());
        inventory.durables = durables;
        inventory.all = Some(all);
        match replays_of(bus).await {
            Ok(replays) => inventory.replays = replays,
            Err(error) => search.miss_unseen("replays", format!("not searched: {error}")),
        }
        Ok(inventory)
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
