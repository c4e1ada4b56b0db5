//! Resolves a replay request to the sequences of streams that it covers. Never changes anything.

use std::collections::{BTreeMap, BTreeSet};

use tidings_contract::EventId;

use super::{ReplayError, standstill::lacks_shadow};
use crate::{
    nats::{Bus, Part, filters, subjects},
    operations::subscribers::{SubscriberState, Subscribers},
    policy::start::StartFrom,
    replay::{ReplayRange, ReplayRequest},
};

/// The names of events, by the streams that carry them.
type Names = BTreeMap<String, BTreeSet<String>>;

/// The part of each stream that holds the requested events.
pub(super) async fn ranges(
    bus: &Bus,
    subscriber: &str,
    request: &ReplayRequest,
) -> Result<Vec<ReplayRange>, ReplayError> {
    let state = Subscribers::new(bus).find_whole(subscriber).await?;
    if state.instances.is_empty() && !request.force {
        return Err(ReplayError::NoInstance {
            subscriber: subscriber.to_owned(),
        });
    }
    let known = match &request.shadow {
        Some(shadow) => of_shadow(bus, &state, shadow, request.force).await?,
        None => of_subscriber(&state),
    };
    let mut names = only(known, subscriber, &request.names)?;
    if let Some(wanted) = &request.stream {
        let streams: Vec<String> = names.keys().cloned().collect();
        names.retain(|stream, _| stream == wanted);
        if names.is_empty() {
            return Err(ReplayError::UnknownStream {
                subscriber: subscriber.to_owned(),
                stream: wanted.clone(),
                streams,
            });
        }
    }
    let is_sequence = |point: &StartFrom| matches!(point, StartFrom::Sequence(_));
    if names.len() > 1
        && (is_sequence(&request.from) || request.to.as_ref().is_some_and(is_sequence))
    {
        return Err(ReplayError::Ambiguous {
            streams: names.into_keys().collect(),
        });
    }
    let mut ranges = Vec::new();
    for (stream, names) in &names {
        let names = names.iter().cloned().collect();
        ranges.extend(range(bus, stream, names, request).await?);
    }
    if ranges.is_empty() {
        return Err(ReplayError::Nothing {
            streams: names.into_keys().collect(),
        });
    }
    Ok(ranges)
}

/// The names that the instances handle; when none answers, those that their consumers deliver.
fn of_subscriber(state: &SubscriberState) -> Names {
    let retries = subjects::retry(&state.name, ">");
    let wanted = state.instances.iter().flat_map(|instance| &instance.wants);
    let wanted = wanted.map(|wanted| (&wanted.stream, filters(&wanted.settings)));
    let delivered = state.consumers.iter();
    let delivered = delivered.map(|consumer| (&consumer.stream, filters(&consumer.config)));
    let all: Vec<_> = match state.instances.is_empty() {
        false => wanted.collect(),
        true => delivered.collect(),
    };
    let mut names = Names::new();
    for (stream, subjects) in all {
        let subjects = subjects.into_iter().filter(|subject| *subject != retries);
        for subject in subjects {
            names.entry(stream.clone()).or_default().insert(subject);
        }
    }
    names
}

/// The names that the handlers of a shadow take.
async fn of_shadow(
    bus: &Bus,
    state: &SubscriberState,
    shadow: &str,
    is_forced: bool,
) -> Result<Names, ReplayError> {
    if state.instances.is_empty() {
        return Ok(of_subscriber(state));
    }
    let shadows = || {
        state
            .instances
            .iter()
            .flat_map(|instance| &instance.shadows)
    };
    let of_name = shadows().filter(|(name, _)| *name == shadow);
    let wanted: BTreeSet<&str> = of_name
        .flat_map(|(_, names)| names)
        .map(|name| &**name)
        .collect();
    if wanted.is_empty() {
        let shadows: BTreeSet<&String> = shadows().map(|(name, _)| name).collect();
        return Err(ReplayError::UnknownShadow {
            subscriber: state.name.clone(),
            shadow: shadow.to_owned(),
            shadows: shadows.into_iter().cloned().collect(),
        });
    }
    if let Some(why) = lacks_shadow(&state.instances, shadow).filter(|_| !is_forced) {
        return Err(ReplayError::ShadowElsewhere { why });
    }
    let mut names = Names::new();
    for (stream, taken) in bus.streams_of(wanted).await? {
        let Some(stream) = stream else {
            return Err(ReplayError::NoStream {
                name: taken.join(", "),
            });
        };
        let taken = taken.into_iter().map(str::to_owned);
        names.insert(stream, taken.collect());
    }
    Ok(names)
}

