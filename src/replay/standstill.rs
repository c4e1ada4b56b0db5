//! Why a replay that should run does not go on. Never changes anything.

use chrono::{TimeDelta, Utc};

use crate::{
    bus::{Bus, BusError},
    job::{Replay, ReplayProgress, ReplayState, ReplayTrouble},
    replica::{Replica, status_subject},
};

/// Its replicas are asked when nothing was written for so long.
const SILENCE: TimeDelta = TimeDelta::seconds(5);

/// What the replica that works has written, or what can be told without one, as far as who asks is allowed to.
pub(super) async fn trouble(
    bus: &Bus,
    replay: &Replay,
    progress: Option<&ReplayProgress>,
) -> Option<ReplayTrouble> {
    if replay.state != ReplayState::Running {
        return None;
    }
    let written = progress.and_then(|progress| progress.trouble.clone());
    let heard_at = progress.map_or(replay.state_at, |progress| progress.at.max(replay.state_at));
    if Utc::now() - heard_at < SILENCE {
        return written;
    }
    let replicas = match replicas_of(bus, &replay.subscriber).await {
        Ok(replicas) => replicas,
        Err(error) => {
            tracing::debug!(%error, "no replica can be asked why the replay does not go on");
            return written;
        }
    };
    let begun = progress.is_some();
    let found = reason(&replicas, replay, begun).map(|why| ReplayTrouble {
        why,
        since: written.as_ref().map_or(heard_at, |trouble| trouble.since),
    });
    found.or(written)
}

async fn replicas_of(bus: &Bus, subscriber: &str) -> Result<Vec<Replica>, BusError> {
    let answers = bus.ask_all(&status_subject(subscriber)).await?;
    let read = |answer: &bytes::Bytes| serde_json::from_slice(answer).ok();
    Ok(answers.iter().filter_map(read).collect())
}

/// Why none of these replicas runs it.
fn reason(replicas: &[Replica], replay: &Replay, begun: bool) -> Option<String> {
    let subscriber = &replay.subscriber;
    if replicas.is_empty() {
        return Some(format!(
            "no replica of {subscriber} answers: one that starts goes on with it"
        ));
    }
    let shadow = replay.request.shadow.as_ref();
    if let Some(why) = shadow.and_then(|shadow| lacks_shadow(replicas, shadow)) {
        return Some(why);
    }
    if begun {
        return None;
    }
    let why = |replica: &Replica| replica.replay_trouble.clone().or(replica.trouble.clone());
    let troubles: Option<Vec<String>> = replicas.iter().map(why).collect();
    troubles?.into_iter().next()
}

/// Why nobody calls the handlers of a shadow: none has it, or, in order, the only replica that works has not.
pub(super) fn lacks_shadow(replicas: &[Replica], shadow: &str) -> Option<String> {
    let has = |replica: &Replica| replica.shadows.contains_key(shadow);
    let active = replicas.iter().find(|one| one.holds_lease == Some(true));
    match active {
        Some(active) if !has(active) => Some(format!(
            "the replica that works, pid {} on {}, has no shadow {shadow}: restart it with a build that has",
            active.pid, active.host
        )),
        _ if !replicas.iter().any(has) => Some(format!(
            "no replica has a shadow {shadow}: start one with a build that has"
        )),
        _ => None,
    }
}
