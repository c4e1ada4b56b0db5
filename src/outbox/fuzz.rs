//! Fuzzes what the outbox reads from rows, which any writer may have written. Only for tests.

use tidings_contract::Envelope;
use tidings_fuzz::{fuzz, fuzz_json, fuzz_text};

use super::{
    relay::RelayInstance,
    status::before,
    store::{
        columns::{Columns, Text, nearest, time},
        delayed::due_in,
        home::Home,
        ledger::LedgerKind,
        losses::losses_from,
        names::Names,
        parked::{BlockedOn, cut_error},
        positions_from, positions_text,
        status::{issues_from, stored_issues},
    },
};

const POSITIONS: &str = r#"{"EVENTS":{"incarnation":"2026-11-21T09:30:00Z","sequence":18446744073709551615,
    "last":{"sequence":17,"event":"0190e6e4-7a3e-7c3e-9d3e-3b1f0d8a6a11"},"since":"2026-11-21T09:30:00Z"},
    "OTHER":{"incarnation":"x","sequence":1}}"#;

/// Numbers first, then the columns, one per line.
fn columns(input: &[u8]) -> Columns<'_> {
    let mut parts = input.split(|byte| *byte == b'\n');
    let mut next = || parts.next().unwrap_or_default();
    Columns {
        id: number(next()).unwrap_or(i64::MIN),
        at: number(next()),
        version: number(next()),
        event: Some(next()).filter(|event| *event != b"-"),
        name: text(next()),
        key: text(next()),
        headers: text(next()),
        payload: text(next()),
        most: 1024,
    }
}

fn number(part: &[u8]) -> Option<i64> {
    str::from_utf8(part).ok()?.parse().ok()
}

fn text(part: &[u8]) -> Text<'_> {
    match part {
        b"-" => Text::Absent,
        b"?" => Text::Other,
        part => Text::Bytes(part),
    }
}

/// A row is an event, or has a flaw; what is read of it is within the limits of its readers.
#[test]
fn fuzz_rows() {
    let seeds: [&[u8]; 5] = [
        b"17\n1700000000000000\n1\n0123456789abcdef\nuser.created\nk\n{\"x-own\":\"1\"}\n{\"id\":7}",
        b"-9223372036854775808\n9223372036854775807\n2147483647\n0123456789abcdef\na.b\n-\n{}\n[]",
        b"1\n-9223372036854775808\n-2147483649\n-\nUser\n?\n-\n?",
        b"1\n0\n1\n0123456789abcdef\nuser.created\n\xff\n{\"a\":1}\n\xff",
        b"1\n253402300799999999\n1\n0123456789abcdef\nuser.created\nk\n{\"ce-time\":\"+262142-01-01T00:00:00Z\"}\n{}",
    ];
    fuzz("row", &seeds, |input| {
        let row = columns(input).row();
        assert!(time(row.at.timestamp_micros()).is_some());
        let key = row.key.as_deref().unwrap_or_default();
        assert!(key.len() <= Envelope::MAX_KEY_BYTES);
        match row.envelope() {
            Ok(envelope) => {
                assert!(row.flaw.is_none() && envelope.id() == row.event);
                true
            }
            Err(why) => why.is_empty(),
        }
    });
}

/// Ages and due times, in seconds, as databases return them: also infinite and invalid ones.
#[test]
fn fuzz_times_of_rows() {
    // Seed: a row older than any calendar time once made the status fail.
    let seeds = [
        "1700000000000000",
        "-9223372036854775808",
        "9223372036854.77",
        "inf",
        "-inf",
        "NaN",
    ];
    fuzz_text("time of a row", &seeds, |text| {
        let micros = text.parse::<i64>().ok();
        let at = nearest(micros);
        assert!(time(at.timestamp_micros()).is_some());
        let Ok(seconds) = text.parse::<f64>() else {
            return false;
        };
        let now = chrono::Utc::now();
        assert!(before(now, seconds) <= now);
        due_in(seconds);
        true
    });
}

#[test]
fn fuzz_positions() {
    fuzz_json("position", &[POSITIONS, "{}"], |text| {
        let text = String::from_utf8_lossy(text);
        let Ok(positions) = positions_from(&text) else {
            return false;
        };
        for position in positions.values() {
            assert!(position.known() >= position.sequence);
        }
        let again = positions_from(&positions_text(&positions).unwrap()).unwrap();
        assert_eq!(again, positions);
        true
    });
}

