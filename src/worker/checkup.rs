//! Whether a consumer has the right settings and makes progress, from one look to the next. Never contacts the server.

use std::{collections::BTreeMap, time::Duration};

use serde_json::Value;
use tokio::time::Instant;

use crate::nats::{ConsumerLook, ConsumerSpec, durable_issues, setting_text};

/// How long events may wait without a delivery although there is capacity.
const STUCK: Duration = Duration::from_secs(7);
/// How often one wrong value of a setting is corrected. After that it is only reported: another process sets it too.
const TRIES: u32 = 3;
/// How long after its last correction a setting may be corrected as often again.
const STAYS: Duration = Duration::from_secs(600);

/// The state of one consumer.
pub(super) struct Checkup {
    /// How many deliveries there were, and since when there have been no more.
    deliveries: u64,
    since: Instant,
    /// The corrections of each setting, by its name and its wrong value.
    tries: BTreeMap<(String, String), Tries>,
    /// Why the last correction failed.
    refused: Option<String>,
}

/// How often a setting was to be corrected.
struct Tries {
    count: u32,
    at: Instant,
    /// Whether a correction succeeded; false when each was refused.
    was_set_back: bool,
}

/// The result of a look.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Verdict {
    /// One sentence each, with the cure.
    pub(super) issues: Vec<String>,
    /// Whether the settings are to be corrected.
    pub(super) set_back: bool,
    /// Why nothing may be pulled from the consumer.
    pub(super) stops: Option<String>,
}

impl Checkup {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            deliveries: 0,
            since: now,
            tries: BTreeMap::new(),
            refused: None,
        }
    }

    /// Notes whether the correction succeeded; returns the issue when it did not.
    pub(super) fn set_back(
        &mut self,
        spec: &ConsumerSpec,
        refused: Option<String>,
    ) -> Option<String> {
        if refused.is_none() {
            let last = self.tries.values().map(|tries| tries.at).max();
            let tried_now = |tries: &&mut Tries| Some(tries.at) == last;
            let tried = self.tries.values_mut().filter(tried_now);
            tried.for_each(|tries| tries.was_set_back = true);
        }
        self.refused = refused;
        self.unchanged(spec)
    }

    fn unchanged(&self, spec: &ConsumerSpec) -> Option<String> {
        let (stream, durable) = (&spec.stream, &spec.durable);
        let error = self.refused.as_ref()?;
        Some(format!(
            "the consumer {durable} of {stream} has wrong settings, and cannot be set back: {error}"
        ))
    }

    /// Judges a look; `has_room` states whether there is capacity for more events.
    pub(super) fn judge(
        &mut self,
        spec: &ConsumerSpec,
        look: &ConsumerLook,
        has_room: bool,
        now: Instant,
    ) -> Verdict {
        let (stream, durable) = (&spec.stream, &spec.durable);
        let mut verdict = Verdict::default();
        for issue in durable_issues(stream, durable, &look.config) {
            if issue.stops && verdict.stops.is_none() {
                verdict.stops = Some(issue.text.clone());
            }
            verdict.issues.push(issue.text);
        }
        let spoiled = spec.spoiled(&look.config);
        self.tries.retain(|_, tries| now - tries.at <= STAYS);
        let is_open = |one| {
            let tries = self.tries.get(&of(one));
            tries.is_none_or(|tries| tries.count < TRIES)
        };
        // All settings are written at once.
        verdict.set_back = spoiled.iter().any(is_open);
        if verdict.set_back {
            for one in &spoiled {
                let tries = self.tries.entry(of(one)).or_insert(Tries {
                    count: 0,
                    at: now,
                    was_set_back: false,
                });
                (tries.count, tries.at) = (tries.count.saturating_add(1), now);
            }
        } else {
            let was_set_back = |one| {
                let tries = self.tries.get(&of(one));
                tries.is_some_and(|tries| tries.was_set_back)
            };
            let still = spoiled
                .iter()
                .map(|one| still(spec, one, was_set_back(one)));
            verdict.issues.extend(still);
            let unchanged = self.unchanged(spec).filter(|_| !spoiled.is_empty());
            verdict.issues.extend(unchanged);
        }
        verdict.issues.extend(look.beyond.clone());
        verdict.issues.extend(fewer(spec, look));
        verdict.issues.extend(self.stuck(spec, look, has_room, now));
        verdict
    }

    /// The issue when events wait and none is delivered, whatever the cause.
    fn stuck(
        &mut self,
        spec: &ConsumerSpec,
        look: &ConsumerLook,
        has_room: bool,
        now: Instant,
    ) -> Option<String> {
        let moves = look.deliveries() != self.deliveries;
        if moves || look.num_pending == 0 || look.paused || !has_room {
            self.deliveries = look.deliveries();
            self.since = now;
            return None;
        }
        if now - self.since < STUCK {
            return None;
        }
        let (stream, durable, waiting) = (&spec.stream, &spec.durable, look.num_pending);
        let (ack_pending, most) = (look.num_ack_pending, look.max_ack_pending());
        Some(match ack_pending >= most {
            true => format!(
                "{stream}: {waiting} events wait, and the server sends none, because {ack_pending} deliveries to {durable} are \
                 not acknowledged (max_ack_pending is {most}): those in flight in an instance that died are redelivered after \
                 ack_wait; if handlers are slow, let fewer run or raise the limit of server, account or stream"
            ),
            false => format!(
                "{stream}: {waiting} events wait for {durable}, max_ack_pending allows them, and none is delivered: \
                 the log of the worker says how its pulls end, and `nats consumer info {stream} {durable}` shows the \
                 state of the consumer"
            ),
        })
    }
}

