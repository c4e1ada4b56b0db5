//! The public form of the events: compares `golden/` and `schema/` with the output of the code. The
//! documentation of the crate describes how to update them.
#![allow(clippy::unwrap_used)] // A test: clippy's exception does not reach its functions.

use std::{
    collections::BTreeSet,
    fmt::{Debug, Write as _},
    fs,
    path::{Path, PathBuf},
    sync::Once,
};

use chrono::{DateTime, TimeZone as _, Utc};
use schemars::{JsonSchema, Schema};
use tidings_contract::{Envelope, Event, EventId, wire};
use tidings_events::{
    ALL, Money, PaymentReceived, PaymentSettled, UserCreated, UserDeleted, UserEmailChanged,
};
use uuid::Uuid;

/// One example of every event, in the order of `ALL`.
fn examples() -> Vec<Example> {
    vec![
        Example::of(UserCreated {
            id: USER,
            email: "ada@example.org".into(),
            created_at: moment(),
        }),
        Example::of(UserEmailChanged {
            id: USER,
            old_email: "ada@example.org".into(),
            new_email: "countess@example.org".into(),
            changed_at: moment(),
        }),
        Example::of(UserDeleted {
            id: USER,
            deleted_at: moment(),
        }),
        Example::of(PaymentReceived {
            id: PAYMENT,
            user_id: USER,
            amount: euros(1250),
            received_at: moment(),
        }),
        Example::of(PaymentSettled {
            id: PAYMENT,
            user_id: USER,
            amount: euros(1225),
            settled_at: moment(),
            bank_reference: Some("RF18539007547034".into()),
        }),
    ]
}

const EVENT: Uuid = Uuid::from_u128(0x0190_e6e4_7a3e_7c3e_9d3e_3b1f_0d8a_6a11);
const USER: Uuid = Uuid::from_u128(0x0190_e6e4_7a3d_7000_8000_0000_0000_0001);
const PAYMENT: Uuid = Uuid::from_u128(0x0190_e6e4_7a3d_7000_8000_0000_0000_0002);

fn moment() -> DateTime<Utc> {
    Utc.with_ymd_and_hms(2026, 11, 21, 9, 30, 0).unwrap()
}

fn euros(cents: i64) -> Money {
    Money::minor(cents, "EUR".parse().unwrap())
}

/// An event without its type, as the tests need it.
struct Example {
    name: &'static str,
    version: u32,
    envelope: Envelope,
    schema: Schema,
    /// Fails when a message differs from the example.
    compare: Box<dyn Fn(&Envelope)>,
}

impl Example {
    fn of<E: Event + JsonSchema + PartialEq + Debug>(event: E) -> Self {
        let envelope = Envelope::of(&event).unwrap();
        Self {
            name: E::NAME,
            version: E::VERSION,
            envelope: envelope.with_id(EventId::from(EVENT)).at(moment()),
            schema: schemars::schema_for!(E),
            compare: Box::new(move |read| assert_eq!(read.decode::<E>().unwrap(), event)),
        }
    }

    fn payload(&self) -> &str {
        std::str::from_utf8(self.envelope.payload()).unwrap()
    }

    fn golden(&self) -> String {
        let defaults = wire::Defaults::new("tidings-events", moment());
        let mut text = "NATS/1.0\n".to_owned();
        wire::write_headers(&self.envelope, defaults, |name, value| {
            writeln!(text, "{name}: {value}").unwrap();
        });
        text + "\n" + self.payload() + "\n"
    }

    fn golden_path(&self) -> PathBuf {
        path("golden").join(format!("{}.v{}.txt", self.name, self.version))
    }

    fn schema_path(&self) -> PathBuf {
        path("schema").join(format!("{}.v{}.json", self.name, self.version))
    }
}

fn path(folder: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)
}

/// The content of a file, after the update if one was requested.
fn kept(path: &Path) -> String {
    static UPDATE: Once = Once::new();
    if std::env::var("UPDATE_GOLDENS").is_ok_and(|value| value == "1") {
        UPDATE.call_once(update);
    }
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}; {HINT}", path.display()))
}

