//! Reads rows so that no single row fails the statement: SQLite stores any type and any bytes in any column. Never
//! decides which rows.

use chrono::{DateTime, Utc};
use sqlx::{Row as _, TypeInfo as _, ValueRef as _, sqlite::SqliteRow};

use crate::outbox::store::{
    columns::{Columns, Text, nearest},
    row::Row,
};

/// Limits the columns of a row: `id, at, event, name, version, key, headers, payload`. The database knows a value's
/// size without reading it.
macro_rules! rows {
    ($most:literal, $($from:tt)+) => {
        concat!(
            "select id, created_at, event,
                case when octet_length(name) <= 1000 then name else substr(name, 1, 300) end as name, version,
                case when octet_length(key) <= 1000 then key else substr(key, 1, 300) end as key,
                case when octet_length(headers) <= 400000 then headers end as headers,
                case when octet_length(payload) <= ", $most, " then payload end as payload ",
            $($from)+
        )
    };
}

pub(super) use rows;

/// Reads a row of a `rows!` statement that had the limit `most`.
pub(super) fn read(row: &SqliteRow, most: usize) -> Result<Row, sqlx::Error> {
    let columns = Columns {
        id: row.try_get(0)?,
        at: integer(row, 1)?,
        event: match value(row, 2)? {
            Value::Bytes(event) => Some(event),
            _ => None,
        },
        name: text(row, 3)?,
        version: integer(row, 4)?,
        key: text(row, 5)?,
        headers: text(row, 6)?,
        payload: match value(row, 7)? {
            Value::Null => Text::Absent,
            Value::Text(bytes) | Value::Bytes(bytes) => Text::Bytes(bytes),
            Value::Number => Text::Other,
        },
        most,
    };
    Ok(columns.row())
}

/// The value of a column, of whatever type.
enum Value<'r> {
    Null,
    Number,
    Text(&'r [u8]),
    Bytes(&'r [u8]),
}

fn value(row: &SqliteRow, at: usize) -> Result<Value<'_>, sqlx::Error> {
    let raw = row.try_get_raw(at)?;
    if raw.is_null() {
        return Ok(Value::Null);
    }
    let kind = raw.type_info();
    Ok(match kind.name() {
        "TEXT" => Value::Text(row.try_get_unchecked(at)?),
        "BLOB" => Value::Bytes(row.try_get_unchecked(at)?),
        _ => Value::Number,
    })
}

pub(super) fn text(row: &SqliteRow, at: usize) -> Result<Text<'_>, sqlx::Error> {
    Ok(match value(row, at)? {
        Value::Null => Text::Absent,
        Value::Text(bytes) => Text::Bytes(bytes),
        Value::Number | Value::Bytes(_) => Text::Other,
    })
}

/// The content of a column, as far as it is text or bytes.
pub(super) fn shown(row: &SqliteRow, at: usize) -> Result<Option<String>, sqlx::Error> {
    Ok(match value(row, at)? {
        Value::Text(bytes) | Value::Bytes(bytes) => Text::Bytes(bytes).shown(),
        Value::Null | Value::Number => None,
    })
}

pub(super) fn bytes(row: &SqliteRow, at: usize) -> Result<Option<&[u8]>, sqlx::Error> {
    Ok(match value(row, at)? {
        Value::Text(bytes) | Value::Bytes(bytes) => Some(bytes),
        Value::Null | Value::Number => None,
    })
}

/// The integer of a column; `None` for any other type.
pub(super) fn integer(row: &SqliteRow, at: usize) -> Result<Option<i64>, sqlx::Error> {
    let raw = row.try_get_raw(at)?;
    let is_integer = !raw.is_null() && raw.type_info().name() == "INTEGER";
    is_integer.then(|| row.try_get_unchecked(at)).transpose()
}

/// The time of a column, or the nearest one in the valid range.
pub(super) fn moment(row: &SqliteRow, at: usize) -> Result<DateTime<Utc>, sqlx::Error> {
    Ok(nearest(integer(row, at)?))
}

/// The same for a column that may be null.
pub(super) fn perhaps(row: &SqliteRow, at: usize) -> Result<Option<DateTime<Utc>>, sqlx::Error> {
    Ok(integer(row, at)?.map(|micros| nearest(Some(micros))))
}
