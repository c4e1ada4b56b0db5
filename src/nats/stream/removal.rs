//! Which messages a stream removes by its own settings. Never decides what it has removed.

use serde_json::{Map, Value, json};

/// Which messages a stream may remove by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Removal {
    /// None: a missing message was purged or deleted.
    Never,
    /// The oldest messages.
    Oldest,
    /// Any message.
    Anywhere,
}

impl Removal {
    /// By the configuration of a stream, as the server writes it.
    pub(in crate::nats) fn of(config: &Map<String, Value>) -> Self {
        let is_set = |setting: &str| config.get(setting) == Some(&json!(true));
        let is = |setting: &str, value: &str| config.get(setting) == Some(&json!(value));
        let has = |limit: &str| {
            let limit = config.get(limit).and_then(Value::as_i64);
            limit.is_some_and(|limit| limit > 0)
        };
        let by_retention = config.contains_key("retention") && !is("retention", "limits");
        let by_subject = has("max_msgs_per_subject")
            && !(is("discard", "new") && is_set("discard_new_per_subject"));
        // With `discard: new` a full stream refuses new messages, and removes nothing.
        let by_size = (has("max_msgs") || has("max_bytes")) && !is("discard", "new");
        if by_retention || by_subject || is_set("allow_msg_ttl") {
            Self::Anywhere
        } else if by_size || has("max_age") {
            Self::Oldest
        } else {
            Self::Never
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_that_remove_messages_are_in_the_configuration() {
        let of = |config: Value| Removal::of(config.as_object().unwrap());
        let unlimited = json!({
            "retention": "limits", "discard": "new", "max_msgs": -1, "max_bytes": -1, "max_age": 0,
            "max_msgs_per_subject": -1, "allow_msg_ttl": false
        });
        let with = |settings: Value| {
            let mut config = unlimited.clone();
            let settings = settings.as_object().unwrap().clone();
            config.as_object_mut().unwrap().extend(settings);
            of(config)
        };
        assert_eq!(with(json!({})), Removal::Never);
        assert_eq!(with(json!({ "max_msgs": 5 })), Removal::Never);
        for old in [
            json!({ "max_age": 5 }),
            json!({ "max_msgs": 5, "discard": "old" }),
            json!({ "max_bytes": 5, "discard": "old" }),
        ] {
            assert_eq!(with(old.clone()), Removal::Oldest, "{old}");
        }
        for any in [
            json!({ "retention": "interest" }),
            json!({ "retention": "workqueue" }),
            json!({ "max_msgs_per_subject": 5 }),
            json!({ "allow_msg_ttl": true }),
        ] {
            assert_eq!(with(any.clone()), Removal::Anywhere, "{any}");
        }
        let refusing = json!({ "max_msgs_per_subject": 5, "discard_new_per_subject": true });
        assert_eq!(with(refusing), Removal::Never);
    }
}
