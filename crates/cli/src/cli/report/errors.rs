//! Converts errors of the library to reports: an exit code and a cure. Never prints.

use std::error::Error;

use tidings::{
    dead_letters::DeadLettersError,
    judge::PreflightRefusal,
    nats::{BusError, BusErrorKind, ConnectError, PublishError, ReaderError},
    ops::OpsError,
    outbox::{
        AdoptError, DatabaseError, ElsewhereError, MigrateError, OutboxError, RelayError,
        RepublishError, SchemaError,
    },
    replays::ReplayError,
    subscribers::{RemoveError, ResetError, SubscribersError},
    trace::TraceError,
    verify::{RepairError, VerifyError},
    worker::WorkerError,
};

use super::{Exit, Report};
use crate::{cli::database, config::ConfigError};

impl From<ConfigError> for Report {
    fn from(error: ConfigError) -> Self {
        let report = Self::of(Exit::Usage, &error);
        match error.cure() {
            Some(cure) => report.cure(cure),
            None => report,
        }
    }
}

impl From<SchemaError> for Report {
    fn from(error: SchemaError) -> Self {
        Self::of(Exit::Usage, &error).cure("another --schema")
    }
}

impl From<ConnectError> for Report {
    fn from(error: ConnectError) -> Self {
        match &error {
            ConnectError::Unreachable { .. } => Self::of(Exit::Unreachable, &error).cure(
                "start a nats-server with JetStream, or correct --nats-url or the credentials",
            ),
            ConnectError::NkeySeed { .. } => Self::of(Exit::Usage, &error)
                .cure("set nats.nkey_seed to a seed that `nsc` or `nk` has made"),
            ConnectError::TlsFile { what, .. } => {
                Self::of(Exit::Usage, &error).cure(format!("set nats.{what} to a file in PEM"))
            }
            ConnectError::Credentials { .. } => Self::of(Exit::Usage, &error)
                .cure("set nats.credentials to a file that `nsc` has written"),
            ConnectError::InboxPrefix(_) => {
                Self::of(Exit::Usage, &error).cure("another nats.inbox_prefix")
            }
            _ => Self::of(Exit::Usage, &error),
        }
    }
}

impl From<BusError> for Report {
    fn from(error: BusError) -> Self {
        Self::of_bus(&error, &error)
    }
}

impl From<ReaderError> for Report {
    fn from(error: ReaderError) -> Self {
        match error.source().and_then(<dyn Error>::downcast_ref) {
            Some(cause) => Self::of_bus(cause, &error),
            None => Self::of(Exit::Failed, &error),
        }
    }
}

impl From<DeadLettersError> for Report {
    fn from(error: DeadLettersError) -> Self {
        match &error {
            DeadLettersError::NoStream { stream } => {
                Self::new(Exit::Failed, format!("there is no stream {stream}"))
                    .cure("tidings streams apply, which creates it")
            }
            DeadLettersError::Bus(source) => Self::of_bus(source, &error),
            _ => Self::of(Exit::Failed, &error),
        }
    }
}

impl From<VerifyError> for Report {
    fn from(error: VerifyError) -> Self {
        match error {
            VerifyError::Outbox(source) => source.into(),
            VerifyError::Stream(source) => source.into(),
            VerifyError::Bus(source) => source.into(),
            other => Self::of(Exit::Failed, &other),
        }
    }
}

impl From<TraceError> for Report {
    fn from(error: TraceError) -> Self {
        match error {
            TraceError::Bus(source) => source.into(),
            other => Self::of(Exit::Failed, &other),
        }
    }
}

impl From<RepairError> for Report {
    fn from(error: RepairError) -> Self {
        match error {
            RepairError::Verify(source) => source.into(),
            RepairError::Republish(source) => source.into(),
            other => Self::of(Exit::Failed, &other),
        }
    }
}

impl From<RepublishError> for Report {
    fn from(error: RepublishError) -> Self {
        const AGAIN: &str = "run the same command again; it continues with what is left";
        let report = Self::of(Exit::Failed, &error);
        match error {
            RepublishError::Outbox(source) => source.into(),
            RepublishError::Stream(source) => source.into(),
            RepublishError::Bus(source) => source.into(),
            RepublishError::NoStream { .. } => {
                report.cure("tidings streams apply, with a [[stream]] that takes it")
            }
            RepublishError::NotAName { .. } => report.cure("another prefix"),
            RepublishError::Busy
            | RepublishError::Changed { .. }
            | RepublishError::Unconfirmed { .. } => report.cure(AGAIN),
            _ => report,
        }
    }
}

impl From<SubscribersError> for Report {
    fn from(error: SubscribersError) -> Self {
        match &error {
            SubscribersError::Unknown { .. } => Self::of(Exit::Failed, &error)
                .cure("tidings subscribers list, which lists all subscribers"),
            SubscribersError::NoInstance { .. } => {
                Self::of(Exit::Failed, &error).cure("start a worker that runs it")
            }
            SubscribersError::Partly { source, .. } => {
                Self::of(exit_of(source), &error).cure("run the same command again; it continues")
            }
            SubscribersError::Bus(source) => Self::of_bus(source, &error),
            _ => Self::of(Exit::Failed, &error),
        }
    }
}

