//! Why a running replay makes no progress. Never changes anything.

use chrono::{TimeDelta, Utc};

use crate::{
    bus::{Bus, BusError},
    job::{Replay, ReplayProgress, ReplayState, ReplayTrouble},
    replica::{Activity, Replica, status_subject},
};

/// The instances are asked when nothing was written for this long.
const SILENCE: TimeDelta = TimeDelta::seconds(5);

/// The issue that the active instance has written, or that can be found without one, as far as the caller's permissions
/// allow. When there is none, the reason why the consumers could not be inspected.
pub(super) async fn trouble(
    bus: &Bus,
    replay: &Replay,
    progress: Option<&ReplayProgress>,
    unseen: Option<String>,
) -> Option<ReplayTrouble> {
    if replay.state != ReplayState::Running {
        return None;
    }
    let since = Utc::now();
    let told = told(bus, replay, progress).await;
    told.or_else(|| unseen.map(|why| ReplayTrouble { why, since }))
}

async fn told(
    bus: &Bus,
    replay: &Replay,
    progress: Option<&ReplayProgress>,
) -> Option<ReplayTrouble> {
    let written = progress.and_then(|progress| progress.trouble.clone());
    let heard_at = progress.map_or(replay.state_at, |progress| progress.at.max(replay.state_at));
    if Utc::now() - heard_at < SILENCE {
        return written;
    }
    let replicas = match replicas_of(bus, &replay.subscriber).await {
        Ok(replicas) => replicas,
        Err(error) => {
            tracing::debug!(%error, "replay status unknown: no instance can be asked");
            return written;
        }
    };
    let found = reason(&replicas, replay).map(|why| ReplayTrouble {
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

/// Why none of these instances runs it.
fn reason(replicas: &[Replica], replay: &Replay) -> Option<String> {
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
    let may_run = |replica: &&Replica| {
        replica.activity == Activity::Works && replica.replay_trouble.is_none()
    };
    if replicas.iter().any(|replica| may_run(&replica)) {
        return None;
    }
    let why = |replica: &Replica| replica.replay_trouble.clone().or(replica.trouble.clone());
    replicas.iter().find_map(why)
}

/// Why no instance can run a shadow: none has it, or the active instance of an ordered subscriber lacks it.
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

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// An active instance with these fields changed.
    fn replica(but: &Value) -> Replica {
        let mut replica = json!({
            "subscriber": "s", "id": "1", "host": "h", "pid": 7, "version": "0", "started_at": Utc::now(),
            "activity": "works", "trouble": null, "ordered": false, "holds_lease": null, "circuit": "closed",
            "running": null, "resting": null, "in_hand": 0, "in_hand_bytes": 0, "hottest": [], "concurrency": 1,
            "rate": null, "memory": 1, "timeout_ms": 1, "retry": "", "handled": 0, "failed": 0,
            "dead_lettered": 0, "last_delivery_at": null, "wants": [],
        });
        for (field, value) in but.as_object().unwrap() {
            replica[field] = value.clone();
        }
        serde_json::from_value(replica).unwrap()
    }

    fn reason_of(replicas: &[Value], shadow: Option<&str>) -> Option<String> {
        let replay = json!({
            "id": crate::replaying::ReplayId::new(), "subscriber": "s", "ranges": [], "created_at": Utc::now(),
            "request": {
                "from": "beginning", "to": null, "names": [], "key": null, "correlation": null, "rate": null,
                "shadow": shadow, "follow_ups": false, "rehearse": false, "force": false,
            },
            "state": "running", "reason": null, "state_at": Utc::now(),
        });
        let replicas: Vec<Replica> = replicas.iter().map(replica).collect();
        reason(&replicas, &serde_json::from_value(replay).unwrap())
    }

    #[test]
    fn who_may_run_it_is_no_reason_why_it_stands_still() {
        let well = json!({});
        assert_eq!(reason_of(std::slice::from_ref(&well), None), None);
        let stuck = json!({ "activity": "begins", "trouble": "denied" });
        assert_eq!(reason_of(&[stuck.clone(), well], None), None);
        assert_eq!(reason_of(&[stuck], None).as_deref(), Some("denied"));
        let blind = json!({ "replay_trouble": "it may not look" });
        assert_eq!(
            reason_of(&[blind], None).as_deref(),
            Some("it may not look")
        );
        assert!(
            reason_of(&[], None)
                .unwrap()
                .contains("no replica of s answers")
        );
    }

    #[test]
    fn in_order_the_replica_that_works_has_to_have_the_shadow() {
        let has = json!({ "shadows": { "v2": [] } });
        let without = json!({});
        assert_eq!(reason_of(&[has.clone(), without.clone()], Some("v2")), None);
        let nobody = reason_of(&[without], Some("v2")).unwrap();
        assert!(nobody.contains("no replica has a shadow v2"), "{nobody}");
        let active = json!({ "ordered": true, "holds_lease": true });
        let named = reason_of(&[has, active], Some("v2")).unwrap();
        assert!(named.contains("pid 7 on h"), "{named}");
    }
}
