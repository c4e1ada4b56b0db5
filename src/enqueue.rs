//! Enqueueing through any driver: the statement that writes an event into an outbox, and its values. Never talks to a
//! database.

use bytes::Bytes;
use chrono::{DateTime, Utc};
use tidings_contract::{EnvelopeError, EventId, IntoEnvelope, wire};

pub use crate::schema::SchemaError;
use crate::{
    handler::context,
    nats::{TooLarge, check_size},
    schema,
};

/// What a nats-server accepts unless it is configured otherwise, in bytes.
const DEFAULT_MAX_PAYLOAD: usize = 1024 * 1024;

/// Makes the statements that enqueue events, for a service whose driver is not the sqlx of this crate: tokio-postgres,
/// diesel, SeaORM, rusqlite, an older sqlx. It needs no feature. Each event passes the same checks as in an
/// `Outbox`.
///
/// Execute the statement in the transaction of the change, after the statement that locks what the event is about: the
/// order of events is the order of their inserts. The relay finds the row by polling, within 250 ms when it is idle.
///
/// ```
/// use serde::{Deserialize, Serialize};
/// use tidings::{Enqueue, Event};
///
/// #[derive(Serialize, Deserialize, Event)]
/// #[event(name = "user.created", version = 1, key = id)]
/// struct UserCreated {
///     id: u32,
/// }
///
/// let enqueue = Enqueue::postgres();
/// let insert = enqueue.statement(&UserCreated { id: 7 })?;
/// // with tokio-postgres, its feature `with-uuid-1`, and `id` as a uuid::Uuid:
/// // tx.execute(&*insert.sql, &[&id, &insert.name, &insert.version, &insert.key, &insert.headers, &&insert.payload[..]])
/// assert!(insert.sql.starts_with("insert into tidings.outbox (event, name, version, key, headers, payload)"));
/// assert_eq!((&*insert.name, insert.key.as_deref()), ("user.created", Some("7")));
/// # Ok::<(), tidings::enqueue::EnqueueError>(())
/// ```
#[derive(Debug, Clone)]
pub struct Enqueue {
    dialect: Dialect,
    schema: String,
    source: String,
    max_payload: usize,
}

/// One insert: execute [`sql`](Self::sql) with the other fields as its values, in this order. A statement of a delayed
/// event has the time when it is due as its seventh value.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct EnqueueStatement {
    /// The statement, with `$1` to `$6` (SQLite: `?1` to `?6`) or one more.
    pub sql: String,
    /// `$1`: the event's id, as a `uuid`; on SQLite as a blob of its 16 bytes.
    pub event: EventId,
    /// `$2`: the event's name, as text.
    pub name: String,
    /// `$3`: the version of the payload, as `int4`.
    pub version: i32,
    /// `$4`: the event's key, as text, or null.
    pub key: Option<String>,
    /// `$5`: the headers, as the text of a JSON object.
    pub headers: String,
    /// `$6`: the payload, as `bytea` or blob.
    pub payload: Bytes,
    /// `$7`, for a delayed event only: when it is due, as `timestamptz`; on SQLite as an integer, microseconds since 1970.
    pub due: Option<DateTime<Utc>>,
}

