//! Every setting of a durable consumer and of a stream, and how Tidings treats it: data. Never calls the server and
//! changes nothing.
//!
//! A setting that decides what is delivered is either owned and restored, or compared and reported with its cure. A
//! test checks that each setting that the server knows is in the tables.

mod republish;
mod shown;
mod stream;

use serde_json::{Map, Value, json};

pub use shown::setting_text;
pub(crate) use stream::Role;
#[cfg(feature = "outbox")]
pub(in crate::nats) use stream::transforms;
pub(in crate::nats) use stream::{Looked, issues};

/// How a setting of a durable is treated.
enum Rule {
    /// An instance sets it, and restores it.
    Owned,
    /// It cannot be restored: returns what is wrong with it, if anything.
    Compared(fn(&Value) -> Option<Wrong>),
    /// The server reports its limit when more is requested, and Tidings keeps to that limit.
    Obeyed,
    /// It decides nothing that matters here; the text states why.
    Harmless(#[allow(dead_code, reason = "why, for the reader of the table")] &'static str),
}

/// What is wrong with a setting.
struct Wrong {
    what: &'static str,
    /// The subscriber must not pull while it is so.
    stops: bool,
}

/// An issue of a durable that cannot be repaired by restoring a setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DurableIssue {
    /// In a sentence, with the cure.
    pub(crate) text: String,
    /// The subscriber must not pull from the durable.
    pub(crate) stops: bool,
}

const ONLY_PUSH: Rule = Rule::Harmless("the server refuses it on a pull consumer");
const WHERE_IT_BEGAN: Rule =
    Rule::Harmless("where it began, which is over, or lies beyond the stream: see `starts_beyond`");

/// All settings of a consumer.
const DURABLE: &[(&str, Rule)] = &[
    ("name", Rule::Owned),
    ("durable_name", Rule::Owned),
    ("description", Rule::Harmless("a text")),
    ("metadata", Rule::Harmless("a text")),
    ("deliver_policy", WHERE_IT_BEGAN),
    ("opt_start_seq", WHERE_IT_BEGAN),
    ("opt_start_time", WHERE_IT_BEGAN),
    ("ack_policy", Rule::Compared(ack_policy)),
    ("ack_wait", Rule::Owned),
    ("max_deliver", Rule::Owned),
    ("backoff", Rule::Owned),
    ("max_ack_pending", Rule::Owned),
    ("filter_subject", Rule::Owned),
    ("filter_subjects", Rule::Owned),
    ("headers_only", Rule::Owned),
    ("priority_groups", Rule::Owned),
    ("priority_policy", Rule::Owned),
    ("priority_timeout", Rule::Owned),
    ("inactive_threshold", Rule::Owned),
    ("replay_policy", Rule::Compared(replay_policy)),
    ("mem_storage", Rule::Compared(mem_storage)),
    ("deliver_subject", Rule::Compared(deliver_subject)),
    ("deliver_group", ONLY_PUSH),
    ("rate_limit_bps", ONLY_PUSH),
    ("flow_control", ONLY_PUSH),
    ("idle_heartbeat", ONLY_PUSH),
    ("direct", ONLY_PUSH),
    ("sourcing", ONLY_PUSH),
    ("max_waiting", Rule::Obeyed),
    ("max_batch", Rule::Obeyed),
    ("max_expires", Rule::Obeyed),
    ("max_bytes", Rule::Obeyed),
    (
        "sample_freq",
        Rule::Harmless("only how often the server reports acknowledgements"),
    ),
    (
        "num_replicas",
        Rule::Harmless("how safe its state is; a lost consumer is recreated at its position"),
    ),
    (
        "pause_until",
        Rule::Harmless("`tidings subscribers pause` sets it, and the status shows it"),
    ),
];

fn ack_policy(value: &Value) -> Option<Wrong> {
    (*value != json!("explicit")).then_some(Wrong {
        what: "an event would count as handled before its handler has ended",
        stops: true,
    })
}

fn replay_policy(value: &Value) -> Option<Wrong> {
    (*value != json!("instant")).then_some(Wrong {
        what: "events are delivered as slowly as they were published",
        stops: false,
    })
}

fn mem_storage(value: &Value) -> Option<Wrong> {
    (*value == json!(true)).then_some(Wrong {
        what: "the server forgets acknowledgements when it restarts, and their events are handled again",
        stops: false,
    })
}

