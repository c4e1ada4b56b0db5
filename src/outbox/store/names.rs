//! The names of an outbox's tables: the configured schema or prefix. Never runs a statement.

use std::borrow::Cow;

use sqlx::{AssertSqlSafe, SqlSafeStr, SqlStr};

use super::{Migration, Statements};
use crate::schema::{self, SchemaError};

/// The schema or prefix of the tables.
#[derive(Debug, Clone)]
pub struct Names {
    schema: Cow<'static, str>,
    /// Transactions share connections with those of other clients.
    is_pooled: bool,
    /// Migrations behind those of this version: only tests of upgrades have any.
    later: &'static [Migration],
}

impl Default for Names {
    fn default() -> Self {
        Self {
            schema: Cow::Borrowed(DEFAULT_SCHEMA),
            is_pooled: false,
            later: &[],
        }
    }
}

const DEFAULT_SCHEMA: &str = "tidings";

impl Names {
    pub(in crate::outbox) fn new(schema: &str) -> Result<Self, SchemaError> {
        schema::check(schema)?;
        Ok(Self {
            schema: Cow::Owned(schema.to_owned()),
            is_pooled: false,
            later: &[],
        })
    }

    /// Returns the same names for use behind a pooler that gives each transaction another connection.
    pub(in crate::outbox) fn pooled(self, is_pooled: bool) -> Self {
        Self { is_pooled, ..self }
    }

    pub(in crate::outbox) fn is_pooled(&self) -> bool {
        self.is_pooled
    }

    #[cfg(feature = "failpoints")]
    pub(in crate::outbox) fn with_later(self, later: &'static [Migration]) -> Self {
        Self { later, ..self }
    }

    /// All migrations, in order.
    pub(in crate::outbox) fn migrations<DB: Statements>(
        &self,
    ) -> impl Iterator<Item = &'static Migration> {
        DB::MIGRATIONS.iter().chain(self.later)
    }

    /// The version of the tables that this program works with.
    pub(in crate::outbox) fn version<DB: Statements>(&self) -> usize {
        DB::MIGRATIONS.len() + self.later.len()
    }

    pub(in crate::outbox) fn schema(&self) -> &str {
        &self.schema
    }

    /// Returns a statement with the names of this outbox. `separator` stands between schema and table.
    pub(in crate::outbox) fn sql(&self, text: &'static str, separator: char) -> SqlStr {
        if self.schema == DEFAULT_SCHEMA {
            return SqlStr::from_static(text);
        }
        // Safe: the schema is a plain identifier, which `new` has checked.
        AssertSqlSafe(self.text(text, separator)).into_sql_str()
    }

    /// Returns the same as text, for printing.
    pub(in crate::outbox) fn text(&self, text: &str, separator: char) -> String {
        text.replace(
            &format!("{DEFAULT_SCHEMA}{separator}"),
            &format!("{}{separator}", self.schema),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_identifiers_become_part_of_a_statement() {
        for schema in [
            "",
            "1a",
            "a.b",
            "a b",
            "a\"b",
            "A",
            "a;drop",
            "user",
            "pg_shop",
            &"a".repeat(41),
        ] {
            assert!(Names::new(schema).is_err(), "{schema:?}");
        }
        let names = Names::new("shop_events").unwrap();
        assert_eq!(
            names.sql("select 1 from tidings.outbox", '.').as_str(),
            "select 1 from shop_events.outbox"
        );
    }
}