const HINT: &str = "is the change meant? UPDATE_GOLDENS=1 cargo test -p tidings-events";

fn update() {
    for example in examples() {
        let schema = serde_json::to_string_pretty(&example.schema).unwrap();
        fs::write(example.golden_path(), example.golden()).unwrap();
        fs::write(example.schema_path(), schema + "\n").unwrap();
    }
}

/// Reads a golden as a subscriber reads a message.
fn read_golden(example: &Example) -> Envelope {
    let text = kept(&example.golden_path());
    let (block, payload) = text.split_once("\n\n").unwrap();
    let lines = block.lines().skip(1);
    let headers = lines.map(|line| line.split_once(": ").unwrap());
    let payload = payload.strip_suffix('\n').unwrap().to_owned();
    wire::read(example.name, headers, payload.into(), || {
        unreachable!("a golden has an id")
    })
    .unwrap()
}

#[test]
fn every_event_keeps_its_wire_format() {
    for example in examples() {
        let path = example.golden_path();
        let (kept, made) = (kept(&path), example.golden());
        assert!(
            kept == made,
            "{}; {HINT}\n--- kept\n{kept}\n--- made\n{made}",
            path.display()
        );
    }
}

// Compared as values: the order of members is a feature of serde_json that any crate can turn on.
#[test]
fn every_schema_is_that_of_the_type() {
    for example in examples() {
        let path = example.schema_path();
        let kept: Schema = serde_json::from_str(&kept(&path)).unwrap();
        assert_eq!(kept, example.schema, "{}; {HINT}", path.display());
    }
}

#[test]
fn every_golden_is_read_as_the_event_it_was_made_of() {
    for example in examples() {
        let read = read_golden(&example);
        (example.compare)(&read);
        assert_eq!(read.id(), EventId::from(EVENT));
        assert_eq!(read.name().as_str(), example.name);
        assert_eq!(read.version(), example.version);
        assert_eq!(read.key(), example.envelope.key());
        assert_eq!(read.time(), Some(moment()));
    }
}

#[test]
fn a_field_that_a_reader_does_not_know_is_ignored() {
    for (known, example) in ALL.iter().zip(examples()) {
        let payload = example.payload();
        let newer = payload.replacen('{', r#"{"added_later":{"a":[1]},"#, 1);
        let key = (known.check)(newer.as_bytes()).unwrap();
        assert_eq!(key.as_deref(), example.envelope.key(), "{known:?}");
    }
}

#[test]
fn every_event_has_an_example() {
    let known: Vec<_> = ALL
        .iter()
        .map(|known| (known.name, known.version))
        .collect();
    let shown: Vec<_> = examples().iter().map(|e| (e.name, e.version)).collect();
    assert_eq!(shown, known);
}

// The source is searched, so that an event cannot be left out of `ALL`.
#[test]
fn every_event_of_the_source_is_known() {
    let sources = fs::read_dir(path("src")).unwrap();
    let text: String = sources
        .map(|file| fs::read_to_string(file.unwrap().path()).unwrap())
        .collect();
    let known = |attribute: &str| {
        ALL.iter().any(|known| {
            attribute.contains(&format!("name = \"{}\"", known.name))
                && attribute.contains(&format!("version = {},", known.version))
        })
    };
    let attributes: Vec<&str> = text
        .split("#[event(")
        .skip(1)
        .map(|rest| rest.split(')').next().unwrap())
        .collect();
    let unknown: Vec<_> = attributes.iter().filter(|a| !known(a)).collect();
    assert!(
        unknown.is_empty(),
        "not in tidings_events::ALL: {unknown:?}"
    );
    assert_eq!(attributes.len(), ALL.len());
}

#[test]
fn no_file_of_a_removed_event_remains() {
    let wanted: BTreeSet<PathBuf> = examples()
        .iter()
        .flat_map(|example| [example.golden_path(), example.schema_path()])
        .collect();
    let files = ["golden", "schema"].map(|folder| fs::read_dir(path(folder)).unwrap());
    for file in files.into_iter().flatten() {
        let file = file.unwrap().path();
        assert!(wanted.contains(&file), "{}", file.display());
    }
}
