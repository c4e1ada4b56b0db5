//! The contract of [`LogStatements`], [`DelayedStatements`] and [`TraceStatements`].
//!
//! [`LogStatements`]: crate::outbox::store::LogStatements
//! [`DelayedStatements`]: crate::outbox::store::DelayedStatements
//! [`TraceStatements`]: crate::outbox::store::TraceStatements

use chrono::{TimeDelta, Utc};

use super::{ALL, Tables, event, ids};
use crate::outbox::store::{
    Bound, Store,
    delayed::Delayed,
    trace::{TraceQuery, TracedState, Wanted},
};

/// Rows are in the order in which they were written, by ascending ids, and unchanged.
pub(super) async fn writes_and_reads<DB: Store>(
    tables: &Tables<'_, DB>,
) -> Result<(), sqlx::Error> {
    let events = [
        event("a.a", Some("k")).header("tenant", "acme").unwrap(),
        event("b.b", None),
        event("a.a", Some("k")),
    ];
    tables.written(&events[..1]).await?;
    let rows = tables.written(&events[1..]).await?;
    let written: Vec<_> = rows.iter().map(|row| row.envelope().unwrap()).collect();
    for (written, event) in written.iter().zip(&events) {
        assert_eq!((written.id(), written.key()), (event.id(), event.key()));
        assert_eq!(written.payload(), event.payload());
    }
    assert_eq!(rows.len(), 3);
    assert!(rows[0].headers.contains("acme"));
    assert!(ids(&rows).is_sorted() && rows[0].id > 0);
    Ok(())
}

/// Due events enter the log once, in the order of their due times; others stay, and can be cancelled.
pub(super) async fn delayed_events<DB: Store>(tables: &Tables<'_, DB>) -> Result<(), sqlx::Error> {
    let names = &tables.names;
    let mut connection = tables.connection().await?;
    let now = Utc::now();
    let delayed = |name: &str, key: &str, seconds: i64| {
        Delayed::new(event(name, Some(key)), now + TimeDelta::seconds(seconds))
    };
    let events = [
        delayed("a.second", "k", -10),
        delayed("a.first", "k", -20),
        delayed("a.later", "other", 3600),
    ];
    DB::delay(&mut connection, names, &events).await?;
    let twice = DB::delay(&mut connection, names, &events[2..]).await;
    let twice = twice.unwrap_err();
    assert!(twice.as_database_error().unwrap().is_unique_violation());

    let coming = DB::coming(&mut connection, names, None, 9).await?;
    let coming: Vec<_> = coming.iter().map(|event| &*event.name).collect();
    assert_eq!(coming, ["a.first", "a.second", "a.later"]);
    let of_key = DB::coming(&mut connection, names, Some("other"), 9).await?;
    assert_eq!(of_key[0].id, events[2].envelope.id());
    assert_eq!(of_key.len(), 1);

    assert_eq!(DB::move_due(&mut connection, names, 1).await?, 1);
    assert_eq!(DB::move_due(&mut connection, names, 9).await?, 1);
    assert_eq!(DB::move_due(&mut connection, names, 9).await?, 0);
    let (_, claim) = tables.claimed(super::OWNER).await?;
    let with_due = Bound {
        with_due: true,
        ..ALL
    };
    let page = tables.fetched(&claim.cursor, with_due).await?;
    let moved: Vec<_> = page.rows.iter().map(|row| &*row.name).collect();
    assert_eq!(moved, ["a.first", "a.second"]);
    let due_in = page.due_in.expect("an event is delayed");
    assert!((3000..=3600).contains(&due_in.as_secs()), "{due_in:?}");

    let id = events[2].envelope.id();
    assert!(DB::cancel(&mut connection, names, id).await?);
    assert!(!DB::cancel(&mut connection, names, id).await?);
    let page = tables.fetched(&page.next, with_due).await?;
    assert!(page.rows.is_empty() && page.due_in.is_none());
    Ok(())
}

/// An event is found by its id and by its key, wherever its row is.
pub(super) async fn traces<DB: Store>(tables: &Tables<'_, DB>) -> Result<(), sqlx::Error> {
    let names = &tables.names;
    let mut connection = tables.connection().await?;
    assert_eq!(DB::oldest(&mut connection, names).await?, None);
    let events = [event("a.a", Some("k")), event("b.b", Some("k"))];
    tables.written(&events[..1]).await?;
    let (tenure, claim) = tables.claimed(super::OWNER).await?;
    let page = tables.fetched(&claim.cursor, ALL).await?;
    tables
        .checkpointed(&tenure, Some(page.next), |_| {})
        .await?;
    let rows = tables.written(&events[1..]).await?;
    let later = Delayed::new(
        event("c.c", Some("k")),
        Utc::now() + TimeDelta::seconds(3600),
    );
    DB::delay(&mut connection, names, &[later]).await?;

    let of_key = TraceQuery::of(Wanted::Key("k"), None, 9);
    let found = DB::rows_of(&mut connection, names, &of_key).await?;
    let state = |name: &str| &found.iter().find(|row| row.name == name).unwrap().state;
    assert_eq!(found.len(), 3);
    assert!(matches!(state("a.a"), TracedState::Log { is_passed: true }));
    assert!(matches!(
        state("b.b"),
        TracedState::Log { is_passed: false }
    ));
    assert!(matches!(state("c.c"), TracedState::Delayed { .. }));
    let of_event = TraceQuery::of(Wanted::Event(events[1].id()), None, 9);
    let found = DB::rows_of(&mut connection, names, &of_event).await?;
    assert_eq!(found.len(), 1);
    assert_eq!((found[0].id, found[0].event), (rows[1].id, events[1].id()));
    assert_eq!(DB::oldest(&mut connection, names).await?, Some(rows[0].at));
    assert_eq!(
        DB::scopes_of(&mut connection, names, events[0].id()).await?,
        []
    );

    // The relay has done the first half of a page.
    let page = [event("d.d", Some("d")), event("d.e", Some("d"))];
    let rows = tables.written(&page).await?;
    let (tenure, claim) = tables.claimed(super::OWNER).await?;
    let two = Bound { rows: 2, ..ALL };
    let half = tables.fetched(&claim.cursor, two).await?;
    assert_eq!(half.rows.last().map(|row| row.id), Some(rows[2].id));
    tables
        .checkpointed(&tenure, Some(half.next), |_| {})
        .await?;
    let of_key = TraceQuery::of(Wanted::Key("d"), None, 9);
    let found = DB::rows_of(&mut connection, names, &of_key).await?;
    let passed = found.iter().map(|row| (&*row.name, &row.state));
    let passed: Vec<_> = passed
        .map(|(name, state)| (name, matches!(state, TracedState::Log { is_passed: true })))
        .collect();
    assert_eq!(passed, [("d.e", false), ("d.d", true)]);
    Ok(())
}
