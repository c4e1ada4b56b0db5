//! The headers by which retries and dead letters of a replayed event stay part of the replay. Never decides what is
//! replayed.

use async_nats::HeaderMap;

use super::headers::replay;
use crate::replay::tag::ReplayTag;

/// The replay of a redelivered event.
pub(in crate::nats) fn read(headers: &HeaderMap) -> Option<ReplayTag> {
    let text = |name: &str| headers.get(name).map(|value| value.as_str());
    Some(ReplayTag {
        id: text(replay::ID)?.parse().ok()?,
        shadow: text(replay::SHADOW).map(str::to_owned),
        follow_ups: text(replay::FOLLOW_UPS).is_some(),
    })
}

/// Adds the headers of a replay.
pub(in crate::nats) fn write(headers: &mut HeaderMap, tag: &ReplayTag) {
    headers.insert(replay::ID, tag.id.to_string());
    if let Some(shadow) = &tag.shadow {
        headers.insert(replay::SHADOW, shadow.as_str());
    }
    if tag.follow_ups {
        headers.insert(replay::FOLLOW_UPS, "true");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replay::tag::ReplayId;

    #[test]
    fn a_replay_tag_is_read_as_it_was_written() {
        let mut headers = HeaderMap::new();
        let tag = ReplayTag {
            id: ReplayId::new(),
            shadow: Some("v2".to_owned()),
            follow_ups: true,
        };
        write(&mut headers, &tag);
        assert_eq!(read(&headers), Some(tag));
    }
}
