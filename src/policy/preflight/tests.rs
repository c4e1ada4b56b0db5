//! Each check finds its danger, and nothing in a safe configuration.

use chrono::{DateTime, TimeDelta};

use super::*;

const MINUTE: Duration = Duration::from_secs(60);

fn stream(name: &str, holds: Holds) -> StreamFigures {
    let (retention, discard) = match holds {
        Holds::Retries => ("workqueue", "old"),
        _ => ("limits", "new"),
    };
    StreamFigures {
        name: name.to_owned(),
        holds,
        is_fed: holds == Holds::Events,
        cluster: Some("c".to_owned()),
        replicas: 3,
        retention: retention.to_owned(),
        discard: discard.to_owned(),
        max_bytes: 1_000_000,
        duplicate_window: 2 * MINUTE,
        ..StreamFigures::default()
    }
}

/// A configuration that is well.
fn well() -> PreflightFigures {
    PreflightFigures {
        nats: Some(NatsFigures {
            ping_interval: Duration::from_secs(10),
            storage: Some(-1),
            ahead_s: Some(0.01),
            max_payload: 1_048_576,
            ..NatsFigures::default()
        }),
        streams: vec![
            stream("EVENTS", Holds::Events),
            stream("DEAD_LETTERS", Holds::DeadLetters),
            stream("RETRIES", Holds::Retries),
            stream("KV_TIDINGS", Holds::Bucket),
        ],
        database: Some(DatabaseFigures {
            schema: "tidings".to_owned(),
            role: "relay".to_owned(),
            may_claim: true,
            ahead_s: Some(-0.2),
            max_payload: Some(1_048_576),
            ..DatabaseFigures::default()
        }),
        relay: Some(RelaySetup {
            schema: "tidings".to_owned(),
            lease: Duration::from_secs(5),
            stall_timeout: Duration::from_secs(5),
            retention: 18 * 60 * MINUTE,
        }),
        subscribers: vec![subscriber()],
    }
}

fn subscriber() -> SubscriberSetup {
    SubscriberSetup {
        name: "invoices".to_owned(),
        timeout: Duration::from_secs(20),
        concurrency: 16,
        shutdown_timeout: Some(Duration::from_secs(25)),
        grace: None,
        pool: Some(PoolFigures {
            connections: 18,
            acquire_timeout: Duration::from_secs(30),
        }),
    }
}

/// What is found after a change of what is well.
fn found(change: impl FnOnce(&mut PreflightFigures)) -> Vec<(IssueKind, Severity)> {
    let mut figures = well();
    change(&mut figures);
    let concerns = concerns(&figures, &BTreeSet::new());
    for Concern {
        kind,
        severity,
        cause,
        cure,
        ..
    } in &concerns
    {
        let check = CHECKS.iter().find(|check| check.kind == *kind);
        let check = check.expect("each kind that is found is a check");
        assert!(*severity <= check.severity, "{kind}: {severity}");
        assert!(!cause.is_empty() && !cure.is_empty());
    }
    let told = concerns.iter().map(|one| (one.kind, one.severity));
    told.collect()
}

fn events(figures: &mut PreflightFigures) -> &mut StreamFigures {
    &mut figures.streams[0]
}

fn database(figures: &mut PreflightFigures) -> &mut DatabaseFigures {
    figures.database.as_mut().unwrap()
}

fn one(kind: IssueKind, severity: Severity) -> Vec<(IssueKind, Severity)> {
    vec![(kind, severity)]
}

use Severity::{Danger, Note, Refuse};

#[test]
fn what_is_well_has_no_concern() {
    assert_eq!(found(|_| {}), []);
    assert_eq!(concerns(&PreflightFigures::default(), &BTreeSet::new()), []);
}

#[test]
fn one_copy_in_a_cluster_is_a_danger_for_each_stream() {
    for at in 0..4 {
        let found = found(|figures| figures.streams[at].replicas = 1);
        assert_eq!(
            found,
            [(IssueKind::OneCopy, Danger), (IssueKind::Unsynced, Note)]
        );
    }
    // Without a cluster there is one copy only.
    let alone = found(|figures| {
        let each = figures.streams.iter_mut();
        each.for_each(|stream| (stream.replicas, stream.cluster) = (1, None));
    });
    assert_eq!(alone, one(IssueKind::Unsynced, Note));
}

