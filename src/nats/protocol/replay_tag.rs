//! The headers by which retries and dead letters of a replayed event stay part of the replay. Never decides what is
//! replayed.

use async_nats::HeaderMap;

use crate::replay::tag::ReplayTag;

/// The common prefix of these headers, and the header of the replay's id.
pub(in crate::nats) const REPLAY: &str = "tidings-replay";
const SHADOW: &str = "tidings-replay-shadow";
const FOLLOW_UPS: &str = "tidings-replay-follow-ups";

/// The replay of a redelivered event.
pub(in crate::nats) fn read(headers: &HeaderMap) -> Option<ReplayTag> {
    let text = |name: &str| headers.get(name).map(|value| value.as_str());
    Some(ReplayTag {
        id: text(REPLAY)?.parse().ok()?,
        shadow: text(SHADOW).map(str::to_owned),
        follow_ups: text(FOLLOW_UPS).is_some(),
    })
}

/// Adds the headers of a replay.
pub(in crate::nats) fn write(headers: &mut HeaderMap, mark: &ReplayTag) {
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
    use crate::replay::tag::ReplayId;

    #[test]
    fn a_replay_tag_is_read_as_it_was_written() {
        let mut headers = HeaderMap::new();
        let mark = ReplayTag {
            id: ReplayId::new(),
            shadow: Some("v2".to_owned()),
            follow_ups: true,
        };
        write(&mut headers, &mark);
        assert_eq!(read(&headers), Some(mark));
    }
}