/// The requested names; all of them when the request names none.
fn only(mut known: Names, subscriber: &str, wanted: &[String]) -> Result<Names, ReplayError> {
    let is_known = |name: &&String| known.values().any(|names| names.contains(*name));
    if let Some(name) = wanted.iter().find(|name| !is_known(name)) {
        return Err(ReplayError::UnknownName {
            subscriber: subscriber.to_owned(),
            name: name.clone(),
            names: known.into_values().flatten().collect(),
        });
    }
    if !wanted.is_empty() {
        for names in known.values_mut() {
            names.retain(|name| wanted.contains(name));
        }
        known.retain(|_, names| !names.is_empty());
    }
    Ok(known)
}

/// The part of one stream; `None` when no event is in it.
async fn range(
    bus: &Bus,
    stream: &str,
    names: Vec<String>,
    request: &ReplayRequest,
) -> Result<Option<ReplayRange>, ReplayError> {
    let part = match bus.part(stream).await? {
        Some(part) => part,
        None if request.force => return Ok(None),
        None => {
            return Err(ReplayError::Gone {
                stream: stream.to_owned(),
            });
        }
    };
    if !request.force {
        refuse_too_old(bus, stream, &part, request.from).await?;
    }
    let first = match request.from {
        StartFrom::Beginning => part.first,
        // Nothing that is stored: a replay has no events that are published later.
        StartFrom::New => part.last.saturating_add(1),
        StartFrom::Sequence(sequence) => sequence.max(part.first),
        StartFrom::Time(time) => bus.sequence_at(stream, time).await?,
    };
    let last = match request.to {
        None | Some(StartFrom::New) => part.last,
        Some(StartFrom::Beginning) => part.first,
        Some(StartFrom::Sequence(sequence)) => sequence,
        Some(StartFrom::Time(time)) => bus.sequence_at(stream, time).await?.saturating_sub(1),
    };
    let last = last.min(part.last);
    if last < first {
        return Ok(None);
    }
    let name = || EventId::now().as_uuid().simple().to_string();
    let from_here = bus.count_from(stream, &names, first, &name()).await?;
    let from_there = bus
        .count_from(stream, &names, last.saturating_add(1), &name())
        .await?;
    let events = from_here.saturating_sub(from_there);
    let last_at = bus.kept(stream, last).await?.map(|kept| kept.stored_at);
    Ok((events > 0).then(|| ReplayRange {
        stream: stream.to_owned(),
        incarnation: part.incarnation,
        names,
        first,
        last,
        last_at,
        events,
    }))
}

/// Refuses when the stream no longer keeps everything from that position on.
async fn refuse_too_old(
    bus: &Bus,
    stream: &str,
    part: &Part,
    from: StartFrom,
) -> Result<(), ReplayError> {
    // The stream has never removed a message from its beginning.
    if part.first <= 1 {
        return Ok(());
    }
    let oldest = match from {
        StartFrom::Beginning | StartFrom::New => return Ok(()),
        StartFrom::Sequence(sequence) if sequence >= part.first => return Ok(()),
        StartFrom::Sequence(_) | StartFrom::Time(_) => bus.kept(stream, part.first).await?,
    };
    let stored_at = oldest.map(|oldest| oldest.stored_at);
    if let (StartFrom::Time(time), Some(stored_at)) = (from, stored_at)
        && time >= stored_at
    {
        return Ok(());
    }
    Err(ReplayError::TooOld {
        stream: stream.to_owned(),
        first: part.first,
        stored_at,
    })
}
