//! The contract of [`RepublishStatements`], [`LossStatements`] and [`HomeStatements`].
//!
//! [`RepublishStatements`]: crate::outbox::store::RepublishStatements
//! [`LossStatements`]: crate::outbox::store::LossStatements
//! [`HomeStatements`]: crate::outbox::store::HomeStatements

use std::time::Duration;

use super::{LEASE, OTHER, OWNER, Tables, event, ids, relay::entry};
use crate::outbox::store::{Entry, Store, home::StoredHome, ledger::LedgerKind};

/// One republisher at a time, beside the relay.
pub(super) async fn lease<DB: Store>(tables: &Tables<'_, DB>) -> Result<(), sqlx::Error> {
    let names = &tables.names;
    let mut connection = tables.connection().await?;
    tables.claimed(OTHER).await?;
    assert!(DB::claim_republish(&mut connection, names, OWNER, LEASE).await?);
    assert!(!DB::claim_republish(&mut connection, names, OTHER, LEASE).await?);
    DB::release_republish(&mut connection, names, OTHER).await?;
    assert!(!DB::claim_republish(&mut connection, names, OTHER, LEASE).await?);
    assert!(DB::claim_republish(&mut connection, names, OWNER, LEASE).await?);
    DB::release_republish(&mut connection, names, OWNER).await?;
    assert!(DB::claim_republish(&mut connection, names, OTHER, Duration::ZERO).await?);
    // By the clock of the database, which may count milliseconds.
    while !DB::claim_republish(&mut connection, names, OWNER, LEASE).await? {}
    Ok(())
}

/// Rows are read by their ids, as far as they exist, and the ledger says how they came into the stream.
pub(super) async fn rows_and_entries<DB: Store>(
    tables: &Tables<'_, DB>,
) -> Result<(), sqlx::Error> {
    let names = &tables.names;
    let mut connection = tables.connection().await?;
    let events: Vec<_> = (0..3).map(|_| event("a.a", None)).collect();
    let rows = tables.written(&events).await?;
    let wanted = [rows[0].id, rows[2].id, rows[2].id + 1000];
    let found = DB::rows_at(&mut connection, names, &wanted).await?;
    assert_eq!(ids(&found.rows), wanted[..2]);
    assert!(!found.are_cut);

    let kinds = [LedgerKind::Republished, LedgerKind::Copied];
    for (row, kind) in rows.iter().zip(kinds) {
        let entry = Entry {
            kind,
            ..entry(row.id, row.id, 1, 7)
        };
        DB::record(&mut connection, names, &[entry]).await?;
    }
    // A row that was discarded while it was parked is in no stream.
    let discarded = Entry {
        events: 0,
        last_sequence: 0,
        kind: LedgerKind::Discarded,
        ..entry(rows[2].id, rows[2].id, 1, 0)
    };
    DB::record(&mut connection, names, &[discarded]).await?;
    let entries = DB::entries(&mut connection, names, 0, 9).await?;
    let kinds: Vec<_> = entries.iter().map(|entry| entry.kind).collect();
    let [republished, copied] = [LedgerKind::Republished, LedgerKind::Copied];
    assert_eq!(kinds, [republished, copied, LedgerKind::Discarded]);
    let gone = DB::parked_ids(&mut connection, names, &ids(&rows)).await?;
    assert_eq!(gone.into_iter().collect::<Vec<_>>(), [rows[2].id]);
    let beginnings = DB::beginnings(&mut connection, names, 0).await?;
    assert_eq!(beginnings.len(), 1, "only what came into its own stream");
    Ok(())
}

/// Losses are kept for each stream; the NATS is replaced as a whole.
pub(super) async fn losses_and_home<DB: Store>(tables: &Tables<'_, DB>) -> Result<(), sqlx::Error> {
    let names = &tables.names;
    let mut connection = tables.connection().await?;
    let losses = |text: String| serde_json::from_str::<serde_json::Value>(&text).unwrap();
    assert_eq!(
        losses(DB::losses(&mut connection, names).await?),
        serde_json::json!({})
    );
    for loss in [r#"{"A":1}"#, r#"{"B":2}"#, r#"{"A":3}"#] {
        DB::store_losses(&mut connection, names, loss).await?;
    }
    assert_eq!(
        losses(DB::losses(&mut connection, names).await?),
        serde_json::json!({"A": 3, "B": 2})
    );

    let newest = i32::try_from(DB::MIGRATIONS.len()).unwrap();
    assert_eq!(DB::version(&mut connection, names).await?, Some(newest));
    let home = DB::home(&mut connection, names).await?;
    assert!(home.stored.is_none() && home.streams.is_empty());
    let stored = serde_json::to_string(&StoredHome::default());
    DB::store_home(&mut connection, names, &stored.unwrap()).await?;
    let home = DB::home(&mut connection, names).await?;
    assert_eq!(home.stored, Some(StoredHome::default()));
    Ok(())
}