impl From<RemoveError> for Report {
    fn from(error: RemoveError) -> Self {
        match &error {
            RemoveError::Runs { .. } => {
                Self::of(Exit::Failed, &error).cure("stop its workers first, and wait ten seconds")
            }
            RemoveError::Foreign { .. } => Self::of(Exit::Failed, &error)
                .cure("use the tools of that application, or nats consumer rm"),
            _ => match error {
                RemoveError::Subscribers(source) => source.into(),
                other => Self::of(Exit::Failed, &other),
            },
        }
    }
}

impl From<ResetError> for Report {
    fn from(error: ResetError) -> Self {
        match &error {
            ResetError::WhichStream { streams, .. } => {
                let cure = format!("--stream {}, or a time", streams.join(" or --stream "));
                Self::of(Exit::Usage, &error).cure(cure)
            }
            ResetError::NotItsStream { streams, .. } => Self::of(Exit::Usage, &error)
                .cure(format!("--stream {}", streams.join(" or --stream "))),
            ResetError::BehindTheEnd { .. } => {
                Self::of(Exit::Usage, &error).cure("--to now, which is after the last event")
            }
            ResetError::BeforeItsStart { name, .. } => Self::of(Exit::Failed, &error).cure(
                format!("tidings replay start {name}, which delivers the earlier events"),
            ),
            _ => match error {
                ResetError::Read(source) => source.into(),
                ResetError::Subscribers(source) => source.into(),
                other => Self::of(Exit::Failed, &other),
            },
        }
    }
}

impl From<ReplayError> for Report {
    fn from(error: ReplayError) -> Self {
        let (exit, cure) = match &error {
            ReplayError::Unknown { .. } => (Exit::Failed, "tidings subscribers list".to_owned()),
            ReplayError::NoInstance { .. } => {
                let cure = "start a worker that runs it, or use --force: the replay then waits for a worker";
                (Exit::Failed, cure.to_owned())
            }
            ReplayError::UnknownName { names, .. } => {
                (Exit::Usage, format!("--name {}", names.join(" or --name ")))
            }
            ReplayError::Ambiguous { streams } | ReplayError::UnknownStream { streams, .. } => (
                Exit::Usage,
                format!("--stream {}", streams.join(" or --stream ")),
            ),
            ReplayError::UnknownShadow { .. } => (
                Exit::Usage,
                "run the same command without --shadow".to_owned(),
            ),
            ReplayError::TooOld { first, .. } => {
                let cure = format!("--from {first}, or --force, which replays what is left");
                (Exit::Failed, cure)
            }
            ReplayError::Gone { .. } => (Exit::Failed, "tidings streams apply".to_owned()),
            ReplayError::Unfinished { id, .. } => {
                let cure =
                    format!("tidings replay watch {id}, tidings replay cancel {id}, or --force");
                (Exit::Failed, cure)
            }
            ReplayError::NoStream { name } => return no_stream(name),
            ReplayError::NoReplay { .. } => (Exit::Failed, "tidings replay list".to_owned()),
            ReplayError::Bus(source) => return Self::of_bus(source, &error),
            _ => return Self::of(Exit::Failed, &error),
        };
        Self::of(exit, &error).cure(cure)
    }
}

/// The cure for a refusal of the server.
pub(super) fn cure_of(kind: BusErrorKind) -> Option<&'static str> {
    Some(match kind {
        BusErrorKind::StreamNotFound => "tidings streams apply, which creates it",
        BusErrorKind::Unavailable => "start the nats-servers that are down: a majority must be up",
        BusErrorKind::SubjectsOverlap => {
            "give the [[stream]] subjects that no other stream takes; `nats stream ls` lists the streams"
        }
        BusErrorKind::MaxBytesRequired => {
            "set max_bytes in each [[stream]], also of DEAD_LETTERS and RETRIES, and set nats.bucket_max_bytes"
        }
        BusErrorKind::NotEnabled => {
            "start nats-server with -js, and use an account that may use JetStream"
        }
        _ => return None,
    })
}

pub(super) fn exit_of(error: &BusError) -> Exit {
    match error.kind() {
        BusErrorKind::Unavailable | BusErrorKind::Timeout => Exit::Unreachable,
        _ => Exit::Failed,
    }
}

impl From<OutboxError> for Report {
    fn from(error: OutboxError) -> Self {
        match &error {
            OutboxError::Envelope(refused) => Self::of(Exit::Usage, refused),
            OutboxError::TooLarge(refused) => too_large(refused),
            // The message of the database would add nothing.
            OutboxError::AlreadyDelayed { .. } => Self::new(Exit::Failed, error.to_string())
                .cure("tidings outbox cancel ID, or another --id"),
            OutboxError::NotMigrated(source) => not_migrated(source),
            OutboxError::Database(source) | OutboxError::Locked { source, .. } => {
                of_database(source, &error)
            }
            OutboxError::Version { is_newer, .. } => of_version(&error, *is_newer),
            OutboxError::Elsewhere(ElsewhereError::Bus(source)) => Self::of_bus(source, &error),
            OutboxError::Elsewhere(_) => Self::of(Exit::Failed, &error).cure(ELSEWHERE),
            _ => Self::of(Exit::Failed, &error),
        }
    }
}