#[test]
fn a_window_has_to_outlast_lease_and_lost_connections() {
    let window = |seconds| {
        found(move |figures| events(figures).duplicate_window = Duration::from_secs(seconds))
    };
    assert_eq!(window(60), []);
    assert_eq!(window(59), one(IssueKind::Window, Danger));
    assert_eq!(window(10), one(IssueKind::Window, Danger));
    assert_eq!(window(9), one(IssueKind::Window, Refuse));
    let long_lease = found(|figures| {
        figures.relay.as_mut().unwrap().lease = Duration::from_secs(55);
        events(figures).duplicate_window = Duration::from_secs(64);
    });
    assert_eq!(long_lease, one(IssueKind::Window, Danger));
    // The streams of subscribers recognise no ids of events.
    let other = found(|figures| figures.streams[1].duplicate_window = Duration::ZERO);
    assert_eq!(other, []);
}

#[test]
fn a_stream_that_drops_events_is_a_danger_or_refused() {
    let old = found(|figures| events(figures).discard = "old".to_owned());
    assert_eq!(old, one(IssueKind::DiscardOld, Danger));
    for retention in ["interest", "workqueue"] {
        let policy = |is_fed| {
            found(move |figures| {
                let events = events(figures);
                (events.retention, events.is_fed) = (retention.to_owned(), is_fed);
            })
        };
        assert_eq!(policy(true), one(IssueKind::RetentionPolicy, Refuse));
        assert_eq!(policy(false), one(IssueKind::RetentionPolicy, Danger));
    }
}

#[test]
fn a_stream_without_a_limit_is_a_danger() {
    let unlimited = |storage, is_local| {
        found(move |figures| {
            events(figures).max_bytes = -1;
            let nats = figures.nats.as_mut().unwrap();
            (nats.storage, nats.is_local) = (storage, is_local);
        })
    };
    assert_eq!(unlimited(Some(-1), false), one(IssueKind::NoLimit, Danger));
    assert_eq!(unlimited(Some(-1), true), one(IssueKind::NoLimit, Note));
    assert_eq!(unlimited(Some(1 << 30), false), []);
    assert_eq!(unlimited(None, false), [], "it is not known");
    // Retries must have no limit.
    assert_eq!(found(|figures| figures.streams[2].max_bytes = -1), []);
}

#[test]
fn a_stream_that_keeps_less_than_is_needed_is_a_danger() {
    let hour = found(|figures| events(figures).max_age = 60 * MINUTE);
    assert_eq!(hour, one(IssueKind::KeepsLess, Danger));
    assert_eq!(
        found(|figures| events(figures).max_age = 24 * 60 * MINUTE),
        []
    );
    let of_others = found(|figures| {
        let events = events(figures);
        (events.max_age, events.is_fed) = (MINUTE, false);
    });
    assert_eq!(of_others, []);
    let dead_letters = found(|figures| figures.streams[1].max_age = 24 * 60 * MINUTE);
    assert_eq!(dead_letters, one(IssueKind::KeepsLess, Danger));
    let retries = "max_age is 1h: RETRIES drops. Remove the limit".to_owned();
    let mut figures = well();
    figures.streams[2].drops.push(retries);
    let [limited] = &concerns(&figures, &BTreeSet::new())[..] else {
        panic!("one concern")
    };
    assert_eq!(limited.kind, IssueKind::RetriesLimited);
    assert_eq!(
        (&*limited.cause, &*limited.cure),
        ("max_age is 1h: RETRIES drops", "Remove the limit")
    );
}

#[test]
fn missing_rights_refuse_where_the_relay_needs_them_at_once() {
    let missing = |relation: &str, privilege: &str, is_needed_at_once| MissingRight {
        relation: relation.to_owned(),
        privilege: privilege.to_owned(),
        is_needed_at_once,
    };
    let now = missing("relay", "update", true);
    let later = missing("outbox_*", "truncate", false);
    assert_eq!(
        found(|figures| database(figures).missing = vec![later.clone(), now.clone()]),
        [
            (IssueKind::DeniedDatabase, Refuse),
            (IssueKind::DeniedDatabase, Danger)
        ]
    );
    let mut figures = well();
    database(&mut figures).missing = vec![later];
    let [concern] = &concerns(&figures, &BTreeSet::new())[..] else {
        panic!("one concern")
    };
    assert!(
        concern
            .cause
            .contains("the role relay lacks truncate on outbox_*")
    );
    assert!(
        concern
            .cure
            .contains("grant usage on sequence tidings.outbox_id to relay")
    );
}

