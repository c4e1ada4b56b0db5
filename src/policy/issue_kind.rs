//! The kinds of issues, one closed list for outbox and subscribers. Never finds an issue.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Declares the kinds with the word, the meaning and the runbook of each, so that no list can lack one.
macro_rules! kinds {
    ($($name:ident $word:literal $means:literal $($runbook:literal)?,)+) => {
        /// The kind of an issue, or of a [finding](crate::judge::Finding). A kind that a later version of Tidings has
        /// added is read as [`IssueKind::Unknown`].
        ///
        /// ```
        /// use tidings::judge::IssueKind;
        ///
        /// assert_eq!(IssueKind::StorageFull.as_str(), "storage-full");
        /// assert_eq!(IssueKind::StorageFull.runbook(), Some("disk-full.md"));
        /// ```
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "kebab-case")]
        #[non_exhaustive]
        pub enum IssueKind {
            $(#[doc = $means] $name,)+
            /// A kind that a later version of Tidings has added, or none.
            #[default]
            #[serde(other)]
            Unknown,
        }

        impl IssueKind {
            /// All kinds of this version; the last one is [`Unknown`](Self::Unknown).
            pub const ALL: &[Self] = &[$(Self::$name,)+ Self::Unknown];

            /// The word for JSON and scripts.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $word,)+
                    Self::Unknown => "unknown",
                }
            }

            /// What the kind means, in one sentence.
            #[must_use]
            pub const fn meaning(self) -> &'static str {
                match self {
                    $(Self::$name => $means,)+
                    Self::Unknown => "A kind that a later version of Tidings has added, or none.",
                }
            }

            /// The runbook that handles it: a file in `docs/runbooks`.
            #[must_use]
            pub const fn runbook(self) -> Option<&'static str> {
                match self {
                    $($(Self::$name => Some($runbook),)?)+
                    _ => None,
                }
            }
        }
    };
}