fn deliver_subject(value: &Value) -> Option<Wrong> {
    (!is_unset(Some(value))).then_some(Wrong {
        what: "it pushes events to a subject, and answers no pull",
        stops: true,
    })
}

/// The settings of a durable that are owned and must stay unset.
pub(in crate::nats) fn unset() -> Map<String, Value> {
    let names = [
        "backoff",
        "headers_only",
        "inactive_threshold",
        "priority_groups",
        "priority_policy",
        "priority_timeout",
    ];
    names
        .into_iter()
        .map(|name| (name.to_owned(), Value::Null))
        .collect()
}

/// Whether a setting is at its default: the server omits most default values.
pub(in crate::nats) fn is_unset(value: Option<&Value>) -> bool {
    match value {
        None | Some(Value::Null) => true,
        Some(Value::Bool(is_set)) => !is_set,
        Some(Value::Number(number)) => number.as_i64() == Some(0),
        Some(Value::String(text)) => text.is_empty() || text == "none",
        Some(Value::Array(items)) => items.is_empty(),
        Some(Value::Object(items)) => items.is_empty(),
    }
}

/// Whether a setting has the wanted value; a wanted `null` means that it must be unset.
pub(in crate::nats) fn is_as_wanted(now: Option<&Value>, wanted: &Value) -> bool {
    now == Some(wanted) || is_unset(now) && (is_unset(Some(wanted)) || *wanted == json!(-1))
}

/// Writes settings over a configuration.
pub(in crate::nats) fn put_over(config: &mut Map<String, Value>, wanted: Map<String, Value>) {
    for (setting, wanted) in wanted {
        match wanted {
            Value::Null => drop(config.remove(&setting)),
            wanted => drop(config.insert(setting, wanted)),
        }
    }
}

/// The issues of a durable that cannot be repaired by restoring settings.
pub(crate) fn durable_issues(
    stream: &str,
    durable: &str,
    config: &Map<String, Value>,
) -> Vec<DurableIssue> {
    let wrong = DURABLE.iter().filter_map(|(setting, rule)| {
        let Rule::Compared(check) = rule else {
            return None;
        };
        let value = config.get(*setting)?;
        let Wrong { what, stops } = check(value)?;
        let value = setting_text(setting, value);
        let text = format!(
            "{setting} of the consumer {durable} of {stream} is {value}: {what}. The setting cannot be changed: \
             delete the consumer with `nats consumer rm {stream} {durable}`, and an instance recreates it"
        );
        Some(DurableIssue { text, stops })
    });
    wrong.collect()
}

/// The issue of a durable whose next sequence lies beyond the end of its stream.
pub(crate) fn starts_beyond(
    stream: &str,
    durable: &str,
    delivered: u64,
    last: u64,
) -> Option<String> {
    let next = delivered.saturating_add(1);
    (delivered > last).then(|| {
        format!(
            "the consumer {durable} of {stream} delivers from sequence {next} on, and {stream} ends with {last}: \
             nothing is delivered until the stream reaches that sequence. Delete the consumer with `nats consumer rm \
             {stream} {durable}`: an instance recreates it at the end of the stream, and `tidings replay start \
             {durable}` replays what was published before"
        )
    })
}

