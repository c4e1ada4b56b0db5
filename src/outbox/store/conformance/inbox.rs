//! The contract of [`InboxStatements`](crate::outbox::store::InboxStatements).

use std::time::Duration;

use chrono::Utc;
use tidings_contract::EventId;
use uuid::Uuid;

use super::Tables;
use crate::{
    outbox::store::{
        Store,
        inbox::{Added, Memory},
        inbox_ring::{DEFAULT_SECONDS, period_of},
        leased_connection::LeasedConnection,
    },
    task::ticks::Ticks,
};

const SCOPE: &str = "mailer";

fn memory(events: &[Uuid]) -> Memory<'_> {
    Memory {
        scope: SCOPE,
        slot_seconds: DEFAULT_SECONDS,
        period: period_of(Utc::now(), DEFAULT_SECONDS),
        events,
        idle: Duration::from_secs(30),
    }
}

/// Remembers events in a transaction that commits or not; returns what was added.
async fn remembered<DB: Store>(
    tables: &Tables<'_, DB>,
    memory: &Memory<'_>,
    commits: bool,
) -> Result<Added, sqlx::Error> {
    let mut tx =
        LeasedConnection::begin(tables.pool, &Ticks::default(), DB::BEGIN_TO_REMEMBER).await?;
    let remembered = DB::remember(&mut tx, &tables.names, memory).await?;
    match commits {
        true => assert!(DB::conclude(&mut tx).await?),
        false => DB::say(&mut tx, "rollback").await?,
    }
    ended(tx).await?;
    Ok(remembered.added)
}

/// The client takes the transaction for open, and rolls one back when the connection returns.
async fn ended<DB: Store>(mut tx: LeasedConnection<DB>) -> Result<(), sqlx::Error> {
    DB::say(&mut tx, "begin").await
}

fn sorted(many: usize) -> Vec<Uuid> {
    let mut ids: Vec<Uuid> = (0..many).map(|_| EventId::now().into()).collect();
    ids.sort_unstable();
    ids
}

/// An event is new once for each subscriber, as long as its transaction commits.
pub(super) async fn memory_of_events<DB: Store>(
    tables: &Tables<'_, DB>,
) -> Result<(), sqlx::Error> {
    let ids = sorted(3);
    let first = memory(&ids[..1]);
    for (commits, added) in [
        (false, Added::All),
        (true, Added::All),
        (true, Added::Only(Vec::new())),
    ] {
        assert_eq!(remembered(tables, &first, commits).await?, added);
    }
    let all = memory(&ids);
    let Added::Only(mut added) = remembered(tables, &all, true).await? else {
        panic!("one of them was known");
    };
    added.sort_unstable();
    assert_eq!(added, ids[1..]);
    let other = Memory {
        scope: "biller",
        ..all
    };
    assert_eq!(remembered(tables, &other, true).await?, Added::All);

    // Out of reach, and by another length of a period, nothing is added: the ring says why.
    let new = sorted(1);
    let long_ago = Memory {
        period: 1,
        ..memory(&new)
    };
    let none = Added::Only(Vec::new());
    assert_eq!(remembered(tables, &long_ago, true).await?, none);
    let shorter = Memory {
        slot_seconds: DEFAULT_SECONDS / 2,
        ..memory(&new)
    };
    assert_eq!(remembered(tables, &shorter, true).await?, none);
    assert_eq!(remembered(tables, &memory(&new), true).await?, Added::All);

    let mut connection = tables.connection().await?;
    let scopes = DB::scopes_of(&mut connection, &tables.names, ids[0].into()).await?;
    assert_eq!(
        scopes,
        ["biller", SCOPE].map(|scope| (scope.to_owned(), None))
    );
    assert_eq!(
        DB::empty_dead_slot(&mut connection, &tables.names).await?,
        None
    );
    Ok(())
}

/// A note changes only from what its writer knows; a handler that ends its transaction is found out.
pub(super) async fn notes<DB: Store>(tables: &Tables<'_, DB>) -> Result<(), sqlx::Error> {
    let names = &tables.names;
    let ids = sorted(1);
    let memory = memory(&ids);
    assert_eq!(remembered(tables, &memory, true).await?, Added::All);

    let mut tx =
        LeasedConnection::begin(tables.pool, &Ticks::default(), DB::BEGIN_TO_REMEMBER).await?;
    DB::remember(&mut tx, names, &memory).await?;
    assert_eq!(DB::dead_lettered(&mut tx, names, &memory).await?, []);
    assert!(DB::mark(&mut tx, names, &memory, None, Some("one")).await?);
    assert!(!DB::mark(&mut tx, names, &memory, None, Some("two")).await?);
    let notes = DB::dead_lettered(&mut tx, names, &memory).await?;
    assert_eq!(notes, [(ids[0], "one".to_owned())]);
    assert!(DB::mark(&mut tx, names, &memory, Some("one"), None).await?);
    DB::forget(&mut tx, names, &memory).await?;
    assert!(!DB::mark(&mut tx, names, &memory, None, Some("one")).await?);
    assert!(DB::conclude(&mut tx).await?);
    ended(tx).await?;
    assert_eq!(remembered(tables, &memory, true).await?, Added::All);

    let mut tx =
        LeasedConnection::begin(tables.pool, &Ticks::default(), DB::BEGIN_TO_REMEMBER).await?;
    let other = sorted(1);
    let other = self::memory(&other);
    DB::remember(&mut tx, names, &other).await?;
    DB::say(&mut tx, "commit").await?;
    assert!(
        !DB::conclude(&mut tx).await?,
        "its handler has ended the transaction"
    );
    let twice = DB::say(&mut tx, "this is no statement").await.unwrap_err();
    assert!(!DB::is_lost(&twice));
    let closed = sqlx::Error::Io(std::io::ErrorKind::BrokenPipe.into());
    assert!(DB::is_lost(&closed) && !DB::is_refusal(&closed));
    ended(tx).await
}
