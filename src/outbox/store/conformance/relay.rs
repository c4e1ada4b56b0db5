//! The contract of [`RelayStatements`], [`LedgerStatements`], [`StatusStatements`] and [`HousekeepingStatements`].
//!
//! [`RelayStatements`]: crate::outbox::store::RelayStatements
//! [`LedgerStatements`]: crate::outbox::store::LedgerStatements
//! [`StatusStatements`]: crate::outbox::store::StatusStatements
//! [`HousekeepingStatements`]: crate::outbox::store::HousekeepingStatements

use std::{collections::HashSet, hash::RandomState, time::Duration};

use super::{ALL, INCARNATION, LEASE, OTHER, OWNER, STREAM, Tables, event, ids};
use crate::outbox::store::{
    Bound, Entry, Position, Positions, Store, Written,
    ledger::{LedgerKind, PassedQuery, Range},
    origin::Origin,
};

pub(super) fn entry(first_id: i64, last_id: i64, events: i32, first_sequence: u64) -> Entry {
    Entry {
        first_id,
        last_id,
        events,
        stream: STREAM.to_owned(),
        incarnation: INCARNATION.to_owned(),
        first_sequence,
        last_sequence: first_sequence + u64::try_from(events).unwrap() - 1,
        kind: LedgerKind::Relayed,
    }
}

fn positions(sequence: u64) -> Positions {
    let position = Position::new(INCARNATION.to_owned(), sequence);
    Positions::from([(STREAM.to_owned(), position)])
}

const ISSUES: &str = r#"{"relay":{"since":"2026-11-21T09:30:00Z","cause":"down","cure":"up"}}"#;