/// The limit that the server names at the end of a refusal: "... exceeds system limit of 50".
pub(in crate::nats) fn limit_in(description: &str) -> Option<u64> {
    let (_, limit) = description.rsplit_once("limit of ")?;
    let digits: String = limit.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok().filter(|limit| *limit > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Bus, nats::protocol::api};
    use tidings_test_servers::NatsServer;

    fn of(config: Value) -> Vec<DurableIssue> {
        durable_issues("EVENTS", "welcome", config.as_object().unwrap())
    }

    #[test]
    fn a_durable_as_an_instance_makes_it_has_no_issue() {
        assert!(of(json!({ "ack_policy": "explicit", "replay_policy": "instant" })).is_empty());
    }

    #[test]
    fn a_setting_that_cannot_be_restored_is_named_with_its_cure() {
        for (setting, value, stops) in [
            ("ack_policy", json!("none"), true),
            ("ack_policy", json!("all"), true),
            ("replay_policy", json!("original"), false),
            ("mem_storage", json!(true), false),
            ("deliver_subject", json!("x.y"), true),
        ] {
            let mut config = json!({ "ack_policy": "explicit", "replay_policy": "instant" });
            config[setting] = value;
            let found = of(config);
            assert_eq!(found.len(), 1, "{setting}");
            assert_eq!(found[0].stops, stops, "{setting}");
            assert!(found[0].text.contains(setting));
            assert!(found[0].text.contains("nats consumer rm EVENTS welcome"));
        }
    }

    #[test]
    fn a_durable_that_begins_behind_the_next_message_is_named() {
        assert_eq!(starts_beyond("EVENTS", "welcome", 0, 0), None);
        assert_eq!(starts_beyond("EVENTS", "welcome", 5, 5), None);
        let said = starts_beyond("EVENTS", "welcome", 999, 5).unwrap();
        assert!(said.contains("from sequence 1000 on"), "{said}");
        assert!(said.contains("nats consumer rm EVENTS welcome"), "{said}");
    }

    #[test]
    fn a_limit_is_read_from_the_servers_words() {
        let said = "consumer max ack pending exceeds system limit of 50";
        assert_eq!(limit_in(said), Some(50));
        assert_eq!(limit_in("exceeds limit of 0"), None);
        assert_eq!(limit_in("something else"), None);
    }

    #[test]
    fn owned_settings_that_are_not_set_are_in_the_table() {
        for setting in unset().keys() {
            let is_owned = |row: &&(&str, Rule)| row.0 == setting && matches!(row.1, Rule::Owned);
            assert!(DURABLE.iter().any(|row| is_owned(&row)), "{setting}");
        }
    }

    /// When the server knows a setting that is in no table, this test fails: decide how to treat it.
    #[tokio::test]
    async fn each_setting_that_the_server_reports_is_in_a_table() {
        let server = NatsServer::start().await.unwrap();
        let bus = Bus::connect(server.url()).await.unwrap();
        for (at, mut config) in stream::everything().into_iter().enumerate() {
            let name = format!("S{at}");
            config["name"] = json!(name);
            if config.get("mirror").is_none() {
                config["subjects"] = json!([format!("s{at}.>")]);
            }
            let subject = api::stream_create(&name);
            let made: Value = bus.api(&subject, &config).await.unwrap();
            for (setting, value) in made["config"].as_object().unwrap() {
                assert!(stream::is_known(setting), "{setting}: {value} of a stream");
            }
        }
        let pull = json!({
            "durable_name": "pull", "ack_policy": "explicit", "description": "d", "deliver_policy": "by_start_sequence",
            "opt_start_seq": 3, "ack_wait": 1_000_000_000, "max_deliver": 5, "backoff": [1_000_000_000],
            "filter_subjects": ["s0.a", "s0.b"], "sample_freq": "50%", "max_waiting": 9, "max_ack_pending": 9,
            "headers_only": true, "max_batch": 5, "max_expires": 1_000_000_000, "max_bytes": 5,
            "inactive_threshold": 60_000_000_000_u64, "num_replicas": 1, "mem_storage": true,
            "metadata": { "a": "b" }, "priority_groups": ["g"], "priority_policy": "pinned_client",
            "priority_timeout": 1_000_000_000, "pause_until": "2100-01-01T00:00:00Z"
        });
        let push = json!({
            "durable_name": "push", "ack_policy": "explicit", "deliver_subject": "x.y", "deliver_group": "g",
            "deliver_policy": "by_start_time", "opt_start_time": "2020-01-01T00:00:00Z", "filter_subject": "s0.a",
            "rate_limit_bps": 100_000, "flow_control": true, "idle_heartbeat": 1_000_000_000
        });
        let mut seen = 0;
        for config in [pull, push] {
            let name = config["durable_name"].as_str().unwrap().to_owned();
            let request = json!({ "stream_name": "S0", "config": config, "action": "create" });
            let subject = api::consumer_create("S0", &name);
            let made: Value = bus.api(&subject, &request).await.unwrap();
            for (setting, value) in made["config"].as_object().unwrap() {
                seen += 1;
                let is_known = DURABLE.iter().any(|(known, _)| known == setting);
                assert!(is_known, "{setting}: {value} of a consumer");
            }
        }
        assert!(seen > 30, "{seen} settings were seen");
    }
}
