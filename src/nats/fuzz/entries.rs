//! Entries of the bucket of the workers: parked keys, replays and their progress. Any client may write there.

use bytes::Bytes;

use super::TextMessage;
use tidings_fuzz::fuzz_json;

use crate::{
    nats::{
        Holds, Park, StoredMessage,
        kv::{park, replays::written, state::read_entry},
        protocol::keys,
    },
    policy::rate,
    replay::{Replay, ReplayProgress},
};

const PARK: &str = r#"{"id":"0190e6e4-7a3e-7c3e-9d3e-3b1f0d8a6a11","key":"k","since":"2026-11-21T09:30:00Z","head":{
    "life":"x","stream":"EVENTS","sequence":17,"cause":"exhausted","error":"e","attempts":4294967295,
    "first_failed_at":null},"redrive":null}"#;

const REPLAY: &str = r#"{"id":"0190e6e47a3e7c3e9d3e3b1f0d8a6a11","subscriber":"mailer","request":{
    "from":{"sequence":1},"to":{"time":"2026-11-21T09:30:00Z"},"names":["user.created"],"stream":null,"key":"k",
    "correlation":null,"rate":{"interval":{"secs":0,"nanos":10000000}},"shadow":null,"follow_ups":false,
    "rehearse":false,"force":false},"ranges":[{"stream":"EVENTS","incarnation":"2026-11-21T09:30:00Z",
    "names":["user.created"],"first":1,"last":17,"last_at":null,"events":9},{"stream":"OTHER","incarnation":"x",
    "names":[],"first":18446744073709551615,"last":18446744073709551615,"events":18446744073709551615}],
    "created_at":"2026-11-21T09:30:00Z","state":"running","reason":null,"state_at":"2026-11-21T09:30:00Z"}"#;

const PROGRESS: &str = r#"{"at":"2026-11-21T09:30:00Z","began_at":"2026-11-21T09:30:00Z","filtered":1,"skipped":2,
    "handled":18446744073709551615,"duplicates":4,"retried":5,"dead_lettered":6,"suppressed":7,"gone":8,"uncounted":9,
    "streams":[{"stream":"EVENTS","floor":18446744073709551615}],"rehearsal":{"events":[{"name":"user.created",
    "version":1,"events":18446744073709551615,"would_call":18446744073709551615,"would_skip":2,"undecodable":3}],
    "errors":[{"stream":"EVENTS","sequence":3,"name":"user.created","version":1,"error":"e"}]},
    "issue":{"why":"w","since":"2026-11-21T09:30:00Z"}}"#;

fn entry(key: &str, value: &[u8]) -> StoredMessage {
    StoredMessage {
        payload: Bytes::copy_from_slice(value),
        ..TextMessage::of(&keys::subject(key)).kept()
    }
}

/// Checks that a bad entry has a short error text.
fn value<T>(holds: Holds<T>) -> Option<T> {
    if let Holds::Bad(bad) = &holds {
        assert!(bad.why.chars().count() <= 200 && !bad.to_string().is_empty());
    }
    match holds {
        Holds::Value(value) => Some(value),
        _ => None,
    }
}

#[test]
fn fuzz_entries_of_parked_keys() {
    fuzz_json("parked key", &[PARK], |text| {
        let park: Option<Park> = serde_json::from_slice(text).ok();
        let key = park.as_ref().map_or("k", |park| park.key.as_str());
        let entry = entry(&keys::parked("mailer", key), text);
        let read = value(park::read(&entry, "mailer"));
        assert_eq!(read, park);
        park.is_some()
    });
}

/// A replay with any counts and sequences can be shown, and its rate limit can be applied.
#[test]
fn fuzz_replays() {
    let key = "replay.mailer.0190e6e47a3e7c3e9d3e3b1f0d8a6a11";
    // The sum of its events, and a rate of one event in the age of the universe, made their readers panic.
    let slow = REPLAY.replace("\"secs\":0", "\"secs\":18446744073709551615");
    fuzz_json("replay", &[REPLAY, &slow], |text| {
        let Some(replay) = value(written(&entry(key, text)).value) else {
            return false;
        };
        let written = serde_json::to_vec(&replay).unwrap();
        assert_eq!(serde_json::from_slice::<Replay>(&written).unwrap(), replay);
        let events = replay.events();
        assert!(replay.ranges.iter().all(|range| range.events <= events));
        assert!(!replay.consumer().is_empty() && !replay.state.as_str().is_empty());
        if let Some(rate) = replay.request.rate {
            assert!(!rate.to_string().is_empty());
            let now = std::time::Instant::now();
            let mut bucket = rate::Bucket::new(rate);
            bucket.take(now);
            bucket.take(now);
            bucket.wait_until(now);
        }
        true
    });
}

#[test]
fn fuzz_progress_of_replays() {
    fuzz_json("progress of a replay", &[PROGRESS, "{}"], |text| {
        let entry = entry("replay-progress.mailer.x", text);
        let read = value(read_entry(&entry, |_: &ReplayProgress| None));
        let Some(progress) = read else { return false };
        let written = serde_json::to_vec(&progress).unwrap();
        assert_eq!(
            serde_json::from_slice::<ReplayProgress>(&written).unwrap(),
            progress
        );
        assert!(progress.completed() >= progress.handled);
        let _ = progress.floor("EVENTS");
        true
    });
}