#[test]
fn a_read_only_database_and_a_superuser_are_named() {
    assert_eq!(
        found(|figures| database(figures).is_read_only = true),
        one(IssueKind::DatabaseReadOnly, Refuse)
    );
    let superuser = |is_local| {
        found(move |figures| {
            let database = database(figures);
            (database.is_superuser, database.is_local) = (true, is_local);
        })
    };
    assert_eq!(superuser(false), one(IssueKind::Superuser, Danger));
    assert_eq!(superuser(true), one(IssueKind::Superuser, Note));
}

#[test]
fn another_outbox_and_a_smaller_payload_are_notes() {
    let other = ("shop".to_owned(), "api-7:31".to_owned());
    assert_eq!(
        found(|figures| database(figures).others = vec![other]),
        one(IssueKind::TwoOutboxes, Note)
    );
    assert_eq!(
        found(|figures| database(figures).max_payload = Some(8_000_000)),
        one(IssueKind::MaxPayload, Note)
    );
}

#[test]
fn a_lease_that_is_short_or_long_is_a_danger() {
    let relay = |lease, stall| {
        found(move |figures| {
            let relay = figures.relay.as_mut().unwrap();
            relay.lease = Duration::from_secs(lease);
            relay.stall_timeout = Duration::from_secs(stall);
        })
    };
    assert_eq!(relay(3, 30), []);
    assert_eq!(relay(2, 5), one(IssueKind::Lease, Danger));
    assert_eq!(relay(5, 51), one(IssueKind::Lease, Danger));
    assert_eq!(relay(61, 5)[0], (IssueKind::Lease, Danger));
}

#[test]
fn a_small_pool_is_a_danger_and_long_attempts_are_notes() {
    let change = |change: fn(&mut SubscriberSetup)| {
        found(move |figures| change(&mut figures.subscribers[0]))
    };
    let small = change(|one| one.pool.as_mut().unwrap().connections = 17);
    assert_eq!(small, one(IssueKind::Pool, Danger));
    let slow = change(|one| one.pool.as_mut().unwrap().acquire_timeout = MINUTE);
    assert_eq!(slow, one(IssueKind::Pool, Danger));
    let drain = change(|one| one.timeout = Duration::from_secs(26));
    assert_eq!(drain, one(IssueKind::Drain, Note));
    let killed = change(|one| one.grace = one.shutdown_timeout);
    assert_eq!(killed, one(IssueKind::Drain, Note));
    let long = change(|one| (one.timeout, one.shutdown_timeout) = (11 * MINUTE, None));
    assert_eq!(long, one(IssueKind::Timeout, Note));
}

#[test]
fn clocks_that_differ_are_a_note_or_a_danger() {
    for (ahead, severity) in [(1.5, Note), (-1.5, Note), (3600.0, Danger), (-6.0, Danger)] {
        let nats = found(|figures| figures.nats.as_mut().unwrap().ahead_s = Some(ahead));
        assert_eq!(nats, one(IssueKind::Clock, severity), "{ahead}");
        let database = found(|figures| database(figures).ahead_s = Some(ahead));
        assert_eq!(database, one(IssueKind::Clock, severity), "{ahead}");
    }
}

#[test]
fn half_the_round_trip_is_taken_off_a_difference() {
    let at = |millis| DateTime::UNIX_EPOCH + TimeDelta::milliseconds(millis);
    assert!(offset(at(0), at(900), at(1000)).abs() < 1e-9);
    assert!((offset(at(0), at(5500), at(1000)) - 4.5).abs() < 1e-9);
    assert!((offset(at(10_000), at(4500), at(11_000)) + 5.5).abs() < 1e-9);
}

#[test]
fn what_is_allowed_by_name_is_silent() {
    let mut figures = well();
    events(&mut figures).replicas = 1;
    events(&mut figures).discard = "old".to_owned();
    let allowed = BTreeSet::from([IssueKind::OneCopy, IssueKind::Unsynced]);
    let left = concerns(&figures, &allowed);
    assert_eq!(left.len(), 1, "{left:?}");
    assert_eq!(left[0].kind, IssueKind::DiscardOld);
}

#[test]
fn the_worst_comes_first() {
    let all = found(|figures| {
        events(figures).replicas = 1;
        events(figures).retention = "interest".to_owned();
    });
    let kinds: Vec<IssueKind> = all.into_iter().map(|(kind, _)| kind).collect();
    assert_eq!(
        kinds,
        [
            IssueKind::RetentionPolicy,
            IssueKind::OneCopy,
            IssueKind::Unsynced
        ]
    );
}