/// A setting and its present value.
fn of((setting, now, _): &(String, Value, Value)) -> (String, String) {
    (setting.clone(), now.to_string())
}

/// The issue of a setting that is wrong and is no longer corrected.
fn still(
    spec: &ConsumerSpec,
    (setting, now, wanted): &(String, Value, Value),
    was_set_back: bool,
) -> String {
    let (stream, durable) = (&spec.stream, &spec.durable);
    if setting == "inactive_threshold" {
        let time = setting_text(setting, now);
        return format!(
            "the consumer {durable} of {stream} is deleted when no instance has pulled for {time} \
             (inactive_threshold), and then events may be handled again; the stream sets this limit: remove it with \
             `nats stream edit {stream} --limit-consumer-inactive=0`"
        );
    }
    let (now, wanted) = (setting_text(setting, now), setting_text(setting, wanted));
    let (though, find) = match was_set_back {
        true => (
            ", though it was set back",
            "find out which client changes the consumer, or ",
        ),
        false => ("", ""),
    };
    format!(
        "{setting} of the consumer {durable} of {stream} is {now} and not {wanted}{though}: {find}delete the \
         consumer with `nats consumer rm {stream} {durable}`: an instance recreates it"
    )
}

/// The issue when fewer deliveries may be ack pending than when the worker began.
fn fewer(spec: &ConsumerSpec, look: &ConsumerLook) -> Option<String> {
    let settings = spec.settings();
    let wanted = settings.get("max_ack_pending").and_then(Value::as_u64)?;
    let now = look.max_ack_pending();
    let (stream, durable) = (&spec.stream, &spec.durable);
    (now < wanted).then(|| {
        format!(
            "max_ack_pending of the consumer {durable} of {stream} is {now} and not {wanted}: all instances together \
             handle no more events at once; the next start of an instance sets it back"
        )
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn spec() -> ConsumerSpec {
        ConsumerSpec::new("EVENTS", "welcome", vec!["user.created".to_owned()])
    }

    fn look(changes: Value, pending: u64, delivered: u64) -> ConsumerLook {
        let mut config = Value::Object(spec().settings());
        config["ack_policy"] = json!("explicit");
        for (setting, value) in changes.as_object().unwrap() {
            config[setting] = value.clone();
        }
        serde_json::from_value(json!({
            "config": config, "delivered": { "consumer_seq": delivered, "stream_seq": delivered },
            "ack_floor": { "consumer_seq": 0, "stream_seq": 0 }, "num_pending": pending, "num_ack_pending": 0
        }))
        .unwrap()
    }

    #[test]
    fn a_consumer_that_progresses_has_no_issue() {
        let begun = Instant::now();
        let mut checkup = Checkup::new(begun);
        for second in 0..60 {
            let now = begun + Duration::from_secs(second);
            let look = look(json!({}), 5, second + 1);
            assert_eq!(checkup.judge(&spec(), &look, true, now), Verdict::default());
        }
    }

    #[test]
    fn events_that_wait_beside_free_slots_are_an_issue() {
        let begun = Instant::now();
        let mut checkup = Checkup::new(begun);
        let mut judge = |second, pending, has_room| {
            let now = begun + Duration::from_secs(second);
            checkup
                .judge(&spec(), &look(json!({}), pending, 1), has_room, now)
                .issues
        };
        assert!(judge(0, 5, true).is_empty());
        assert!(judge(6, 5, true).is_empty());
        let said = judge(8, 5, true);
        assert!(said[0].contains("5 events wait for welcome"), "{said:?}");
        assert!(judge(10, 0, true).is_empty(), "nothing waits");
        assert!(judge(18, 5, false).is_empty(), "there is no place");
        assert!(judge(19, 5, true).is_empty());
        assert!(!judge(26, 5, true).is_empty());
    }

    #[test]
    fn a_setting_is_restored_and_named_when_it_changes_again() {
        let begun = Instant::now();
        for changes in [
            json!({ "headers_only": true }),
            json!({ "priority_groups": ["g"], "priority_policy": "overflow" }),
            json!({ "max_deliver": 3 }),
            json!({ "backoff": [1_000_000_000] }),
            json!({ "ack_wait": 1_000_000_000 }),
            json!({ "filter_subject": "user.other" }),
            json!({ "inactive_threshold": 1_000_000_000 }),
        ] {
            let mut checkup = Checkup::new(begun);
            let spoiled = look(changes.clone(), 0, 0);
            for _ in 0..TRIES {
                let verdict = checkup.judge(&spec(), &spoiled, true, begun);
                assert!(verdict.set_back && verdict.issues.is_empty(), "{changes}");
            }
            let verdict = checkup.judge(&spec(), &spoiled, true, begun);
            assert!(!verdict.set_back && !verdict.issues.is_empty(), "{changes}");
        }
    }

    #[test]
    fn each_setting_is_restored_as_often_as_any_other() {
        let begun = Instant::now();
        let mut checkup = Checkup::new(begun);
        for at in 0..4 * u64::from(TRIES) {
            let now = begun + Duration::from_secs(at);
            let spoiled = look(json!({ "ack_wait": 1_000_000_000 + at }), 0, 0);
            let verdict = checkup.judge(&spec(), &spoiled, true, now);
            assert!(verdict.set_back && verdict.issues.is_empty(), "{at}");
            assert_eq!(checkup.set_back(&spec(), None), None);
        }
        let now = begun + Duration::from_secs(60);
        for (setting, value) in [
            ("headers_only", json!(true)),
            ("max_deliver", json!(3)),
            ("filter_subject", json!("user.other")),
        ] {
            let verdict = checkup.judge(&spec(), &look(json!({ setting: value }), 0, 0), true, now);
            assert!(verdict.set_back, "{setting}");
        }
    }

    #[test]
    fn only_restored_settings_are_reported_as_restored() {
        let begun = Instant::now();
        let spoiled = look(json!({ "ack_wait": 1_000_000_000 }), 0, 0);
        for refused in [None, Some("no right")] {
            let mut checkup = Checkup::new(begun);
            for _ in 0..TRIES {
                assert!(checkup.judge(&spec(), &spoiled, true, begun).set_back);
                let _ = checkup.set_back(&spec(), refused.map(str::to_owned));
            }
            let verdict = checkup.judge(&spec(), &spoiled, true, begun);
            let said = verdict.issues.join("; ");
            assert_eq!(said.contains("was set back"), refused.is_none(), "{said}");
            assert_eq!(said.contains("no right"), refused.is_some(), "{said}");
        }
    }

    #[test]
    fn a_consumer_that_acknowledges_by_itself_stops_the_pulls() {
        let mut checkup = Checkup::new(Instant::now());
        let spoiled = look(json!({ "ack_policy": "none" }), 0, 0);
        let verdict = checkup.judge(&spec(), &spoiled, true, Instant::now());
        assert!(verdict.stops.is_some_and(|why| why.contains("ack_policy")));
    }
}