impl From<AdoptError> for Report {
    fn from(error: AdoptError) -> Self {
        match &error {
            AdoptError::NotMigrated(source) => not_migrated(source),
            AdoptError::Database(source) => of_database(source, &error),
            _ => Self::of(Exit::Failed, &error),
        }
    }
}

impl From<MigrateError> for Report {
    fn from(error: MigrateError) -> Self {
        match &error {
            MigrateError::Database(source)
            | MigrateError::Failed { source, .. }
            | MigrateError::Locked { source, .. } => of_database(source, &error),
            _ => Self::of(Exit::Failed, &error),
        }
    }
}

impl From<RelayError> for Report {
    fn from(error: RelayError) -> Self {
        match &error {
            RelayError::NotMigrated(source) => not_migrated(source),
            RelayError::Version { is_newer, .. } => of_version(&error, *is_newer),
            RelayError::Elsewhere { reason } => {
                Self::new(Exit::Failed, reason.clone()).cure(ELSEWHERE)
            }
            RelayError::Refused(refusal) => of_refusal(refusal),
            _ => Self::of(Exit::Failed, &error),
        }
    }
}

impl From<PublishError> for Report {
    fn from(error: PublishError) -> Self {
        match &error {
            PublishError::Envelope(refused) => Self::of(Exit::Usage, refused),
            PublishError::TooLarge(refused) => too_large(refused),
            PublishError::NoStream { subject } => no_stream(subject),
            _ => Self::of(Exit::Failed, &error),
        }
    }
}

impl From<WorkerError> for Report {
    fn from(error: WorkerError) -> Self {
        match &error {
            WorkerError::NoStream { subject, .. } => no_stream(subject),
            WorkerError::Setup { source, .. } => Self::of_bus(source, &error),
            WorkerError::Background { .. } => of_background(error),
            WorkerError::Refused(refusal) => of_refusal(refusal),
            _ => Self::of(Exit::Failed, &error),
        }
    }
}

/// Background work that has ended is reported as if it ran alone.
fn of_background(error: WorkerError) -> Report {
    let WorkerError::Background { name, source } = error else {
        return Report::of(Exit::Failed, &error);
    };
    let source = match source.downcast::<RelayError>() {
        Ok(error) => return (*error).into(),
        Err(source) => source,
    };
    match source.downcast::<OpsError>() {
        Ok(error) if matches!(*error, OpsError::Public { .. } | OpsError::Bind { .. }) => {
            Report::of(Exit::Usage, &*error)
                .cure("another ops.listen; without one there are no health endpoints")
        }
        // A supervisor starts the program again, which may help.
        Ok(error) => Report::of(Exit::Failed, &*error),
        Err(source) => Report::of(Exit::Failed, &WorkerError::Background { name, source }),
    }
}

fn of_refusal(refusal: &PreflightRefusal) -> Report {
    Report::new(Exit::Failed, refusal.cause.clone()).cure(format!("{}; or --force", refusal.cure))
}

fn of_database(source: &DatabaseError, error: &(dyn Error + 'static)) -> Report {
    let report = Report::of(database::exit_of(source), error);
    if database::is_unannounced_pooler(source) {
        return report
            .cure("append ?statement-cache-capacity=0 to database.url when the connection passes a pooler");
    }
    match source.diagnosis() {
        Some(diagnosis) => report.diagnosed(diagnosis),
        None => report,
    }
}

/// The cure when the configured NATS is not the one of the outbox.
const ELSEWHERE: &str = "use another --nats-url; or tidings outbox use-nats, to relay the outbox into this NATS from now on";

fn of_version(error: &(dyn Error + 'static), is_newer: bool) -> Report {
    Report::of(Exit::Failed, error).cure(match is_newer {
        true => "use the program of the newest Tidings version that has migrated the database",
        false => "tidings migrate",
    })
}

fn not_migrated(source: &(dyn Error + 'static)) -> Report {
    Report::new(Exit::Failed, "the database has no outbox in this schema")
        .because(Some(source))
        .cure("tidings migrate")
}

/// The report when no stream of the server takes a subject.
pub(crate) fn no_stream(subject: &str) -> Report {
    Report::new(Exit::Failed, format!("no stream takes {subject}"))
        .cure("tidings streams apply, with a [[stream]] that has the subject")
}

fn too_large(error: &(dyn Error + 'static)) -> Report {
    Report::of(Exit::Failed, error).cure(
        "store large data elsewhere and publish its location, or raise max_payload of the server",
    )
}
