//! The settings of streams: of events, of the internal streams, and of the bucket.

use serde_json::{Map, Value, json};
use tidings_contract::{Name, Pattern};

use super::{is_unset, republish::republish, setting_text};

/// The purpose of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Role {
    /// It carries events.
    Events,
    /// It stores dead letters.
    DeadLetters,
    /// Events wait in it for their next attempt.
    Retries,
    /// It is the bucket of the workers.
    Bucket,
}

/// A stream under inspection.
pub(in crate::nats) struct Looked<'a> {
    pub(in crate::nats) stream: &'a str,
    pub(in crate::nats) role: Role,
    pub(in crate::nats) config: &'a Map<String, Value>,
    pub(in crate::nats) messages: u64,
    pub(in crate::nats) bytes: u64,
    /// The maximum size of a message on the server, in bytes.
    pub(in crate::nats) largest: usize,
    /// The subjects of the streams of Tidings; only requested from the server where they matter.
    pub(in crate::nats) ours: &'a [String],
}

/// How a setting is treated.
enum Rule {
    /// Returns what is wrong with it, with its cure, if anything.
    Compared(fn(&Looked<'_>, &Value) -> Option<String>),
    /// It decides nothing that matters here, or is reported elsewhere; the text states why.
    Harmless(#[allow(dead_code, reason = "why, for the reader of the table")] &'static str),
}

use Rule::{Compared, Harmless};

const A_TEXT: Rule = Harmless("a text");
/// `streams apply` sets it, and the bucket is created with it.
const APPLIED: Rule = Harmless("`tidings streams apply` sets it; what is stored is delivered");
const KEEPS_MORE: Rule = Harmless("it keeps more than it must");
const NOT_DELIVERY: Rule = Harmless("how it is stored, not what is delivered");

/// All settings of a stream.
const STREAM: &[(&str, Rule)] = &[
    ("name", A_TEXT),
    ("description", A_TEXT),
    ("metadata", A_TEXT),
    ("template_owner", A_TEXT),
    (
        "subjects",
        Harmless("those of its subscribers are looked for, by name"),
    ),
    ("subject_transform", Compared(subject_transform)),
    ("retention", Compared(retention)),
    (
        "discard",
        Harmless("it matters with a limit, which is compared"),
    ),
    (
        "discard_new_per_subject",
        Harmless("it matters with max_msgs_per_subject"),
    ),
    (
        "max_msgs",
        Compared(|looked, value| fills(looked, "max_msgs", value, looked.messages)),
    ),
    (
        "max_bytes",
        Compared(|looked, value| fills(looked, "max_bytes", value, looked.bytes)),
    ),
    ("max_msgs_per_subject", Compared(max_msgs_per_subject)),
    ("max_age", Compared(max_age)),
    ("max_msg_size", Compared(max_msg_size)),
    (
        "max_consumers",
        Harmless("a consumer that is refused is named with the server's words"),
    ),
    (
        "consumer_limits",
        Harmless("obeyed; what of it cannot be is named with the consumer"),
    ),
    ("storage", Compared(storage)),
    ("persist_mode", Compared(persist_mode)),
    ("num_replicas", NOT_DELIVERY),
    ("placement", NOT_DELIVERY),
    ("compression", NOT_DELIVERY),
    ("first_seq", NOT_DELIVERY),
    ("no_ack", Compared(no_ack)),
    ("sealed", Compared(sealed)),
    (
        "mirror",
        Compared(|looked, value| comes_from_elsewhere(looked, "mirror", value)),
    ),
    (
        "sources",
        Compared(|looked, value| comes_from_elsewhere(looked, "sources", value)),
    ),
    ("mirror_direct", NOT_DELIVERY),
    ("republish", Compared(republish)),
    ("deny_delete", KEEPS_MORE),
    ("deny_purge", KEEPS_MORE),
    (
        "allow_rollup_hdrs",
        Harmless("a publisher's right, as a purge is"),
    ),
    ("allow_direct", APPLIED),
    ("allow_atomic", APPLIED),
    ("duplicate_window", APPLIED),
    ("allow_batched", Harmless("Tidings sends none to it")),
    (
        "allow_msg_ttl",
        Harmless("the publisher of such an event chooses its lifetime"),
    ),
    (
        "subject_delete_marker_ttl",
        Harmless("markers are not events, and are skipped"),
    ),
    ("allow_msg_counter", Compared(allow_msg_counter)),
    (
        "allow_msg_schedules",
        Harmless("of the retries it is compared though it is not set"),
    ),
];

/// The issues of a stream, each in a sentence with its cure. `subjects` are those that its subscribers want.
pub(in crate::nats) fn issues(looked: &Looked<'_>, subjects: &[String]) -> Vec<String> {
    let mut found: Vec<String> = STREAM
        .iter()
        .filter_map(|(setting, rule)| {
            let Compared(check) = rule else { return None };
            check(looked, looked.config.get(*setting)?)
        })
        .collect();
    found.extend(without_schedules(looked));
    found.extend(not_taken(looked, subjects));
    found
}

#[cfg(test)]
pub(super) fn is_known(setting: &str) -> bool {
    STREAM.iter().any(|(known, _)| *known == setting)
}

fn edit(stream: &str, option: &str) -> String {
    format!("`nats stream edit {stream} --{option}`")
}

/// The cure for a setting that cannot be changed.
fn anew(looked: &Looked<'_>) -> String {
    let stream = looked.stream;
    match looked.role {
        Role::Bucket => format!(
            "the setting cannot be changed: stop the workers, delete the bucket with `nats stream rm {stream}`, and \
             start the workers, which recreate it; parked keys and replays are lost"
        ),
        _ => format!(
            "the setting cannot be changed: copy the messages of the stream, delete it with `nats stream rm \
             {stream}`, and create it with `tidings streams apply`"
        ),
    }
}

fn subject_transform(looked: &Looked<'_>, value: &Value) -> Option<String> {
    transforms(looked.stream, value)
}

/// The issue of a stream that transforms subjects, with its cure.
pub(in crate::nats) fn transforms(stream: &str, value: &Value) -> Option<String> {
    (!is_unset(Some(value))).then(|| {
        let cure = edit(stream, "no-transform");
        format!(
            "subject_transform of {stream} is {value}: messages are stored under another subject, so no subscriber \
             receives them; remove the setting with {cure}"
        )
    })
}

fn retention(looked: &Looked<'_>, value: &Value) -> Option<String> {
    let stream = looked.stream;
    let wanted = match looked.role {
        // A stream of events may be a work queue: each event leaves it when it was handled.
        Role::Events => return None,
        Role::Retries => "workqueue",
        Role::DeadLetters | Role::Bucket => "limits",
    };
    (*value != json!(wanted)).then(|| {
        let cure = match (looked.role, value == "interest") {
            (Role::DeadLetters, true) => "set retention back with `tidings streams apply`".to_owned(),
            _ => anew(looked),
        };
        format!(
            "retention of {stream} is {value} and not {wanted}: it deletes messages that it must keep, or keeps \
             messages that it must delete; {cure}"
        )
    })
}

/// A limit that, when it is reached, removes the oldest messages or refuses new ones.
fn fills(looked: &Looked<'_>, setting: &str, value: &Value, now: u64) -> Option<String> {
    let limit = value.as_u64().filter(|limit| *limit > 0)?;
    let stream = looked.stream;
    // Reported at four fifths, so that the operator has time to act.
    if now < limit - limit / 5 {
        return None;
    }
    let is_refusing = looked.config.get("discard") == Some(&json!("new"));
    let what = match (is_refusing, looked.role) {
        (true, Role::Bucket) => {
            "when it is full it takes no entry, and then no instance can acquire the lease"
        }
        (true, _) => "when it is full it refuses new messages",
        (false, _) => "when it is full it silently drops the oldest messages",
    };
    let option = setting.replace('_', "-");
    let cure = edit(stream, &format!("{option}=..."));
    Some(format!(
        "{stream} holds {now} of {setting} {limit}: {what}; raise the limit with {cure}, and in the configuration"
    ))
}

fn max_msgs_per_subject(looked: &Looked<'_>, value: &Value) -> Option<String> {
    let stream = looked.stream;
    let limit = value.as_i64().filter(|limit| *limit > 0)?;
    if looked.role == Role::Bucket {
        return None;
    }
    let cure = edit(stream, "max-msgs-per-subject=-1");
    Some(format!(
        "max_msgs_per_subject of {stream} is {limit}: it keeps only so many messages of one name, and drops or \
         refuses the others; remove the limit with {cure}"
    ))
}

fn max_age(looked: &Looked<'_>, value: &Value) -> Option<String> {
    let stream = looked.stream;
    value.as_u64().filter(|age| *age > 0)?;
    let what = match looked.role {
        // The operator chooses how long they are kept.
        Role::Events | Role::DeadLetters => return None,
        Role::Retries => "a retry that waits for longer is silently dropped",
        Role::Bucket => "older parked keys, running replays and leases are silently dropped",
    };
    let age = setting_text("max_age", value);
    let cure = edit(stream, "max-age=0");
    Some(format!(
        "max_age of {stream} is {age}: {what}; remove the limit from the configuration, or from the stream with \
         {cure}"
    ))
}

fn max_msg_size(looked: &Looked<'_>, value: &Value) -> Option<String> {
    let stream = looked.stream;
    let size = value.as_u64().filter(|size| *size > 0)?;
    // An event that is too large is refused when it is published, with its name.
    let is_smaller = size < looked.largest as u64 && looked.role != Role::Events;
    is_smaller.then(|| {
        let cure = edit(stream, "max-msg-size=-1");
        format!(
            "max_msg_size of {stream} is {size}: a larger event cannot be stored in it, and its subscriber is stuck; \
             remove the limit with {cure}"
        )
    })
}

fn storage(looked: &Looked<'_>, value: &Value) -> Option<String> {
    let stream = looked.stream;
    (*value == json!("memory")).then(|| {
        let cure = anew(looked);
        format!("{stream} is in memory: all messages are lost when the server restarts; {cure}")
    })
}

fn persist_mode(looked: &Looked<'_>, value: &Value) -> Option<String> {
    let stream = looked.stream;
    (*value == json!("async")).then(|| {
        let cure = anew(looked);
        format!(
            "persist_mode of {stream} is async: the server confirms messages before they are on disk, and a crash \
             loses them; {cure}"
        )
    })
}

fn no_ack(looked: &Looked<'_>, value: &Value) -> Option<String> {
    let stream = looked.stream;
    (*value == json!(true)).then(|| {
        let cure = edit(stream, "ack");
        format!(
            "no_ack of {stream} is true: the server confirms nothing that is stored, so each publish times out; \
             change the setting with `tidings streams apply` or {cure}"
        )
    })
}

fn sealed(looked: &Looked<'_>, value: &Value) -> Option<String> {
    let stream = looked.stream;
    (*value == json!(true)).then(|| {
        let cure = anew(looked);
        format!("{stream} is sealed: it stores no new messages; {cure}")
    })
}

fn comes_from_elsewhere(looked: &Looked<'_>, setting: &str, value: &Value) -> Option<String> {
    let stream = looked.stream;
    // Events may come from anywhere, and dead letters of other systems are not checked.
    let matters = matches!(looked.role, Role::Retries | Role::Bucket);
    (matters && !is_unset(Some(value))).then(|| {
        let cure = anew(looked);
        format!(
            "{setting} of {stream} is {value}: messages from other streams look like those of the workers of this \
             server; {cure}"
        )
    })
}

fn allow_msg_counter(looked: &Looked<'_>, value: &Value) -> Option<String> {
    let stream = looked.stream;
    (*value == json!(true)).then(|| {
        let cure = anew(looked);
        format!(
            "allow_msg_counter of {stream} is true: the stream is a counter, and refuses messages that are not \
             numbers; {cure}"
        )
    })
}

fn without_schedules(looked: &Looked<'_>) -> Option<String> {
    let stream = looked.stream;
    let schedules = looked.config.get("allow_msg_schedules") == Some(&json!(true));
    (looked.role == Role::Retries && !schedules).then(|| {
        format!(
            "allow_msg_schedules of {stream} is not set: no failed event can wait in it for its next attempt; set it \
             with `tidings streams apply`"
        )
    })
}

/// The names that a subscriber wants and the stream does not take.
fn not_taken(looked: &Looked<'_>, subjects: &[String]) -> Option<String> {
    let stream = looked.stream;
    let comes_from_elsewhere = |setting| !is_unset(looked.config.get(setting));
    if looked.role != Role::Events || ["mirror", "sources"].into_iter().any(comes_from_elsewhere) {
        return None;
    }
    let taken = looked.config.get("subjects").and_then(Value::as_array);
    let taken: Vec<Pattern> = taken
        .into_iter()
        .flatten()
        .filter_map(|subject| Pattern::parse(subject.as_str()?).ok())
        .collect();
    let names = subjects.iter().filter_map(|name| Name::parse(name).ok());
    let missing: Vec<String> = names
        .filter(|name| !taken.iter().any(|pattern| pattern.covers(name)))
        .map(|name| name.to_string())
        .collect();
    (!missing.is_empty()).then(|| {
        format!(
            "{stream} no longer takes {}, which its subscriber wants: add the subject to the stream again, in the \
             configuration with `tidings streams apply`",
            missing.join(" and ")
        )
    })
}

/// Streams that together have every setting, as far as settings can be combined.
#[cfg(test)]
pub(super) fn everything() -> Vec<Value> {
    vec![
        json!({
            "description": "d", "retention": "limits", "max_consumers": 5, "max_msgs": 100, "max_bytes": 1_000_000,
            "max_age": 3_600_000_000_000_u64, "max_msgs_per_subject": 5, "max_msg_size": 1000, "discard": "new",
            "discard_new_per_subject": true, "storage": "file", "num_replicas": 1, "no_ack": true,
            "duplicate_window": 1_000_000_000, "compression": "s2", "first_seq": 7, "allow_direct": true,
            "deny_delete": true, "deny_purge": false, "allow_rollup_hdrs": true, "allow_msg_ttl": true,
            "subject_transform": { "src": ">", "dest": "x.>" }, "republish": { "src": "a.>", "dest": "b.>" },
            "consumer_limits": { "max_ack_pending": 1_000, "inactive_threshold": 3_600_000_000_000_u64 },
            "metadata": { "a": "b" }, "placement": { "tags": [] }, "allow_atomic": true
        }),
        json!({ "allow_msg_ttl": true, "subject_delete_marker_ttl": 5_000_000_000_u64, "allow_batched": true }),
        json!({ "allow_msg_counter": true }),
        json!({ "allow_msg_schedules": true }),
        json!({ "persist_mode": "async" }),
        json!({ "mirror": { "name": "S1" }, "mirror_direct": true }),
        json!({ "sources": [{ "name": "S1" }] }),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The issues of a stream with a role and a changed setting.
    fn found(role: Role, change: Value) -> Vec<String> {
        let retention = if role == Role::Retries {
            "workqueue"
        } else {
            "limits"
        };
        let mut config = json!({
            "subjects": ["user.>"], "retention": retention, "discard": "new", "storage": "file",
            "max_msgs": -1, "max_bytes": -1, "max_age": 0, "max_msgs_per_subject": -1, "max_msg_size": -1,
            "sealed": false, "allow_msg_schedules": role == Role::Retries
        });
        let change = change.as_object().unwrap().clone();
        config.as_object_mut().unwrap().extend(change);
        let looked = Looked {
            stream: "S",
            role,
            config: config.as_object().unwrap(),
            messages: 90,
            bytes: 900,
            largest: 1_000_000,
            ours: &[],
        };
        issues(&looked, &["user.created".to_owned()])
    }

    const ALL: [Role; 4] = [Role::Events, Role::DeadLetters, Role::Retries, Role::Bucket];

    #[test]
    fn a_stream_as_it_should_be_has_no_issue() {
        for role in ALL {
            assert_eq!(found(role, json!({})), Vec::<String>::new(), "{role:?}");
        }
    }

    #[test]
    fn a_harmful_setting_of_any_stream_is_named_with_its_cure() {
        for (change, word) in [
            (
                json!({ "subject_transform": { "src": ">", "dest": "x.>" } }),
                "subject_transform",
            ),
            (json!({ "sealed": true }), "sealed"),
            (json!({ "no_ack": true }), "no_ack"),
            (json!({ "storage": "memory" }), "memory"),
            (json!({ "persist_mode": "async" }), "persist_mode"),
            (json!({ "allow_msg_counter": true }), "allow_msg_counter"),
            (json!({ "max_msgs": 100 }), "max_msgs"),
            (json!({ "max_bytes": 1_000 }), "max_bytes"),
        ] {
            for role in ALL {
                let found = found(role, change.clone());
                assert_eq!(found.len(), 1, "{role:?} {change}: {found:?}");
                assert!(
                    found[0].contains(word) && found[0].contains('`'),
                    "{found:?}"
                );
            }
        }
    }

    #[test]
    fn a_setting_harmful_to_some_streams_is_named_there() {
        use Role::{Bucket, DeadLetters, Events, Retries};
        for (change, roles) in [
            (
                json!({ "max_age": 5_000_000_000_u64 }),
                vec![Retries, Bucket],
            ),
            (
                json!({ "max_msg_size": 1_000 }),
                vec![DeadLetters, Retries, Bucket],
            ),
            (
                json!({ "max_msgs_per_subject": 1 }),
                vec![Events, DeadLetters, Retries],
            ),
            (
                json!({ "retention": "interest" }),
                vec![DeadLetters, Retries, Bucket],
            ),
            (
                json!({ "sources": [{ "name": "O" }] }),
                vec![Retries, Bucket],
            ),
            (json!({ "subjects": ["payment.>"] }), vec![Events]),
            (json!({ "allow_msg_schedules": false }), vec![Retries]),
            (json!({ "max_bytes": 10_000, "discard": "old" }), vec![]),
        ] {
            for role in ALL {
                let found = found(role, change.clone());
                assert_eq!(
                    found.len(),
                    usize::from(roles.contains(&role)),
                    "{role:?} {change}: {found:?}"
                );
            }
        }
    }
}
