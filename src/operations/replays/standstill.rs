//! Why a running replay makes no progress. Never changes anything.

use chrono::{TimeDelta, Utc};

use crate::{
    instance::{Activity, Instance},
    nats::{Bus, BusError, subjects},
    replay::{Replay, ReplayIssue, ReplayProgress, ReplayState},
};

/// The instances are asked when nothing was written for this long.
const SILENCE: TimeDelta = TimeDelta::seconds(5);

/// The issue that the active instance has written, or that can be found without one, as far as the caller's permissions
/// allow. When there is none, the reason why the consumers could not be inspected.
pub(super) async fn issue(
    bus: &Bus,
    replay: &Replay,
    progress: Option<&ReplayProgress>,
    unseen: Option<String>,
) -> Option<ReplayIssue> {
    if replay.state != ReplayState::Running {
        return None;
    }
    let since = Utc::now();
    let told = told(bus, replay, progress).await;
    told.or_else(|| unseen.map(|why| ReplayIssue { why, since }))
}

async fn told(
    bus: &Bus,
    replay: &Replay,
    progress: Option<&ReplayProgress>,
) -> Option<ReplayIssue> {
    let written = progress.and_then(|progress| progress.issue.clone());
    let heard_at = progress.map_or(replay.state_at, |progress| progress.at.max(replay.state_at));
    if Utc::now() - heard_at < SILENCE {
        return written;
    }
    let instances = match instances_of(bus, &replay.subscriber).await {
        Ok(instances) => instances,
        Err(error) => {
            tracing::debug!(%error, "replay status unknown: no instance can be asked");
            return written;
        }
    };
    let found = reason(&instances, replay).map(|why| ReplayIssue {
        why,
        since: written.as_ref().map_or(heard_at, |issue| issue.since),
    });
    found.or(written)
}

async fn instances_of(bus: &Bus, subscriber: &str) -> Result<Vec<Instance>, BusError> {
    let answers = bus.scatter_gather(&subjects::status_of(subscriber)).await?;
    let read = |answer: &bytes::Bytes| serde_json::from_slice(answer).ok();
    Ok(answers.iter().filter_map(read).collect())
}

/// Why none of these instances runs it.
fn reason(instances: &[Instance], replay: &Replay) -> Option<String> {
    let subscriber = &replay.subscriber;
    if instances.is_empty() {
        return Some(format!(
            "no instance of {subscriber} answers: an instance that starts continues the replay"
        ));
    }
    let shadow = replay.request.shadow.as_ref();
    if let Some(why) = shadow.and_then(|shadow| lacks_shadow(instances, shadow)) {
        return Some(why);
    }
    let may_run = |instance: &&Instance| {
        instance.activity == Activity::Active && instance.replay_issue.is_none()
    };
    if instances.iter().any(|instance| may_run(&instance)) {
        return None;
    }
    let why = |instance: &Instance| instance.replay_issue.clone().or(instance.issue.clone());
    instances.iter().find_map(why)
}

/// Why no instance can run a shadow: none has it, or the active instance of an ordered subscriber lacks it.
pub(super) fn lacks_shadow(instances: &[Instance], shadow: &str) -> Option<String> {
    let has = |instance: &Instance| instance.shadows.contains_key(shadow);
    let active = instances.iter().find(|one| one.holds_lease == Some(true));
    match active {
        Some(active) if !has(active) => Some(format!(
            "the active instance, pid {} on {}, has no shadow {shadow}: restart it with a build that has one",
            active.pid, active.host
        )),
        _ if !instances.iter().any(has) => Some(format!(
            "no instance has a shadow {shadow}: start one with a build that has it"
        )),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// An active instance with these fields changed.
    fn instance(but: &Value) -> Instance {
        let mut instance = json!({
            "subscriber": "s", "id": "1", "host": "h", "pid": 7, "version": "0", "started_at": Utc::now(),
            "activity": "active", "issue": null, "ordered": false, "holds_lease": null, "circuit": "closed",
            "running": null, "resting": null, "in_flight": 0, "in_flight_bytes": 0, "hottest": [], "concurrency": 1,
            "rate": null, "max_in_flight_bytes": 1, "timeout_ms": 1, "retry": "", "handled": 0, "failed": 0,
            "dead_lettered": 0, "last_delivery_at": null, "wants": [],
        });
        for (field, value) in but.as_object().unwrap() {
            instance[field] = value.clone();
        }
        serde_json::from_value(instance).unwrap()
    }

    fn reason_of(instances: &[Value], shadow: Option<&str>) -> Option<String> {
        let replay = json!({
            "id": crate::replay::tag::ReplayId::new(), "subscriber": "s", "ranges": [], "created_at": Utc::now(),
            "request": {
                "from": "beginning", "to": null, "names": [], "key": null, "correlation": null, "rate": null,
                "shadow": shadow, "follow_ups": false, "rehearse": false, "force": false,
            },
            "state": "running", "reason": null, "state_at": Utc::now(),
        });
        let instances: Vec<Instance> = instances.iter().map(instance).collect();
        reason(&instances, &serde_json::from_value(replay).unwrap())
    }

    #[test]
    fn a_missing_instance_is_no_cause_of_a_standstill() {
        let well = json!({});
        assert_eq!(reason_of(std::slice::from_ref(&well), None), None);
        let stuck = json!({ "activity": "starting", "issue": "denied" });
        assert_eq!(reason_of(&[stuck.clone(), well], None), None);
        assert_eq!(reason_of(&[stuck], None).as_deref(), Some("denied"));
        let blind = json!({ "replay_issue": "it may not look" });
        assert_eq!(
            reason_of(&[blind], None).as_deref(),
            Some("it may not look")
        );
        assert!(
            reason_of(&[], None)
                .unwrap()
                .contains("no instance of s answers")
        );
    }

    #[test]
    fn in_order_the_active_instance_needs_the_shadow() {
        let has = json!({ "shadows": { "v2": [] } });
        let without = json!({});
        assert_eq!(reason_of(&[has.clone(), without.clone()], Some("v2")), None);
        let nobody = reason_of(&[without], Some("v2")).unwrap();
        assert!(nobody.contains("no instance has a shadow v2"), "{nobody}");
        let active = json!({ "ordered": true, "holds_lease": true });
        let named = reason_of(&[has, active], Some("v2")).unwrap();
        assert!(named.contains("pid 7 on h"), "{named}");
    }
}
