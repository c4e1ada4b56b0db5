//! One finding: what is wrong, since when, why, and what to do. Never decides how bad a kind is.

use std::{collections::BTreeMap, fmt};

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value;

use super::{Health, IssueKind};
use crate::operations::doctor::{Figures, Unseen};

/// The cure when the cause says what to do.
const IN_CAUSE: &str = "do what the cause says";

/// Something that is wrong, or that an operator may want to know.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Finding {
    /// Component, kind and what it concerns, such as `relay/storage-full/EVENTS`. It stays the same as long as the
    /// finding lasts.
    pub id: String,
    /// How bad it is.
    pub status: Health,
    /// What it concerns.
    pub component: Component,
    /// Which one: the schema of the outbox, or the name of the subscriber.
    pub of: String,
    /// The kind.
    pub kind: IssueKind,
    /// Since when, as far as that is known. For a subscriber: when it last worked.
    pub since: Option<DateTime<Utc>>,
    /// For how many seconds.
    pub for_s: Option<i64>,
    /// The figures, by name. Names that end with `_s` are seconds.
    pub facts: BTreeMap<&'static str, Value>,
    /// Why.
    pub cause: String,
    /// What to do.
    pub cure: String,
    /// The command that does it, or shows more. `None` when there is none, or when it would hold a name that a shell
    /// does not read as one word.
    pub command: Option<String>,
    /// The runbook: a file in `docs/runbooks`.
    pub runbook: Option<&'static str>,
}

/// What a finding concerns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Component {
    /// The relay of an outbox.
    Relay,
    /// An outbox: its database, and its delayed and parked events.
    Outbox,
    /// A subscriber.
    Subscriber,
    /// The NATS account.
    Nats,
    /// A process as a whole.
    Process,
}

impl Component {
    /// The word for JSON and scripts.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Relay => "relay",
            Self::Outbox => "outbox",
            Self::Subscriber => "subscriber",
            Self::Nats => "nats",
            Self::Process => "process",
        }
    }
}

impl fmt::Display for Component {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl Finding {
    pub(crate) fn new(
        (component, of): (Component, &str),
        kind: IssueKind,
        status: Health,
        cause: impl Into<String>,
    ) -> Self {
        Self {
            id: format!("{component}/{kind}/{of}"),
            status,
            component,
            of: of.to_owned(),
            kind,
            since: None,
            for_s: None,
            facts: BTreeMap::new(),
            cause: cause.into(),
            cure: IN_CAUSE.to_owned(),
            command: command(kind, component, of),
            runbook: kind.runbook(),
        }
    }

    pub(super) fn since(mut self, since: Option<DateTime<Utc>>, at: DateTime<Utc>) -> Self {
        self.since = since;
        self.for_s = since.map(|since| (at - since).num_seconds().max(0));
        self
    }

    pub(super) fn cure(mut self, cure: impl Into<String>) -> Self {
        self.cure = cure.into();
        self
    }

    pub(super) fn command(mut self, command: impl Into<String>) -> Self {
        self.command = Some(command.into());
        self
    }

    pub(super) fn fact(mut self, name: &'static str, value: impl Into<Value>) -> Self {
        let value = value.into();
        if !value.is_null() {
            self.facts.insert(name, value);
        }
        self
    }

    /// Concerns a stream or a subject, which the id names in place of the component's name.
    pub(super) fn at(mut self, place: &str) -> Self {
        self.id = format!("{}/{}/{place}", self.component, self.kind);
        self.fact("place", place)
    }

    pub(super) fn is_of_subscriber(&self, name: &str) -> bool {
        self.component == Component::Subscriber && self.of == name
    }
}

/// The finding about tables of another version, or about another NATS.
pub(super) fn refused(figures: &Figures, unseen: &Unseen) -> Finding {
    let of = (Component::Outbox, &*figures.schema);
    Finding::new(of, unseen.kind, Health::Refused, &*unseen.why).cure(&*unseen.cure)
}

/// The command that helps with a kind.
fn command(kind: IssueKind, component: Component, of: &str) -> Option<String> {
    let fixed = match kind {
        IssueKind::NoRelay | IssueKind::OwnerSilent => "tidings relay",
        IssueKind::StandsStill | IssueKind::SlotHeld => "tidings outbox status",
        IssueKind::NotMigrated | IssueKind::SchemaOlder => "tidings migrate",
        IssueKind::DatabaseForeign => "tidings outbox adopt --dry-run",
        IssueKind::Elsewhere if component == Component::Outbox => {
            "tidings outbox use-nats --dry-run"
        }
        IssueKind::NoStream
        | IssueKind::StreamFull
        | IssueKind::SubjectClosed
        | IssueKind::StreamClosed
        | IssueKind::NoAck
        | IssueKind::StreamSettings
        | IssueKind::RetriesGone
        | IssueKind::RetriesLate
        | IssueKind::DeadLettersGone => "tidings streams apply --dry-run",
        IssueKind::StorageFull
        | IssueKind::NatsSilent
        | IssueKind::NoLeader
        | IssueKind::NoJetstream => "nats server report jetstream",
        IssueKind::StreamGone
        | IssueKind::StreamRecreated
        | IssueKind::StreamTruncated
        | IssueKind::StreamDiverged => "tidings verify --repair",
        IssueKind::EventParked => "tidings outbox parked",
        IssueKind::DelayedLate | IssueKind::DelayedHeld => "tidings outbox delayed",
        IssueKind::ReplayStuck | IssueKind::ReplayPaused | IssueKind::ReplaySlow => {
            "tidings replay list"
        }
        _ => "",
    };
    if !fixed.is_empty() {
        return Some(fixed.to_owned());
    }
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_".contains(c);
    if component != Component::Subscriber || of.starts_with('-') || !of.chars().all(is_plain) {
        return None;
    }
    Some(match kind {
        IssueKind::Paused => format!("tidings subscribers resume {of}"),
        IssueKind::DeadLetters => format!("tidings dead-letters list --groups --subscriber {of}"),
        IssueKind::KeyParked => format!("tidings dead-letters list --subscriber {of}"),
        IssueKind::RetriesOrphaned => format!("tidings subscribers remove {of} --dry-run"),
        _ => format!("tidings subscribers show {of}"),
    })
}
