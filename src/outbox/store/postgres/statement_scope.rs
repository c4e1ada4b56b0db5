//! Runs statements with or without a pooler that gives each transaction another connection (pgbouncer in transaction
//! mode). Adds no statements of its own except begin and commit.
//!
//! sqlx prepares a statement in one round trip and runs it in the next, under a name that the connection keeps. Such a
//! pooler may change the connection between the two, and it exposes one client's names to another. So behind a pooler
//! each statement is unnamed and part of a transaction. Without a pooler statements run unchanged.

use std::ops::{Deref, DerefMut};

use sqlx::{
    ConnectOptions as _, Connection as _, PgConnection, Postgres, SqlSafeStr, Transaction,
    postgres::{PgArguments, PgConnectOptions, PgQueryResult, PgRow},
    query::Query,
};

use crate::outbox::store::{Dialect, Names};

/// The URL parameter for it: `postgres://...?statement-cache-capacity=0`.
const NO_PREPARED_STATEMENTS: (&str, &str) = ("statement-cache-capacity", "0");

/// Whether a pooler is in use: there is no other reason to forbid prepared statements.
pub(super) fn is_pooled(options: &PgConnectOptions) -> bool {
    let url = options.to_url_lossy();
    url.query_pairs()
        .any(|(name, value)| (&*name, &*value) == NO_PREPARED_STATEMENTS)
}

/// Returns a statement with the names of this outbox.
pub(super) fn query<'q>(names: &Names, text: &'static str) -> Query<'q, Postgres, PgArguments> {
    query_of(names, names.sql(text, '.'))
}

/// Returns a statement from SQL that was built at run time.
pub(super) fn query_of<'q>(
    names: &Names,
    sql: impl SqlSafeStr,
) -> Query<'q, Postgres, PgArguments> {
    sqlx::query(sql).persistent(!names.is_pooled())
}

/// Begins a transaction that holds only statements of Tidings.
pub(super) async fn begin(
    connection: &mut PgConnection,
) -> Result<Transaction<'_, Postgres>, sqlx::Error> {
    connection.begin_with(Postgres::BEGIN_OWN).await
}

/// Runs one statement, as [`Query::fetch_one`], [`Query::fetch_optional`], [`Query::fetch_all`] and [`Query::execute`].
/// Behind a pooler it runs in its own transaction.
macro_rules! statements {
    ($($name:ident -> $result:ty),+) => {
        $(pub(super) async fn $name(
            connection: &mut PgConnection,
            names: &Names,
            statement: Query<'_, Postgres, PgArguments>,
        ) -> Result<$result, sqlx::Error> {
            if !stands_alone(connection, names) {
                return statement.$name(connection).await;
            }
            let mut tx = begin(connection).await?;
            let done = statement.$name(&mut *tx).await?;
            tx.commit().await?;
            Ok(done)
        })+
    };
}

statements! {
    fetch_one -> PgRow,
    fetch_optional -> Option<PgRow>,
    fetch_all -> Vec<PgRow>,
    execute -> PgQueryResult
}

/// Whether a statement needs its own transaction.
fn stands_alone(connection: &PgConnection, names: &Names) -> bool {
    names.is_pooled() && !connection.is_in_transaction()
}

/// A connection for a few statements that read. Behind a pooler they run in a read-only transaction, so losing it loses
/// nothing.
pub(super) enum StatementScope<'c> {
    Own(&'c mut PgConnection),
    Shared(Transaction<'c, Postgres>),
}

impl<'c> StatementScope<'c> {
    pub(super) async fn begin(
        connection: &'c mut PgConnection,
        names: &Names,
    ) -> Result<Self, sqlx::Error> {
        if stands_alone(connection, names) {
            let begin = begin_own!("; set transaction read only");
            return Ok(Self::Shared(connection.begin_with(begin).await?));
        }
        Ok(Self::Own(connection))
    }

    /// For a page in the order of ids, which is read by their index and costs as much as it holds. As long as the table
    /// has no statistics, the planner assumes few rows, and for each page it reads and sorts the whole rest of the log:
    /// 219 ms for 200,000 rows, instead of 3.
    pub(super) async fn in_order(connection: &'c mut PgConnection) -> Result<Self, sqlx::Error> {
        let begin = begin_own!(
            "; set transaction read only; set local lock_timeout = '5s'; set local enable_sort = off; \
            set local enable_bitmapscan = off"
        );
        Ok(Self::Shared(connection.begin_with(begin).await?))
    }

    /// Ends the use of the connection, and returns it to the pooler.
    pub(super) async fn end(self) -> Result<(), sqlx::Error> {
        match self {
            Self::Own(_) => Ok(()),
            Self::Shared(tx) => tx.commit().await,
        }
    }
}

impl Deref for StatementScope<'_> {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        match self {
            Self::Own(connection) => connection,
            Self::Shared(tx) => tx,
        }
    }
}

impl DerefMut for StatementScope<'_> {
    fn deref_mut(&mut self) -> &mut PgConnection {
        match self {
            Self::Own(connection) => connection,
            Self::Shared(tx) => tx,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_without_prepared_statements_means_a_pooler() {
        let pooled = |url: &str| is_pooled(&url.parse().unwrap());
        assert!(pooled("postgres://u@h/d?statement-cache-capacity=0"));
        assert!(!pooled("postgres://u@h/d?statement-cache-capacity=10"));
        assert!(!pooled("postgres://u@h/d"));
        assert!(is_pooled(
            &PgConnectOptions::new().statement_cache_capacity(0)
        ));
    }
}
