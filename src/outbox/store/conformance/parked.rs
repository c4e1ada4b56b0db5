//! The contract of [`ParkedStatements`](crate::outbox::store::ParkedStatements).

use super::{ALL, OWNER, STREAM, Tables, event, ids};
use crate::outbox::store::{
    Parked, Row, Store, Written,
    parked::{BlockedOn, Extent, ParkedSelection},
};

fn refused(row: &Row) -> Parked {
    Parked {
        row: row.clone(),
        error: "refused".to_owned(),
        blocked_on: None,
        follows: false,
    }
}

fn following(row: &Row) -> Parked {
    Parked {
        follows: true,
        ..refused(row)
    }
}

fn blocked(row: &Row, on: BlockedOn) -> Parked {
    Parked {
        blocked_on: Some(on),
        ..refused(row)
    }
}

/// A refused row holds up the later rows of its key until an operator decides; a row that waits for a stream holds up
/// none.
pub(super) async fn keys_and_reasons<DB: Store>(
    tables: &Tables<'_, DB>,
) -> Result<(), sqlx::Error> {
    let names = &tables.names;
    let mut connection = tables.connection().await?;
    let rows = tables
        .written(&[
            event("a.a", Some("k")),
            event("a.a", Some("k")),
            event("b.b", Some("other")),
            event("c.c", None),
        ])
        .await?;
    let stream = BlockedOn::Stream(STREAM.to_owned());
    let subject = BlockedOn::Subject("c.c".to_owned());
    let parked = [
        refused(&rows[0]),
        following(&rows[1]),
        blocked(&rows[2], stream.clone()),
        blocked(&rows[3], subject.clone()),
    ];
    DB::park(&mut connection, names, &parked).await?;
    let keys = DB::parked_keys(&mut connection, names).await?;
    assert_eq!(keys, [("k".to_owned(), rows[0].id)]);
    let waiting = DB::waiting(&mut connection, names).await?;
    let reasons: Vec<_> = waiting.reasons.iter().map(|r| &r.blocked_on).collect();
    assert!(!waiting.is_asked && reasons == [&stream, &subject]);
    let places = DB::parked_ids(&mut connection, names, &ids(&rows)).await?;
    assert_eq!(places.len(), 4);
    let none = DB::returning(&mut connection, names, &[], i64::MIN, ALL).await?;
    assert!(none.rows.is_empty());
    let open = [stream];
    let of_stream = DB::returning(&mut connection, names, &open, i64::MIN, ALL).await?;
    assert_eq!(ids(&of_stream.rows), [rows[2].id]);

    // One event stands for all parked events of its key.
    let id = ParkedSelection::Id(rows[1].id);
    assert_eq!(DB::unpark(&mut connection, names, &id).await?, 2);
    assert!(DB::waiting(&mut connection, names).await?.is_asked);
    let asked = DB::returning(&mut connection, names, &[], i64::MIN, ALL).await?;
    assert_eq!(ids(&asked.rows), ids(&rows[..2]));
    let behind = DB::returning(&mut connection, names, &[], rows[0].id, ALL).await?;
    assert_eq!(ids(&behind.rows), [rows[1].id]);
    let events = [rows[0].event, rows[3].event];
    let among = DB::parked_among(&mut connection, names, &events, i64::MIN).await?;
    assert_eq!(ids(&among.rows), [rows[0].id, rows[3].id]);

    // A row that is refused again has the new error, and neither it nor its followers are asked for any more.
    let again = Parked {
        error: "refused again".to_owned(),
        ..refused(&rows[0])
    };
    DB::park(&mut connection, names, &[again]).await?;
    assert!(!DB::waiting(&mut connection, names).await?.is_asked);
    let status = DB::status(&mut connection, names).await?;
    assert_eq!((status.parked, status.waiting, status.undecided), (4, 2, 2));

    // What was published is parked no longer, and its followers go with it.
    let (tenure, _) = tables.claimed(OWNER).await?;
    let returned = |ids: Vec<i64>| {
        move |checkpoint: &mut super::Checkpoint<DB::Cursor>| checkpoint.returned = ids
    };
    tables
        .checkpointed(&tenure, None, returned(vec![rows[0].id, rows[2].id]))
        .await?;
    // A statement need not see what it has asked for itself; the next one does.
    let written = tables
        .checkpointed(&tenure, None, returned(Vec::new()))
        .await?;
    let expected = Written {
        is_asked: true,
        is_waiting: true,
    };
    assert_eq!(written, Some(expected));
    let asked = DB::returning(&mut connection, names, &[], i64::MIN, ALL).await?;
    assert_eq!(ids(&asked.rows), [rows[1].id]);
    Ok(())
}

