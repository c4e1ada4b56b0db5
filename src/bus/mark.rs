//! What the event of a replay carries among the retries and the dead letters, so that it stays one. Never decides
//! what is replayed.

use async_nats::{HeaderMap, Message};

use crate::replaying::Mark;

/// How all of it begins, and the replay's id.
pub(super) const REPLAY: &str = "tidings-replay";
const SHADOW: &str = "tidings-replay-shadow";
const FOLLOW_UPS: &str = "tidings-replay-follow-ups";

/// The replay of an event that comes again.
pub(super) fn read(headers: &HeaderMap) -> Option<Mark> {
    let text = |name: &str| headers.get(name).map(|value| value.as_str());
    Some(Mark {
        id: text(REPLAY)?.parse().ok()?,
        shadow: text(SHADOW).map(str::to_owned),
        follow_ups: text(FOLLOW_UPS).is_some(),
    })
}

/// Its id alone.
pub(super) fn id(headers: &HeaderMap) -> Option<&str> {
    Some(headers.get(REPLAY)?.as_str())
}

/// Marks a message as part of a replay, or as none, whatever it says itself: its publisher may be anybody.
pub(super) fn write(message: &mut Message, mark: Option<&Mark>, may_be_forged: bool) {
    if may_be_forged {
        let mut headers = HeaderMap::new();
        for (name, values) in message.headers.iter().flat_map(HeaderMap::iter) {
            let text: &str = name.as_ref();
            let values = values.iter().filter(|_| !text.starts_with(REPLAY));
            values.for_each(|value| headers.append(name.clone(), value.clone()));
        }
        message.headers = Some(headers);
    }
    let Some(mark) = mark else { return };
    let headers = message.headers.get_or_insert_default();
    headers.insert(REPLAY, mark.id.to_string());
    if let Some(shadow) = &mark.shadow {
        headers.insert(SHADOW, shadow.as_str());
    }
    if mark.follow_ups {
        headers.insert(FOLLOW_UPS, "true");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replaying::ReplayId;

    fn message(headers: HeaderMap) -> Message {
        Message {
            subject: "user.created".into(),
            reply: None,
            payload: "{}".into(),
            headers: Some(headers),
            status: None,
            description: None,
            length: 0,
        }
    }

    #[test]
    fn a_mark_is_read_as_it_was_written_and_replaces_what_a_publisher_says() {
        let mut forged = HeaderMap::new();
        forged.insert(REPLAY, ReplayId::new().to_string());
        forged.insert(FOLLOW_UPS, "true");
        forged.insert("x-tenant", "acme");
        let mark = Mark {
            id: ReplayId::new(),
            shadow: Some("v2".to_owned()),
            follow_ups: false,
        };
        let mut message = message(forged);
        write(&mut message, Some(&mark), true);
        assert_eq!(read(message.headers.as_ref().unwrap()), Some(mark));
        write(&mut message, None, true);
        let headers = message.headers.unwrap();
        assert_eq!((read(&headers), headers.len()), (None, 1));
    }
}