/// One owner at a time; each claim begins an epoch, and only the present epoch writes.
pub(super) async fn lease<DB: Store>(tables: &Tables<'_, DB>) -> Result<(), sqlx::Error> {
    let names = &tables.names;
    let mut connection = tables.connection().await?;
    assert_eq!(DB::origin(&mut connection, names).await?, Origin::Own);
    DB::note_limit(&mut connection, names, 1024 * 1024).await?;
    let (former, first) = tables.claimed(OWNER).await?;
    assert_eq!(first.streams, Positions::new());
    let other = DB::claim(&mut connection, names, OTHER, LEASE).await?;
    assert!(other.is_none(), "another relay has the lease");
    let (tenure, again) = tables.claimed(OWNER).await?;
    assert!(again.epoch > first.epoch);

    let change = |checkpoint: &mut super::Checkpoint<DB::Cursor>| checkpoint.streams = positions(7);
    assert_eq!(tables.checkpointed(&former, None, change).await?, None);
    let written = tables.checkpointed(&tenure, None, change).await?;
    assert_eq!(written, Some(Written::default()));
    DB::write_issues(&mut connection, names, OTHER, r#"{"not":"written"}"#).await?;
    DB::write_issues(&mut connection, names, OWNER, ISSUES).await?;
    let status = DB::status(&mut connection, names).await?;
    assert_eq!(status.lease.owner.as_deref(), Some(OWNER));
    assert_eq!(status.lease.epoch, tenure.epoch);
    assert_eq!(status.issues.len(), 1);

    // Nothing but the present tenure releases the lease.
    DB::release(&mut connection, names, &former).await?;
    assert!(
        DB::claim(&mut connection, names, OTHER, LEASE)
            .await?
            .is_none()
    );
    DB::release(&mut connection, names, &tenure).await?;
    let (_, next) = tables.claimed(OTHER).await?;
    assert!(next.epoch > again.epoch && next.issues.contains("down"));
    assert_eq!(next.streams, positions(7));
    // By the clock of the database, which may count milliseconds.
    DB::claim(&mut connection, names, OTHER, Duration::ZERO).await?;
    while DB::claim(&mut connection, names, OWNER, LEASE)
        .await?
        .is_none()
    {}
    Ok(())
}

/// Every committed row is read once, in the order of ids, whatever the size of the pages.
pub(super) async fn pages_and_checkpoints<DB: Store>(
    tables: &Tables<'_, DB>,
) -> Result<(), sqlx::Error> {
    let names = &tables.names;
    let mut connection = tables.connection().await?;
    let rows = tables
        .written(&[
            event("a.a", Some("k")),
            event("b.b", None),
            event("a.a", None),
        ])
        .await?;
    let all: HashSet<i64> = ids(&rows).into_iter().collect();
    let (tenure, claim) = tables.claimed(OWNER).await?;
    let start = claim.cursor;
    let status = DB::status(&mut connection, names).await?;
    assert_eq!((status.backlog, status.last_batch), (3, None));

    let two = Bound { rows: 2, ..ALL };
    let first = tables.fetched(&start, two).await?;
    assert_eq!((ids(&first.rows), first.is_whole), (ids(&rows[..2]), false));
    let second = tables.fetched(&first.next, two).await?;
    assert_eq!(ids(&second.rows), ids(&rows[2..]));
    if !second.is_whole {
        // The rest of a snapshot may be read before the database looks for newer rows.
        let last = tables.fetched(&second.next, two).await?;
        assert_eq!((ids(&last.rows), last.is_whole), (Vec::new(), true));
    }
    let small = Bound { bytes: 3, ..ALL };
    let large = tables.fetched(&start, small).await?;
    assert!(large.rows.iter().all(|row| row.flaw.is_some()));

    let ahead = DB::ahead(&mut connection, names, &start, &ids(&rows)).await?;
    assert_eq!(ahead, all);
    let ahead = DB::ahead(&mut connection, names, &first.next, &ids(&rows)).await?;
    assert_eq!(ahead, HashSet::from([rows[2].id]));

    let entry = entry(rows[0].id, rows[1].id, 2, 5);
    let written = tables
        .checkpointed(&tenure, Some(first.next), |checkpoint| {
            checkpoint.ledger.push(entry);
            checkpoint.streams = positions(6);
        })
        .await?;
    assert_eq!(written, Some(Written::default()));
    // Without a cursor the stored one stays.
    tables.checkpointed(&tenure, None, |_| {}).await?;
    let (_, claim) = tables.claimed(OWNER).await?;
    let rest = tables.fetched(&claim.cursor, ALL).await?;
    assert_eq!(ids(&rest.rows), ids(&rows[2..]));
    let status = DB::status(&mut connection, names).await?;
    assert_eq!(status.backlog, 1);
    assert_eq!(status.last_batch.unwrap().last_sequence, 6);

    // A row that commits later is found, however far the pages have come.
    let rows = tables.written(&[event("c.c", None)]).await?;
    let later = tables.fetched(&rest.next, ALL).await?;
    assert_eq!(ids(&later.rows), [rows[3].id]);
    Ok(())
}

/// What the relay has passed, and where it went.
pub(super) async fn ledger<DB: Store>(tables: &Tables<'_, DB>) -> Result<(), sqlx::Error> {
    let names = &tables.names;
    let mut connection = tables.connection().await?;
    let rows = tables
        .written(&[
            event("a.a", Some("k")),
            event("b.b", None),
            event("c.c", None),
        ])
        .await?;
    let (tenure, claim) = tables.claimed(OWNER).await?;
    let two = Bound { rows: 2, ..ALL };
    let page = tables.fetched(&claim.cursor, two).await?;
    let written = entry(rows[0].id, rows[1].id, 2, 5);
    tables
        .checkpointed(&tenure, Some(page.next), |checkpoint| {
            checkpoint.ledger.push(written.clone());
            checkpoint.streams = positions(6);
        })
        .await?;

    let passed = DB::passed(&mut connection, names).await?;
    assert_eq!(passed.streams, positions(6));
    let (range, hasher) = (Range::default(), RandomState::new());
    let selection = |behind: i64, range, payloads| PassedQuery {
        behind,
        range,
        passed: &passed,
        limit: 9,
        payloads,
    };
    let relayed = DB::relayed(&mut connection, names, &selection(0, &range, None)).await?;
    let found: Vec<_> = relayed.iter().map(|row| (row.id, row.event)).collect();
    assert_eq!(
        found,
        [(rows[0].id, rows[0].event), (rows[1].id, rows[1].event)]
    );
    let hashed = selection(rows[0].id, &range, Some(&hasher));
    let hashed = DB::relayed(&mut connection, names, &hashed).await?;
    assert!(hashed.len() == 1 && hashed[0].payload.is_some());
    let of_key = Range {
        key: Some("k".to_owned()),
        ..Range::default()
    };
    let of_key = selection(0, &of_key, None);
    let whole = DB::relayed_rows(&mut connection, names, &of_key).await?;
    assert_eq!(ids(&whole.rows), [rows[0].id]);

    let entries = DB::entries(&mut connection, names, 0, 9).await?;
    assert_eq!(entries, std::slice::from_ref(&written));
    let behind = DB::entries(&mut connection, names, written.last_id, 9).await?;
    assert_eq!(behind, []);
    let beginnings = DB::beginnings(&mut connection, names, rows[1].id).await?;
    assert_eq!((beginnings.len(), beginnings[0].sequence), (1, 5));
    let of_row = DB::batches_of(&mut connection, names, rows[1].id).await?;
    assert_eq!((of_row.len(), of_row[0].epoch), (1, tenure.epoch));
    let at = DB::batches_at(&mut connection, names, STREAM, INCARNATION, 6).await?;
    assert_eq!(at, of_row);
    let beside = DB::batches_at(&mut connection, names, STREAM, INCARNATION, 7).await?;
    assert_eq!(beside, []);
    let parked = DB::parked_ids(&mut connection, names, &ids(&rows)).await?;
    assert!(parked.is_empty());
    Ok(())
}

/// Nothing that the cursor has not passed is freed, and nothing that is younger than the retention.
pub(super) async fn housekeeping<DB: Store>(tables: &Tables<'_, DB>) -> Result<(), sqlx::Error> {
    let names = &tables.names;
    let mut connection = tables.connection().await?;
    let rows = tables
        .written(&[event("a.a", None), event("b.b", None)])
        .await?;
    let (tenure, claim) = tables.claimed(OWNER).await?;
    let one = Bound { rows: 1, ..ALL };
    let page = tables.fetched(&claim.cursor, one).await?;
    tables
        .checkpointed(&tenure, Some(page.next.clone()), |_| {})
        .await?;
    let day = Duration::from_secs(86_400);
    for (cursor, retention) in [(&claim.cursor, Duration::ZERO), (&page.next, day)] {
        let reclaimed = DB::reclaim(&mut connection, names, cursor, retention).await?;
        assert_eq!(reclaimed.freed, None);
        let left = DB::contents(&mut connection, names).await?;
        assert_eq!(ids(&left), ids(&rows));
    }
    DB::reclaim(&mut connection, names, &page.next, Duration::ZERO).await?;
    let left = DB::contents(&mut connection, names).await?;
    assert_eq!(ids(&left).last(), Some(&rows[1].id));
    assert_eq!(DB::held(&mut connection, names).await?, []);
    Ok(())
}