/// An operator sees as much of a row as he asks for, and what he discards is gone.
pub(super) async fn lists_and_discards<DB: Store>(
    tables: &Tables<'_, DB>,
) -> Result<(), sqlx::Error> {
    let names = &tables.names;
    let mut connection = tables.connection().await?;
    let rows = tables
        .written(&[event("a.a", Some("k")), event("b.b", Some("other"))])
        .await?;
    let subject = BlockedOn::Subject("b.b".to_owned());
    let parked = [refused(&rows[0]), blocked(&rows[1], subject.clone())];
    DB::park(&mut connection, names, &parked).await?;

    let all = ParkedSelection::All;
    let sizes = DB::parked_sizes(&mut connection, names, &all, i64::MIN, 9).await?;
    assert_eq!(sizes.len(), 2);
    assert_eq!(sizes[0].payload, rows[0].payload.len());
    let of_key = ParkedSelection::Key("other".to_owned());
    let sizes = DB::parked_sizes(&mut connection, names, &of_key, i64::MIN, 9).await?;
    assert_eq!((sizes.len(), sizes[0].id), (1, rows[1].id));
    let behind = DB::parked_sizes(&mut connection, names, &all, rows[1].id, 9).await?;
    assert_eq!(behind.len(), 0);

    let head = DB::parked(&mut connection, names, &ids(&rows), Extent::Head).await?;
    assert!(head.iter().all(|row| row.payload.is_empty()));
    assert_eq!(head[0].payload_bytes, sizes[0].payload as u64);
    assert_eq!(head[1].blocked_on, Some(subject.to_string()));
    assert!(!head[0].is_returning && head[1].is_returning);
    let shown = DB::parked(&mut connection, names, &[rows[0].id], Extent::Shown).await?;
    assert_eq!((shown.len(), &*shown[0].error), (1, "refused"));
    assert_eq!(shown[0].payload, rows[0].payload);

    let id = [rows[0].id];
    let discarded = DB::discard(&mut connection, names, &id, Extent::Whole).await?;
    assert_eq!((discarded.len(), discarded[0].event), (1, rows[0].event));
    assert_eq!(discarded[0].payload, rows[0].payload);
    let again = DB::discard(&mut connection, names, &id, Extent::Head).await?;
    assert_eq!(again, []);
    Ok(())
}

/// A row that was not read because it is too large is parked as it is.
pub(super) async fn rows_with_a_flaw<DB: Store>(
    tables: &Tables<'_, DB>,
) -> Result<(), sqlx::Error> {
    let names = &tables.names;
    let mut connection = tables.connection().await?;
    let rows = tables.written(&[event("a.a", Some("k"))]).await?;
    let (_, claim) = tables.claimed(OWNER).await?;
    let small = super::Bound { bytes: 3, ..ALL };
    let page = tables.fetched(&claim.cursor, small).await?;
    let row = &page.rows[0];
    assert!(row.flaw.is_some() && row.key.as_deref() == Some("k"));
    DB::park(&mut connection, names, &[refused(row)]).await?;
    let id = [row.id];
    let whole = DB::parked(&mut connection, names, &id, Extent::Whole).await?;
    assert_eq!(whole[0].payload, rows[0].payload);
    assert_eq!(whole[0].event, rows[0].event);
    let keys = DB::parked_keys(&mut connection, names).await?;
    assert_eq!(keys, [("k".to_owned(), row.id)]);
    Ok(())
}
