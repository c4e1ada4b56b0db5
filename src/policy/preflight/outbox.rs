//! Judges the database of an outbox and the settings of its relay. Never asks either.

use std::time::Duration;

use super::{
    About, Concern, DatabaseFigures, MissingRight, PreflightFigures, RelaySetup, Severity, clock,
};
use crate::policy::issue_kind::IssueKind;

const SHORTEST_LEASE: Duration = Duration::from_secs(3);
const LONGEST_LEASE: Duration = Duration::from_secs(60);

pub(super) fn concerns(figures: &PreflightFigures) -> Vec<Concern> {
    let mut found = Vec::new();
    if let Some(database) = &figures.database {
        found.extend(denied(database, true));
        found.extend(denied(database, false));
        found.extend(read_only(database));
        found.extend(superuser(database));
        found.extend(two_outboxes(database));
        let about = About::Outbox(database.schema.clone());
        let ahead = database.ahead_s;
        found.extend(ahead.and_then(|ahead| clock::concern(about, "the database", ahead)));
        if let Some(nats) = &figures.nats {
            found.extend(max_payload(database, nats.max_payload));
        }
    }
    found.extend(figures.relay.as_ref().and_then(lease));
    found
}

fn denied(database: &DatabaseFigures, at_once: bool) -> Option<Concern> {
    let is_part = |right: &&MissingRight| right.is_needed_at_once == at_once;
    let missing: Vec<String> = database.missing.iter().filter(is_part).map(shown).collect();
    let (role, schema) = (&database.role, &database.schema);
    let (severity, what) = match at_once {
        true => (Severity::Refuse, "a relay cannot work as this role"),
        false => (
            Severity::Danger,
            "a relay works as this role until it needs them: to free the log, to park an event, or to move a delayed one",
        ),
    };
    (!missing.is_empty()).then(|| {
        Concern::new(
            IssueKind::DeniedDatabase,
            severity,
            About::Outbox(schema.clone()),
            format!("the role {role} lacks {}: {what}", missing.join(", ")),
            format!(
                "run as the owner of the tables: grant usage on schema {schema} to {role}; grant select, insert, update, \
                 delete, truncate on all tables in schema {schema} to {role}; grant usage on sequence {schema}.outbox_id \
                 to {role}"
            ),
        )
    })
}

fn shown(right: &MissingRight) -> String {
    format!("{} on {}", right.privilege, right.relation)
}

fn read_only(database: &DatabaseFigures) -> Option<Concern> {
    database.is_read_only.then(|| {
        Concern::new(
            IssueKind::DatabaseReadOnly,
            Severity::Refuse,
            About::Outbox(database.schema.clone()),
            "transactions of this database are read-only by default: neither services nor the relay can write",
            "set default_transaction_read_only back to off, for the server and for the database (alter database ... reset \
             default_transaction_read_only), or point database.url at the primary",
        )
        .command("show default_transaction_read_only")
    })
}

fn superuser(database: &DatabaseFigures) -> Option<Concern> {
    let severity = match database.is_local {
        true => Severity::Note,
        false => Severity::Danger,
    };
    database.is_superuser.then(|| {
        let role = &database.role;
        Concern::new(
            IssueKind::Superuser,
            severity,
            About::Outbox(database.schema.clone()),
            format!("the role {role} is a superuser: who takes over this process owns the whole database server"),
            "use a role with the grants of docs/operate/permissions.md",
        )
    })
}

fn two_outboxes(database: &DatabaseFigures) -> Vec<Concern> {
    let others = database.others.iter().map(|(schema, owner)| {
        Concern::new(
            IssueKind::TwoOutboxes,
            Severity::Note,
            About::Outbox(database.schema.clone()),
            format!(
                "the same database has another outbox, {schema}, which {owner} relays: events that are committed there \
                 are not in this one"
            ),
            "see that services and relay name the same database.schema",
        )
        .command(format!("tidings --schema {schema} outbox status"))
    });
    others.collect()
}

fn max_payload(database: &DatabaseFigures, server: usize) -> Option<Concern> {
    let known = database.max_payload?;
    (server > 0 && server < known).then(|| {
        Concern::new(
            IssueKind::MaxPayload,
            Severity::Note,
            About::Outbox(database.schema.clone()),
            format!(
                "the nats-server takes messages of {server} bytes, and producers check their events against {known}: a \
                 larger event is committed and then parked"
            ),
            "raise max_payload of each nats-server; a relay that starts records the limit of its server",
        )
    })
}

fn lease(relay: &RelaySetup) -> Option<Concern> {
    let RelaySetup {
        lease,
        stall_timeout,
        ..
    } = relay;
    let (cause, cure) = if *lease < SHORTEST_LEASE {
        (
            format!(
                "the lease is {lease:?}: a short pause of the host, the network or the database ends it"
            ),
            "set relay.lease to 3s or more; the default is 5s",
        )
    } else if *lease > LONGEST_LEASE {
        (
            format!(
                "the lease is {lease:?}: events wait for as long when the process of the relay dies"
            ),
            "set relay.lease to 60s or less; the default is 5s",
        )
    } else if *stall_timeout > *lease * 10 {
        (
            format!(
                "stall_timeout is {stall_timeout:?}: a stream that takes no events delays those of all other streams \
                 for as long"
            ),
            "set relay.stall_timeout to less than ten leases; the default is 5s",
        )
    } else {
        return None;
    };
    let about = About::Relay(relay.schema.clone());
    Some(Concern::new(
        IssueKind::Lease,
        Severity::Danger,
        about,
        cause,
        cure,
    ))
}
