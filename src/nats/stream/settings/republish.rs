//! Whether messages that a stream republishes enter a stream of Tidings as if they were new. Pure.

use serde_json::Value;

use super::{is_unset, stream::Looked};
use crate::nats::stream::patterns::overlaps;

/// The issue of a stream that republishes into subjects that Tidings takes, with its cure. Copies for other consumers
/// are no issue.
pub(super) fn republish(looked: &Looked<'_>, value: &Value) -> Option<String> {
    if is_unset(Some(value)) {
        return None;
    }
    let stream = looked.stream;
    let to = value.get("dest").and_then(Value::as_str).unwrap_or(">");
    let pattern = covering(to);
    let mut ours = looked.ours.iter();
    let taken = ours.find(|taken| overlaps(taken, &pattern))?;
    Some(format!(
        "republish of {stream} has the destination {to}, and a stream of Tidings takes {taken}: each message that \
         {stream} stores is stored again as an event, dead letter, retry or entry, possibly in an endless loop; \
         remove the setting with `nats stream edit {stream} --no-republish`, or use a destination that none of these \
         streams takes"
    ))
}

/// The pattern that covers every result of a destination: `$1` and `{{wildcard(1)}}` are one token, and functions that
/// produce several tokens match anything.
fn covering(destination: &str) -> String {
    let (mut plain, mut rest) = (String::new(), destination);
    while let Some((before, behind)) = rest.split_once("{{") {
        plain.push_str(before);
        let (what, behind) = behind.split_once("}}").unwrap_or((behind, ""));
        let what = what.trim().to_ascii_lowercase();
        // The results of these functions contain dots.
        if what.starts_with("split") || what.starts_with("slice") {
            plain.push('\0');
            rest = "";
            break;
        }
        plain.push('*');
        rest = behind;
    }
    plain.push_str(rest);
    let mut words = Vec::new();
    for word in plain.split('.') {
        if word.contains('\0') {
            words.push(">");
            break;
        }
        let number = word.strip_prefix('$').unwrap_or_default();
        let is_number = !number.is_empty() && number.bytes().all(|digit| digit.is_ascii_digit());
        words.push(match is_number || word.contains('*') {
            true => "*",
            false => word,
        });
    }
    words.join(".")
}

#[cfg(test)]
mod tests {
    use serde_json::{Map, json};

    use super::*;
    use crate::nats::stream::settings::Role;

    #[test]
    fn a_destination_is_covered() {
        for (destination, expected) in [
            ("user.created", "user.created"),
            ("user.>", "user.>"),
            ("user.$1", "user.*"),
            ("$KV.TIDINGS.>", "$KV.TIDINGS.>"),
            ("{{wildcard(2)}}.{{ wildcard(1) }}", "*.*"),
            ("user.p-{{partition(10,1)}}.x", "user.*.x"),
            ("a.{{split(1,-)}}.b", "a.>"),
            ("a.b{{SplitFromLeft(1,2)}}", "a.>"),
            ("a.{{wildcard(1", "a.*"),
        ] {
            assert_eq!(covering(destination), expected);
        }
    }

    #[test]
    fn a_republish_into_an_internal_stream_is_an_issue() {
        let ours = [
            "user.>",
            "dead-letter.>",
            "tidings.retry.>",
            "$KV.TIDINGS.>",
        ];
        let ours = ours.map(str::to_owned);
        let config = Map::new();
        for (destination, is_wrong) in [
            ("user.created", true),
            ("dead-letter.$1.x", true),
            ("tidings.retry.>", true),
            ("$KV.TIDINGS.lease.x", true),
            (">", true),
            ("{{wildcard(1)}}.created", true),
            ("copy.user.created", false),
            ("$KV.OTHER.>", false),
        ] {
            for role in [Role::Events, Role::DeadLetters, Role::Retries, Role::Bucket] {
                let looked = Looked {
                    stream: "S",
                    role,
                    config: &config,
                    messages: 0,
                    bytes: 0,
                    largest: 1,
                    ours: &ours,
                };
                let found = republish(&looked, &json!({ "src": ">", "dest": destination }));
                assert_eq!(found.is_some(), is_wrong, "{role:?} {destination}");
                let cure = "nats stream edit S --no-republish";
                assert!(found.is_none_or(|found| found.contains(cure)));
                assert_eq!(republish(&looked, &Value::Null), None);
            }
        }
    }
}