/// The NATS of an outbox, and whether the stream of a position existed before.
#[test]
fn fuzz_homes() {
    let seeds = [
        r#"{"cluster":"c","domain":"hub","accepted":{"EVENTS":"2026-11-21T09:30:00Z"}}"#,
        r#"{"server":"a","server_id":"N"}"#,
    ];
    fuzz_json("home", &seeds, |text| {
        let text = String::from_utf8_lossy(text).into_owned();
        Home::of(Some(text), positions_from(POSITIONS).unwrap()).is_ok()
    });
}

#[test]
fn fuzz_beginnings_of_streams() {
    let seeds = [
        POSITIONS,
        &POSITIONS.replace(
            "\"since\":\"2026-11-21T09:30:00Z\"",
            "\"since\":\"-262143-01-01T00:00:00Z\"",
        ),
    ];
    fuzz_json("beginning of a stream", &seeds, |text| {
        let Ok(positions) = positions_from(&String::from_utf8_lossy(text)) else {
            return false;
        };
        for was in positions.values() {
            super::home::was_there(was, "2026-11-21T09:30:01Z");
            super::home::was_there(was, &was.incarnation);
        }
        !positions.is_empty()
    });
}

#[test]
fn fuzz_losses() {
    let seed = r#"{"EVENTS":{"since":"2026-11-21T09:30:00Z","state":{"is":"truncated","known":7,"now":3},
        "was":{"incarnation":"x","sequence":7},"settled":["2026-11-21T09:30:00Z","repaired"]},
        "OTHER":{"since":"2026-11-21T09:30:00Z","state":{"is":"missing"},"was":{"incarnation":"x","sequence":1},
        "settled":null}}"#;
    fuzz_json("loss", &[seed, "{}"], |text| {
        let Ok(losses) = losses_from(&String::from_utf8_lossy(text)) else {
            return false;
        };
        super::store::losses::open(&losses);
        let text = serde_json::to_string(&losses).unwrap();
        assert_eq!(losses_from(&text).unwrap(), losses);
        true
    });
}

/// The issues of a relay, in its row and in its own answer.
#[test]
fn fuzz_issues() {
    let seed = r#"{"stream EVENTS":{"since":"2026-11-21T09:30:00Z","cause":"c","cure":"d"},
        "relay":{"since":"-262143-01-01T00:00:00Z","cause":"","cure":""}}"#;
    fuzz_json("issue", &[seed, "{}"], |text| {
        let text = String::from_utf8_lossy(text);
        let Ok(stored) = stored_issues(&text) else {
            return false;
        };
        assert_eq!(issues_from(&text).unwrap().len(), stored.len());
        true
    });
}

#[test]
fn fuzz_answers_of_relays() {
    let seed = r#"{"outbox":"tidings","owner":"o","version":"0.1.0","database":"sqlite",
        "started_at":"2026-11-21T09:30:00Z","activity":"active","epoch":-9223372036854775808,
        "confirmed_at":null,"nats":{"server":"a"},"issues":[{"place":"relay","since":"2026-11-21T09:30:00Z",
        "cause":"c","cure":"d"}]}"#;
    fuzz_json("answer of a relay", &[seed], |text| {
        let relay: Option<RelayInstance> = serde_json::from_slice(text).ok();
        if let Some(relay) = &relay {
            let again = serde_json::to_vec(relay).unwrap();
            assert!(serde_json::from_slice::<RelayInstance>(&again).is_ok());
        }
        relay.is_some()
    });
}

/// What a row waits for, the kind of a ledger entry, and the error of a row, which is cut.
#[test]
fn fuzz_words_of_rows() {
    let long = "\u{1f600}\u{e9}a".repeat(900);
    let seeds = [
        "stream EVENTS",
        "subject user.created",
        "republished",
        "copied",
        &*long,
    ];
    fuzz_text("word of a row", &seeds, |text| {
        let way = LedgerKind::parse(text);
        assert_eq!(LedgerKind::parse(way.as_str()), way);
        let stored = cut_error(text);
        assert!(stored.chars().count() <= 2_004 && stored.starts_with(text) == (stored == text));
        match text.parse::<BlockedOn>() {
            Ok(blocked_on) => {
                assert_eq!(blocked_on.to_string(), text);
                true
            }
            Err(_) => false,
        }
    });
}

#[test]
fn fuzz_names_of_schemas() {
    let seeds = ["tidings", "shop_events", "a1", "user", "pg_x"];
    fuzz_text("name of a schema", &seeds, |text| {
        let names = Names::new(text);
        if let Ok(names) = &names {
            let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
            assert!(text.len() <= 40 && text.chars().all(plain));
            names.sql("select 1 from tidings.outbox", '.');
        }
        names.is_ok()
    });
}
