//! The consumers that a subscriber should have but that do not exist. Values in, values out.

use std::collections::BTreeSet;

use super::overview::MissingConsumer;
use crate::{
    instance::Instance,
    nats::{Durable, Durables, filters, subjects},
};

/// The consumers that a subscriber should have but that do not exist, according to its instances or to what its last
/// worker has stored.
pub(super) fn missing(
    name: &str,
    durables: &[&Durable],
    instances: &[Instance],
    known: &Durables,
    of_retries: Option<String>,
) -> Vec<MissingConsumer> {
    let is_seen = |stream: &str| {
        let mut unseen = known.unseen.iter();
        !unseen.any(|(of, _)| of.as_deref().is_none_or(|of| of == stream))
    };
    let retries = subjects::retry(name, ">");
    let wanted = instances.iter().flat_map(|instance| &instance.wants);
    let mut wanted: BTreeSet<String> = wanted
        .map(|wanted| wanted.stream.clone())
        .chain(durables.iter().flat_map(|one| one.sibling_streams()))
        .collect();
    wanted.extend(of_retries);
    let has_events = durables.iter().any(|one| !one.takes_only(&retries));
    let is_ours = durables
        .iter()
        .any(|one| one.is_ours() || one.takes_only(&retries));
    if !is_ours && instances.is_empty() {
        return Vec::new();
    }
    let lacks = |stream: &String| {
        let there = durables.iter().any(|one| one.stream == *stream);
        !there && is_seen(stream)
    };
    let mut missing: Vec<MissingConsumer> = wanted
        .iter()
        .filter(|stream| lacks(stream))
        .map(|stream| MissingConsumer {
            stream: Some(stream.clone()),
        })
        .collect();
    let all_seen = known.unseen.is_empty();
    let of_events_wanted = instances
        .iter()
        .flat_map(|instance| &instance.wants)
        .any(|wanted| !filters(&wanted.settings).contains(&retries));
    let knows_events =
        of_events_wanted || durables.iter().any(|one| !one.sibling_streams().is_empty());
    if !has_events && !knows_events && all_seen {
        missing.push(MissingConsumer { stream: None });
    }
    missing
}