/// Why an event is not enqueued.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EnqueueError {
    /// The event is refused as it is.
    #[error(transparent)]
    Envelope(#[from] EnvelopeError),
    /// The event is larger than the server accepts.
    #[error(transparent)]
    TooLarge(#[from] TooLarge),
}

#[derive(Debug, Clone, Copy)]
enum Dialect {
    Postgres,
    Sqlite,
}

impl Enqueue {
    /// For an outbox on Postgres, in the schema `tidings`.
    #[must_use]
    pub fn postgres() -> Self {
        Self::of(Dialect::Postgres)
    }

    /// For an outbox on SQLite, in tables that begin with `tidings_`.
    #[must_use]
    pub fn sqlite() -> Self {
        Self::of(Dialect::Sqlite)
    }

    fn of(dialect: Dialect) -> Self {
        Self {
            dialect,
            schema: "tidings".to_owned(),
            source: wire::DEFAULT_SOURCE.to_owned(),
            max_payload: DEFAULT_MAX_PAYLOAD,
        }
    }

    /// Uses another schema (SQLite: another prefix) than `tidings`.
    ///
    /// # Errors
    /// [`SchemaError`] when the name is not a plain identifier, or is a reserved word of SQL.
    pub fn in_schema(mut self, schema: &str) -> Result<Self, SchemaError> {
        schema::check(schema)?;
        self.schema = schema.to_owned();
        Ok(self)
    }

    /// Sets the source that the relay is configured with, which counts for the size of an event; default `tidings`.
    #[must_use]
    pub fn source(mut self, source: impl Into<String>) -> Self {
        self.source = source.into();
        self
    }

    /// Refuses events above this size, headers and payload together, in bytes; default 1 MiB, which is the server's
    /// default.
    #[must_use]
    pub fn max_payload(mut self, bytes: usize) -> Self {
        self.max_payload = bytes;
        self
    }

    /// The statement that enqueues an event. In a handler the event gets the lineage of the event that is handled. In a
    /// replay that suppresses follow-up events the statement inserts no row.
    ///
    /// # Errors
    /// [`EnqueueError`] when the event is refused.
    pub fn statement(&self, event: impl IntoEnvelope) -> Result<EnqueueStatement, EnqueueError> {
        self.insert("outbox", event, None)
    }

    /// The statement that enqueues an event to be published when it is due. Until then
    /// `delete from tidings.delayed where event = $1` cancels it.
    ///
    /// # Errors
    /// As for [`Enqueue::statement`].
    pub fn statement_at(
        &self,
        event: impl IntoEnvelope,
        due: DateTime<Utc>,
    ) -> Result<EnqueueStatement, EnqueueError> {
        // Not every database stores every time before 1970, and each of them is past.
        self.insert("delayed", event, Some(due.max(DateTime::UNIX_EPOCH)))
    }

    fn insert(
        &self,
        table: &str,
        event: impl IntoEnvelope,
        due: Option<DateTime<Utc>>,
    ) -> Result<EnqueueStatement, EnqueueError> {
        let envelope = context::inherit(event.into_envelope()?);
        let defaults = wire::Defaults::new(&self.source, Utc::now());
        check_size(&envelope, defaults, self.max_payload)?;
        let is_suppressed = context::suppresses(1);
        Ok(EnqueueStatement {
            sql: self.sql(table, due.is_some(), is_suppressed),
            event: envelope.id(),
            name: envelope.name().to_string(),
            // An envelope has no higher version.
            version: i32::try_from(envelope.version()).unwrap_or(i32::MAX),
            key: envelope.key().map(str::to_owned),
            headers: wire::stored_headers(&envelope),
            payload: envelope.payload().clone(),
            due,
        })
    }

    fn sql(&self, table: &str, is_delayed: bool, is_suppressed: bool) -> String {
        let (sign, separator) = match self.dialect {
            Dialect::Postgres => ('$', '.'),
            Dialect::Sqlite => ('?', '_'),
        };
        let types = [
            "uuid",
            "text",
            "integer",
            "text",
            "text",
            "bytea",
            "timestamptz",
        ];
        let count = if is_delayed { 7 } else { 6 };
        let value = |(at, kind): (usize, &&str)| match self.dialect {
            // Where the values are no part of an insert, Postgres does not know their types.
            Dialect::Postgres if is_suppressed => format!("${}::{kind}", at + 1),
            _ => format!("{sign}{}", at + 1),
        };
        let values: Vec<String> = types[..count].iter().enumerate().map(value).collect();
        let values = values.join(", ");
        let due = if is_delayed { ", due" } else { "" };
        let into = format!(
            "insert into {}{separator}{table} (event, name, version, key, headers, payload{due})",
            self.schema
        );
        match is_suppressed {
            false => format!("{into} values ({values})"),
            true => format!("{into} select {values} where false"),
        }
    }
}

#[cfg(test)]
mod tests {
    use tidings_contract::Envelope;

    use super::*;

    fn event() -> Envelope {
        Envelope::raw("user.created", 3, Some("ada"), "{}").unwrap()
    }

    #[test]
    fn a_statement_names_its_table_and_as_many_values_as_it_has() {
        let due = DateTime::UNIX_EPOCH;
        let shop = Enqueue::sqlite().in_schema("shop").unwrap();
        for (sql, expected) in [
            (
                Enqueue::postgres().statement(event()).unwrap().sql,
                "insert into tidings.outbox (event, name, version, key, headers, payload) values ($1, $2, $3, $4, $5, $6)",
            ),
            (
                shop.statement_at(event(), due).unwrap().sql,
                "insert into shop_delayed (event, name, version, key, headers, payload, due) \
                 values (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            ),
            (
                Enqueue::postgres().sql("delayed", true, true),
                "insert into tidings.delayed (event, name, version, key, headers, payload, due) select $1::uuid, \
                 $2::text, $3::integer, $4::text, $5::text, $6::bytea, $7::timestamptz where false",
            ),
        ] {
            assert_eq!(sql, expected);
        }
        assert!(Enqueue::postgres().in_schema("a; drop").is_err());
    }

    #[test]
    fn what_an_outbox_refuses_has_no_statement() {
        let huge = Envelope::raw("user.created", 1, None, "x".repeat(1_100_000)).unwrap();
        assert!(matches!(
            Enqueue::postgres().statement(huge),
            Err(EnqueueError::TooLarge(_))
        ));
        let small = Enqueue::postgres().max_payload(100);
        assert!(small.statement(event()).is_err());
    }
}
