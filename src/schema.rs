//! Names of schemas that may become a part of statements. Never makes a statement.

mod reserved;

/// A schema or prefix that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a schema name: use lower-case letters, digits and `_`, at most 40, a letter first, \
     no reserved word of SQL such as `user`, and no `pg_` at the beginning"
)]
pub struct SchemaError(String);

/// Accepts a name that needs no quotes: lower-case letters, digits and `_`, a letter first, at most 40 bytes, not a word
/// that Postgres or SQLite reserves.
pub(crate) fn check(schema: &str) -> Result<(), SchemaError> {
    let is_plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
    let is_accepted = schema.starts_with(|c: char| c.is_ascii_lowercase())
        && schema.len() <= 40
        && schema.bytes().all(is_plain)
        && !schema.starts_with("pg_")
        && !reserved::is_reserved(schema);
    match is_accepted {
        true => Ok(()),
        false => Err(SchemaError(schema.to_owned())),
    }
}
