//! Names, patterns, subjects and textual reports of the server.

use tidings_contract::{EventId, Name, Pattern};

use tidings_fuzz::fuzz_text;

use crate::{
    instance::can_be_durable,
    nats::{
        Auth,
        connection::{
            connect::{self, without_secrets},
            denied,
        },
        consume::unconfirmed::Number,
        quoted,
        stream::{
            patterns::{added, extra},
            settings::limit_in,
            streams::StreamSpec,
        },
    },
};

const PATTERNS: [&str; 8] = [
    "user.>",
    "*.created",
    ">",
    "user.created",
    "user.*.changed",
    "user.created.late",
    "dead-letter.mailer.user.>",
    "*.*.>",
];

/// Whether a pattern covers a name, by the rules of NATS.
fn covers(pattern: &[&str], name: &[&str]) -> bool {
    match (pattern, name) {
        ([">"], [_, ..]) => true,
        (["*", pattern @ ..], [_, name @ ..]) => covers(pattern, name),
        ([word, pattern @ ..], [other, name @ ..]) => word == other && covers(pattern, name),
        ([], []) => true,
        _ => false,
    }
}

#[test]
fn fuzz_names() {
    let seeds = [
        "user.created",
        "user.email_changed",
        "a.b.c-d2",
        "tidings.x",
    ];
    fuzz_text("name", &seeds, |text| match Name::parse(text) {
        Ok(name) => {
            assert_eq!(name.as_str(), text);
            assert!(text.len() <= Name::MAX_BYTES && Pattern::parse(text).is_ok());
            true
        }
        Err(error) => error.to_string().is_empty(),
    });
}

#[test]
fn fuzz_patterns() {
    fuzz_text("pattern", &PATTERNS, |text| {
        let Ok(pattern) = Pattern::parse(text) else {
            return false;
        };
        let words: Vec<&str> = text.split('.').collect();
        for name in ["user.created", "user.email.changed", "a.b.c.d"] {
            let is_covered = pattern.covers(&Name::parse(name).unwrap());
            let named: Vec<&str> = name.split('.').collect();
            assert_eq!(is_covered, covers(&words, &named), "{text} {name}");
        }
        true
    });
}

/// Subjects that streams take and subjects that are declared, in pairs of lines.
#[test]
fn fuzz_subjects_of_streams() {
    let seeds = [
        "user.> user.created\npayment.* order.>",
        "a.b *.b\na.> >",
        "user.created user.>\n* a.b.c",
    ];
    fuzz_text("subjects of a stream", &seeds, |text| {
        let (mut taken, mut wanted) = (Vec::new(), Vec::new());
        for (one, other) in text
            .lines()
            .take(40)
            .filter_map(|line| line.split_once(' '))
        {
            taken.push(one.to_owned());
            wanted.extend(Pattern::parse(other));
        }
        let left = extra(&taken, &wanted);
        assert!(left.iter().all(|left| taken.contains(left)));
        let Ok(all) = added(&taken, &wanted) else {
            return false;
        };
        // Adding present subjects again changes nothing.
        assert_eq!(added(&all, &wanted).unwrap(), all);
        !wanted.is_empty()
    });
}

#[test]
fn fuzz_names_of_streams_and_durables() {
    let seeds = [
        "EVENTS",
        "a_b-c",
        "mailer",
        "replay-0190e6e47a3e7c3e9d3e3b1f0d8a6a11",
    ];
    fuzz_text("name of a durable", &seeds, |text| {
        let is_stream = StreamSpec::new(text, []).is_ok();
        assert!(!is_stream || can_be_durable(text), "{text:?}");
        can_be_durable(text)
    });
}

/// Textual reports of the server: limits, permissions.
#[test]
fn fuzz_reports() {
    let seeds = [
        "Permissions Violation for Publish to \"$JS.ACK.EVENTS.mailer.1.7.7.1700000000000000000.0\"",
        "permissions violation for subscription to \"_INBOX.x.y\" using queue \"q\"",
        "Permissions Violation for Publish to '$JS.ACK.d.h.EVENTS.mailer.1.7.7.1.0'",
        "consumer max ack pending exceeds system limit of 1000",
        "batch publish exceeds limit of 1000",
    ];
    fuzz_text("report of the server", &seeds, |text| {
        let permission = denied::permission_of(text);
        let limit = limit_in(text);
        permission.is_some() || limit.is_some()
    });
}

#[test]
fn fuzz_addresses() {
    let seeds = [
        "nats://ada:s3%20cret@h:4222",
        "tls://t0ken@h2",
        "h:4222",
        "nats://a@b:c@h",
        "wss://u:%C3%A9@[::1]:443/x",
    ];
    fuzz_text("address", &seeds, |text| {
        let shown = without_secrets(text);
        assert!(!shown.contains('@'), "{shown}");
        assert_eq!(connect::shown(&[text.to_owned()]), shown);
        Auth::in_url(text).is_ok_and(|(address, auth)| auth.is_none() || !address.contains('@'))
    });
}

/// Quoted text of other publishers is always short; also their ids, and the numbers of answers.
#[test]
fn fuzz_ids_and_quotes() {
    let seeds = [
        "0190e6e4-7a3e-7c3e-9d3e-3b1f0d8a6a11",
        "{0190E6E4-7A3E-7C3E-9D3E-3B1F0D8A6A11}",
        "urn:uuid:0190e6e4-7a3e-7c3e-9d3e-3b1f0d8a6a11",
        "0190e6e47a3e7c3e9d3e3b1f0d8a6a11",
        "18446744073709551615",
    ];
    fuzz_text("id", &seeds, |text| {
        let quoted = quoted(text);
        assert!(
            quoted.len() < 4096 && !quoted.contains(char::is_control),
            "{quoted:?}"
        );
        let foreign = EventId::of_foreign("EVENTS", text);
        let number = text.parse::<Number>().ok();
        if let Some(number) = number {
            assert_eq!(number.to_string().parse::<Number>(), Ok(number));
        }
        match text.parse::<EventId>() {
            Ok(id) => {
                assert_eq!((id, id.to_string().parse::<EventId>()), (foreign, Ok(id)));
                true
            }
            Err(_) => number.is_some(),
        }
    });
}
