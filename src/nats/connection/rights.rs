//! What the user of a connection may publish and subscribe to, as the server reports it. Never requests more
//! permissions, and never prevents an attempt.

use serde::Deserialize;
use serde_json::json;

use crate::nats::{Bus, BusError, protocol::permission::permission_for};

/// The subject that returns the permissions. A user that may not request them does not learn them, which is no error.
pub(in crate::nats) const USER_INFO: &str = "$SYS.REQ.USER.INFO";

/// A required permission: the action, its subject, and its purpose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Need {
    pub(crate) is_publish: bool,
    pub(crate) subject: String,
    pub(crate) what_for: &'static str,
}

/// The permissions of a user.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub(crate) struct Rights {
    publish: Option<Lists>,
    subscribe: Option<Lists>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
struct Lists {
    #[serde(default)]
    allow: Option<Vec<String>>,
    #[serde(default)]
    deny: Option<Vec<String>>,
}

impl Need {
    pub(crate) fn publish(subject: impl Into<String>, what_for: &'static str) -> Self {
        Self {
            is_publish: true,
            subject: subject.into(),
            what_for,
        }
    }

    pub(crate) fn subscribe(subject: impl Into<String>, what_for: &'static str) -> Self {
        Self {
            is_publish: false,
            ..Self::publish(subject, what_for)
        }
    }
}

impl Rights {
    /// The needs that are not allowed, each in a sentence with its cure.
    pub(crate) fn missing(&self, needs: &[Need]) -> Vec<String> {
        let missing = needs.iter().filter(|need| !self.allow(need));
        let missing = missing.map(|need| {
            let (does, subject) = match need.is_publish {
                true => ("publish to", &need.subject),
                false => ("subscribe to", &need.subject),
            };
            let permission = permission_for(subject);
            format!(
                "NATS does not let this user {does} {subject}, which is needed for {}: allow it to {does} {permission}",
                need.what_for
            )
        });
        missing.collect()
    }

    fn allow(&self, need: &Need) -> bool {
        let lists = match need.is_publish {
            true => &self.publish,
            false => &self.subscribe,
        };
        let Some(Lists { allow, deny }) = lists else {
            return true;
        };
        let any = |list: &Vec<String>| list.iter().any(|wide| covers(wide, &need.subject));
        // A missing or empty list allows everything.
        let is_allowed = allow
            .as_ref()
            .is_none_or(|list| list.is_empty() || any(list));
        is_allowed && !deny.as_ref().is_some_and(any)
    }
}

impl Bus {
    /// The permissions of the user; `None` when the server does not report them.
    pub(crate) async fn rights(&self) -> Option<Rights> {
        #[derive(Deserialize)]
        struct Told {
            data: User,
        }
        #[derive(Deserialize)]
        struct User {
            #[serde(default)]
            permissions: Option<Rights>,
        }
        match self.api::<Told>(USER_INFO, &json!({})).await {
            Ok(told) => Some(told.data.permissions.unwrap_or_default()),
            Err(BusError::Denied { .. }) => None,
            Err(error) => {
                tracing::debug!(%error, "NATS permissions unknown: the request failed");
                None
            }
        }
    }
}

/// Whether a subject that may have wildcards covers one without.
fn covers(wide: &str, subject: &str) -> bool {
    // A queue group may follow it.
    let wide = wide.split(' ').next().unwrap_or(wide);
    let mut tokens = subject.split('.');
    for token in wide.split('.') {
        match (token, tokens.next()) {
            (">", Some(_)) => return true,
            (_, None) => return false,
            ("*", Some(_)) => {}
            (token, Some(is)) if token == is => {}
            _ => return false,
        }
    }
    tokens.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rights(text: &str) -> Rights {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn a_missing_right_is_named_with_its_permission() {
        let prune = rights(
            r#"{"publish":{"allow":["a.*","$JS.ACK.S.c.>"],"deny":["a.c"]},"subscribe":{"allow":["_INBOX_x.>"]}}"#,
        );
        let ack = "$JS.ACK.S.c.1.2.3.4.5";
        let needs = [
            Need::publish("a.b", "x"),
            Need::publish(ack, "x"),
            Need::subscribe("_INBOX_x.1", "x"),
        ];
        assert!(prune.missing(&needs).is_empty());
        let needs = [
            Need::publish("a.c", "x"),
            Need::publish("a.b.c", "x"),
            Need::publish(ack.replace(".S.", ".T."), "acknowledgements"),
            Need::subscribe("a.b", "x"),
        ];
        let missing = prune.missing(&needs);
        assert_eq!(missing.len(), needs.len());
        assert_eq!(
            missing[2],
            "NATS does not let this user publish to $JS.ACK.T.c.1.2.3.4.5, which is needed for acknowledgements: allow it \
             to publish to $JS.ACK.T.c.>"
        );
    }

    #[test]
    fn a_user_without_permission_lists_may_do_everything() {
        let needs = [Need::publish("a", "x"), Need::subscribe("b", "x")];
        for all in ["{}", r#"{"publish":{},"subscribe":{"allow":[]}}"#] {
            assert!(rights(all).missing(&needs).is_empty(), "{all}");
        }
    }
}
