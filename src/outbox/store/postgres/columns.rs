//! Reads rows so that no single row fails the statement: texts and times as bytes, and nothing above its size limit.
//! Never decides which rows.
//!
//! A text that is not valid UTF-8 (in a database with another encoding, or with none) makes the server refuse the whole
//! result. A page that failed in this way is read again, with each text converted separately.

use chrono::{DateTime, Utc};
use sqlx::{Row as _, ValueRef as _, postgres::PgRow};

use crate::outbox::store::{
    columns::{Columns, Text, nearest},
    row::Row,
};

/// A statement about rows, and the same one with each text converted separately.
pub(super) struct Statement {
    pub(super) plain: &'static str,
    pub(super) checked: &'static str,
}

/// Limits the columns of a row: `id, at, event, name, version, key, headers, payload`, in the order of ids. The
/// database knows a value's size without reading it.
macro_rules! rows {
    ($most:literal, $($inner:tt)+) => {
        $crate::outbox::store::postgres::columns::Statement {
            plain: $crate::outbox::store::postgres::columns::bounded!($most, $($inner)+),
            checked: concat!(
                "select id, created_at, event, coalesce(tidings.utf8(name), decode('ff', 'hex')) as name, version,
                    case when key is not null then coalesce(tidings.utf8(key), decode('ff', 'hex')) end as key,
                    case when headers is not null then coalesce(tidings.utf8(headers), decode('ff', 'hex')) end
                        as headers,
                    payload
                from (",
                $crate::outbox::store::postgres::columns::bounded!($most, $($inner)+),
                ") as checked order by id"
            ),
        }
    };
}

macro_rules! bounded {
    ($most:literal, $($inner:tt)+) => {
        concat!(
            "select id, created_at, event,
                case when octet_length(name) <= 1000 then name else left(name, 300) end as name,
                version,
                case when octet_length(key) <= 1000 then key else left(key, 300) end as key,
                case when octet_length(headers) <= 400000 then headers end as headers,
                case when octet_length(payload) <= ", $most, " then payload end as payload
            from (", $($inner)+, ") as bounded order by id"
        )
    };
}

/// Whether the relay has passed a row of `log`: its cursor sees it, or the done part of the page that it reads.
macro_rules! is_passed {
    () => {
        "(pg_visible_in_snapshot(log.xid, relay.cursor)
          or coalesce(log.id <= relay.page_id and pg_visible_in_snapshot(log.xid, relay.page_snapshot), false))"
    };
}

pub(super) use {bounded, is_passed, rows};

impl Statement {
    /// The variants of the statement, in the order in which they are tried.
    pub(super) fn variants(&self) -> [&'static str; 2] {
        [self.plain, self.checked]
    }
}

/// Whether a statement failed because of a value in a row.
pub(super) fn is_of_a_row(error: &sqlx::Error) -> bool {
    const NOT_IN_REPERTOIRE: &str = "22021";
    const UNTRANSLATABLE: &str = "22P05";
    let code = error.as_database_error().and_then(|error| error.code());
    code.is_some_and(|code| [NOT_IN_REPERTOIRE, UNTRANSLATABLE].contains(&&*code))
}

/// Reads a row of a `rows!` statement that had the limit `most`.
pub(super) fn read(row: &PgRow, most: usize) -> Result<Row, sqlx::Error> {
    let columns = Columns {
        id: row.try_get(0)?,
        at: micros(row, 1)?,
        event: bytes(row, 2)?,
        name: text(row, 3)?,
        version: row.try_get::<Option<i32>, _>(4)?.map(i64::from),
        key: text(row, 5)?,
        headers: text(row, 6)?,
        payload: text(row, 7)?,
        most,
    };
    Ok(columns.row())
}

/// The bytes of a column.
pub(super) fn bytes(row: &PgRow, at: usize) -> Result<Option<&[u8]>, sqlx::Error> {
    let value = row.try_get_raw(at)?;
    if value.is_null() {
        return Ok(None);
    }
    value.as_bytes().map(Some).map_err(sqlx::Error::Decode)
}

pub(super) fn text<'r>(row: &'r PgRow, at: usize) -> Result<Text<'r>, sqlx::Error> {
    Ok(bytes(row, at)?.map_or(Text::Absent, Text::Bytes))
}

/// The text of a column, as far as it can be decoded.
pub(super) fn shown(row: &PgRow, at: usize) -> Result<Option<String>, sqlx::Error> {
    Ok(text(row, at)?.shown())
}

/// The time of a column, or the nearest one in the valid range.
pub(super) fn moment(row: &PgRow, at: usize) -> Result<DateTime<Utc>, sqlx::Error> {
    Ok(nearest(micros(row, at)?))
}

/// The same for a column that may be null.
pub(super) fn perhaps(row: &PgRow, at: usize) -> Result<Option<DateTime<Utc>>, sqlx::Error> {
    Ok(micros(row, at)?.map(|micros| nearest(Some(micros))))
}

/// A time in microseconds since 1970; infinity is above all times.
fn micros(row: &PgRow, at: usize) -> Result<Option<i64>, sqlx::Error> {
    /// From 1970 to 2000, the epoch of Postgres.
    const EPOCH: i64 = 946_684_800_000_000;
    let Some(bytes) = bytes(row, at)? else {
        return Ok(None);
    };
    let since_2000 = bytes.try_into().map(i64::from_be_bytes);
    let since_2000 = since_2000.map_err(|error| sqlx::Error::Decode(Box::new(error)))?;
    Ok(Some(since_2000.saturating_add(EPOCH)))
}