kinds! {
    NoRelay "no-relay" "No relay has the lease.",
    OwnerSilent "owner-silent" "The owner of the lease has stopped renewing it.",
    StandsStill "stands-still" "A relay has the lease, events wait, and none is confirmed.",
    Configuration "configuration" "The configuration of a relay has changed and cannot be used: what was before it is in effect.",
    RelayInterrupted "relay-interrupted" "The relay was interrupted, and starts again by itself.",
    DatabaseUnreachable "database-unreachable" "No connection to the database can be made, or it was lost.",
    DatabaseSilent "database-silent" "The database does not answer in time.",
    DatabaseReadOnly "database-read-only" "The database takes no writes.",
    DatabaseStandby "database-standby" "The database server is a standby.",
    DatabaseForeign "database-foreign" "The outbox was copied from another database.",
    DatabaseFull "database-full" "The disk of the database is full.",
    DatabaseLimit "database-limit" "The database, or the pool, has no free connection or memory.",
    DatabaseLocked "database-locked" "Another transaction holds a lock that is needed.",
    DatabaseDamaged "database-damaged" "The database has found damaged data.",
    DatabaseFailed "database-failed" "A statement has failed in the database.",
    DeniedDatabase "denied-database" "The role in the database lacks a right, or is refused.",
    NotMigrated "not-migrated" "The database has no outbox in this schema.",
    SchemaNewer "schema-newer" "The tables are newer than the program.",
    SchemaOlder "schema-older" "The tables are older than the program.",
    NatsUnreachable "nats-unreachable" "No connection to NATS can be made, or it was lost.",
    NatsSilent "nats-silent" "A nats-server does not answer in time.",
    NatsRefused "nats-refused" "A nats-server has refused a request.",
    NatsTooOld "nats-too-old" "A nats-server is too old.",
    NoJetstream "no-jetstream" "JetStream is off for the server or the account, or has no leader.",
    NoLeader "no-leader" "A stream, or JetStream as a whole, has no leader.",
    DeniedNats "denied-nats" "The user at NATS lacks a permission.",
    Elsewhere "elsewhere" "This is another NATS, or another account, than the one in use." "nats-replaced.md",
    NoStream "no-stream" "No stream takes the name of an event.",
    StreamFull "stream-full" "A stream has reached one of its limits." "disk-full.md",
    StorageFull "storage-full" "JetStream cannot store: its disk, or a limit of the account or server, is reached." "disk-full.md",
    StreamSealed "stream-sealed" "A stream is sealed, and stores no new messages.",
    NoAck "no-ack" "A stream does not confirm what it stores.",
    StreamClosed "stream-closed" "A stream takes no events, as an earlier relay has found.",
    SubjectClosed "subject-closed" "A subject takes no events, as an earlier relay has found.",
    StreamSettings "stream-settings" "A setting of a stream prevents the work.",
    StreamGone "stream-gone" "A stream with confirmed events does not exist any more." "stream-deleted.md",
    StreamRecreated "stream-recreated" "A stream with confirmed events was recreated." "nats-lost-data.md",
    StreamTruncated "stream-truncated" "A stream has lost its end." "nats-lost-data.md",
    StreamDiverged "stream-diverged" "A stream holds other messages than those that were confirmed." "nats-lost-data.md",
    EventParked "event-parked" "Parked events wait for a decision.",
    DelayedLate "delayed-late" "Delayed events are due, and are not moved.",
    DelayedHeld "delayed-held" "An open transaction holds delayed events that are due.",
    SlotHeld "slot-held" "An open transaction prevents that a slot of the log is freed.",
    NoInstance "no-instance" "Events wait for a subscriber, and no instance answers." "events-wait.md",
    NoLease "no-lease" "All instances of an ordered subscriber stand by, and none renews the lease." "events-wait.md",
    NoConsumer "no-consumer" "A consumer of a subscriber is missing, and no instance answers." "events-wait.md",
    ConsumerDeleted "consumer-deleted" "A consumer was deleted while an instance runs." "events-wait.md",
    RetriesGone "retries-gone" "No stream takes the retries of a subscriber.",
    DeadLettersGone "dead-letters-gone" "No stream takes the dead letters of a subscriber.",
    RetriesOrphaned "retries-orphaned" "Retries wait, and no consumer takes them." "events-wait.md",
    RetriesLate "retries-late" "Retries are due, and their stream does not deliver them.",
    RetriesFar "retries-far" "Retries wait for longer than half an hour.",
    AckPendingFull "ack-pending-full" "As many deliveries are ack pending as may be, and the server sends no more.",
    BeyondEnd "beyond-end" "A consumer begins behind the end of its stream.",
    NameWithoutHandler "name-without-handler" "A consumer delivers a name that no instance handles.",
    CircuitOpen "circuit-open" "The circuit of an instance is open.",
    ReplayStuck "replay-stuck" "A replay does not continue.",
    ReplayPaused "replay-paused" "A replay is paused.",
    ReplaySlow "replay-slow" "A replay takes longer than a day at its pace.",
    RuntimeBlocked "runtime-blocked" "Handlers block the threads of the process, and nothing else runs.",
    TaskEnded "task-ended" "A task that the process needs has ended.",
    NotStarted "not-started" "A part of the process is not set up yet.",
    NoProgress "no-progress" "Events are due, no attempt runs, and none has ended for long." "events-wait.md",
    SlotsTaken "slots-taken" "All slots of a subscriber are taken by attempts that do not end.",
    KeyWaits "key-waits" "A key waits behind an event that fails." "stuck-key.md",
    KeyParked "key-parked" "Keys of an ordered subscriber are parked: their events are dead-lettered." "stuck-key.md",
    Unconfirmed "unconfirmed" "The server confirms no answer of a subscriber.",
    Instance "instance" "An instance reports an issue of its own.",
    Clock "clock" "The clock of an instance, or of this process, differs from that of a server.",
    Drift "drift" "The settings of a consumer differ from those that the instances want.",
    Paused "paused" "A subscriber is paused." "events-wait.md",
    DeadLetters "dead-letters" "Dead letters wait for a decision." "handler-bug.md",
    OneCopy "one-copy" "A stream has one copy in a cluster of servers.",
    Window "window" "A stream recognises the ids of events for too short a time.",
    DiscardOld "discard-old" "A stream drops its oldest events when it is full.",
    RetentionPolicy "retention-policy" "A stream drops events that were handled, or that no consumer waits for.",
    NoLimit "no-limit" "The disk is the only limit of a stream.",
    KeepsLess "keeps-less" "A stream keeps its messages for a shorter time than they are needed.",
    RetriesLimited "retries-limited" "A limit of a stream drops waiting retries.",
    Superuser "superuser" "The role in the database is a superuser.",
    Lease "lease" "The lease of the relay, or its stall timeout, is very short or very long.",
    Pool "pool" "The pool of connections is too small for the handlers.",
    Unsynced "unsynced" "A stream with one copy may lose its last messages when the power fails.",
    Drain "drain" "An attempt may take longer than the shutdown of the worker.",
    Timeout "timeout" "An attempt may take very long.",
    MaxPayload "max-payload" "The nats-server takes smaller messages than producers check for.",
    TwoOutboxes "two-outboxes" "The same database has another outbox with a relay.",
}

impl fmt::Display for IssueKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_is_its_word_in_json_and_a_later_one_is_unknown() {
        let read = |text: &str| serde_json::from_str::<IssueKind>(text).unwrap();
        for kind in IssueKind::ALL {
            let word = format!("\"{kind}\"");
            assert_eq!(serde_json::to_string(kind).unwrap(), word);
            assert_eq!(read(&word), *kind);
        }
        assert_eq!(read("\"comet\""), IssueKind::Unknown);
    }
}
