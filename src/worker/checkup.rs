//! Whether a consumer is as it should be, and gets on: from one look to the next. Never asks the server.

use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

use crate::bus::{ConsumerLook, ConsumerSpec, durable_issues, setting_text};

/// For how long events may wait, and none come, though there is place.
const STUCK: Duration = Duration::from_secs(7);
/// How often in a row a setting is set back before it is only named: another one sets it too.
const TRIES: u32 = 3;
/// For how long a setting has to stay before it may be set back as often again.
const STAYS: Duration = Duration::from_secs(600);

/// What is known of one consumer.
pub(super) struct Checkup {
    /// How many deliveries there were, and since when there were no more.
    deliveries: u64,
    since: Instant,
    /// How often it was set back, and when it was last.
    tries: u32,
    tried_at: Instant,
    /// Why it could not be the last time.
    refused: Option<String>,
}

/// What a look has come to.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Verdict {
    /// Each in a sentence, with the cure.
    pub(super) issues: Vec<String>,
    /// It is to be set back.
    pub(super) set_back: bool,
    /// Nothing may be pulled from it.
    pub(super) stops: Option<String>,
}

impl Checkup {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            deliveries: 0,
            since: now,
            tries: 0,
            tried_at: now,
            refused: None,
        }
    }

    /// It was set back, or not; gives the issue then.
    pub(super) fn set_back(
        &mut self,
        spec: &ConsumerSpec,
        refused: Option<String>,
    ) -> Option<String> {
        self.refused = refused;
        self.unchanged(spec)
    }

    fn unchanged(&self, spec: &ConsumerSpec) -> Option<String> {
        let (stream, durable) = (&spec.stream, &spec.durable);
        let error = self.refused.as_ref()?;
        Some(format!(
            "the consumer {durable} of {stream} is not as it should be, and cannot be set back: {error}"
        ))
    }

    /// Judges a look; `has_place` says whether more events could be taken in.
    pub(super) fn judge(
        &mut self,
        spec: &ConsumerSpec,
        look: &ConsumerLook,
        has_place: bool,
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
        if self.tries > 0 && now - self.tried_at > STAYS {
            self.tries = 0;
        }
        verdict.set_back = !spoiled.is_empty() && self.tries < TRIES;
        if verdict.set_back {
            self.tries += 1;
            self.tried_at = now;
        } else {
            let still = spoiled.iter().map(|spoiled| still(spec, spoiled));
            verdict.issues.extend(still);
            let unchanged = self.unchanged(spec).filter(|_| !spoiled.is_empty());
            verdict.issues.extend(unchanged);
        }
        verdict.issues.extend(fewer(spec, look));
        verdict
            .issues
            .extend(self.stuck(spec, look, has_place, now));
        verdict
    }

    /// Whether events wait and none come, whatever the cause.
    fn stuck(
        &mut self,
        spec: &ConsumerSpec,
        look: &ConsumerLook,
        has_place: bool,
        now: Instant,
    ) -> Option<String> {
        let moves = look.deliveries() != self.deliveries;
        if moves || look.num_pending == 0 || look.paused || !has_place {
            self.deliveries = look.deliveries();
            self.since = now;
            return None;
        }
        if now - self.since < STUCK {
            return None;
        }
        let (stream, durable, waiting) = (&spec.stream, &spec.durable, look.num_pending);
        let (unanswered, most) = (look.num_ack_pending, look.max_ack_pending());
        Some(match unanswered >= most {
            true => format!(
                "{stream}: {waiting} events wait, and the server sends none, because {unanswered} deliveries to {durable} are \
                 unanswered (max_ack_pending is {most}): those that are in the hands of a replica that died come again after \
                 ack_wait; if handlers are slow, let fewer run or raise the limit of server, account or stream"
            ),
            false => format!(
                "{stream}: {waiting} events wait for {durable}, there is place for them, and none comes: the log of the worker \
                 says how its pulls end, and `nats consumer info {stream} {durable}` how the server has the consumer"
            ),
        })
    }
}

/// A setting that was set back, and is not as it should be.
fn still(spec: &ConsumerSpec, (setting, now, wanted): &(String, Value, Value)) -> String {
    let (stream, durable) = (&spec.stream, &spec.durable);
    if setting == "inactive_threshold" {
        let time = setting_text(setting, now);
        return format!(
            "the consumer {durable} of {stream} is deleted when no instance has pulled for {time} (inactive_threshold), and \
             then events may be handled again; the stream wants it so: take it away with `nats stream edit {stream} \
             --limit-consumer-inactive=0`"
        );
    }
    let (now, wanted) = (setting_text(setting, now), setting_text(setting, wanted));
    format!(
        "{setting} of the consumer {durable} of {stream} is {now} and not {wanted}, though it was set back: find who else changes \
         the consumer, or delete it with `nats consumer rm {stream} {durable}`: an instance makes it anew"
    )
}

/// Fewer deliveries may be unanswered than when the worker began.
fn fewer(spec: &ConsumerSpec, look: &ConsumerLook) -> Option<String> {
    let settings = spec.settings();
    let wanted = settings.get("max_ack_pending").and_then(Value::as_u64)?;
    let now = look.max_ack_pending();
    let (stream, durable) = (&spec.stream, &spec.durable);
    (now < wanted).then(|| {
        format!(
            "max_ack_pending of the consumer {durable} of {stream} is {now} and not {wanted}: all replicas together handle no \
             more at once; the next start of an instance sets it back"
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
    fn a_consumer_that_gets_on_has_no_issue() {
        let begun = Instant::now();
        let mut checkup = Checkup::new(begun);
        for second in 0..60 {
            let now = begun + Duration::from_secs(second);
            let look = look(json!({}), 5, second + 1);
            assert_eq!(checkup.judge(&spec(), &look, true, now), Verdict::default());
        }
    }

    #[test]
    fn events_that_wait_though_there_is_place_are_an_issue_within_ten_seconds() {
        let begun = Instant::now();
        let mut checkup = Checkup::new(begun);
        let mut judge = |second, pending, has_place| {
            let now = begun + Duration::from_secs(second);
            checkup
                .judge(&spec(), &look(json!({}), pending, 1), has_place, now)
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
    fn what_can_be_set_back_is_and_named_when_it_does_not_stay() {
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
    fn a_consumer_that_acknowledges_by_itself_stops_the_pulls() {
        let mut checkup = Checkup::new(Instant::now());
        let spoiled = look(json!({ "ack_policy": "none" }), 0, 0);
        let verdict = checkup.judge(&spec(), &spoiled, true, Instant::now());
        assert!(verdict.stops.is_some_and(|why| why.contains("ack_policy")));
    }
}
