//! The error of a database, without the type of the database library in the errors that carry it. Never decides what
//! follows.

use std::{borrow::Cow, error::Error, fmt};

/// An error of the database behind an outbox.
///
/// Its [`source`](Error::source) is the error of sqlx. [`error_texts`](crate::error_text::error_texts) has what the
/// database reported, and [`DatabaseError::diagnosis`] what to do about it.
///
/// ```
/// # #[cfg(feature = "sqlite")]
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use tidings::{Outbox, error_text::error_texts, outbox::DatabaseError, sqlx};
///
/// let outbox = Outbox::temporary().await?;
/// let query = sqlx::query("select * from nowhere");
/// let error: DatabaseError = query.execute(outbox.pool()).await.unwrap_err().into();
/// assert!(!error.is_unavailable());
/// assert_eq!(error.code().as_deref(), Some("1"));
/// assert_eq!(error_texts(&error), ["no such table: nowhere (1)"]);
/// # Ok(()) }
/// # #[cfg(not(feature = "sqlite"))] fn main() {}
/// ```
// In a box: errors that carry it stay small.
pub struct DatabaseError(Box<sqlx::Error>);

impl DatabaseError {
    /// Whether the database cannot be used now: it does not answer, the connection was lost or ended, it is starting up
    /// or shutting down, or it has no free connection. A later call may succeed.
    #[must_use]
    pub fn is_unavailable(&self) -> bool {
        match &*self.0 {
            sqlx::Error::Io(_)
            | sqlx::Error::Tls(_)
            | sqlx::Error::PoolTimedOut
            | sqlx::Error::PoolClosed => true,
            _ => self.code().is_some_and(|code| is_of_unavailable(&code)),
        }
    }

    /// Whether a row with this key exists already.
    #[must_use]
    pub fn is_unique_violation(&self) -> bool {
        let said = self.0.as_database_error();
        said.is_some_and(sqlx::error::DatabaseError::is_unique_violation)
    }

    /// The code with which the database answered: a SQLSTATE of Postgres, or a result code of SQLite. `None` when the
    /// database did not answer.
    #[must_use]
    pub fn code(&self) -> Option<Cow<'_, str>> {
        self.0.as_database_error().and_then(|said| said.code())
    }

    pub(crate) fn sqlx(&self) -> &sqlx::Error {
        &self.0
    }
}

/// Codes of Postgres for connections that were lost, ended or refused; a code of SQLite is never one of them.
fn is_of_unavailable(code: &str) -> bool {
    const CODES: [&str; 5] = ["53300", "57P01", "57P02", "57P03", "57P05"];
    CODES.contains(&code) || code.len() == 5 && code.starts_with("08")
}

impl From<sqlx::Error> for DatabaseError {
    fn from(error: sqlx::Error) -> Self {
        Self(Box::new(error))
    }
}

impl fmt::Display for DatabaseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the database failed")
    }
}

impl fmt::Debug for DatabaseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl Error for DatabaseError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&*self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_without_a_connection_is_unavailable() {
        for error in [
            sqlx::Error::PoolTimedOut,
            sqlx::Error::PoolClosed,
            sqlx::Error::Io(std::io::ErrorKind::ConnectionRefused.into()),
        ] {
            let error = DatabaseError::from(error);
            assert!(error.is_unavailable(), "{error:?}");
            assert_eq!(error.code(), None, "{error:?}");
        }
        assert!(!DatabaseError::from(sqlx::Error::RowNotFound).is_unavailable());
    }

    #[test]
    fn a_code_says_whether_the_database_is_unavailable() {
        for code in ["08006", "53300", "57P01", "57P03"] {
            assert!(is_of_unavailable(code), "{code}");
        }
        for code in ["23505", "57014", "40001", "5", "8", "2067"] {
            assert!(!is_of_unavailable(code), "{code}");
        }
    }

    #[test]
    fn its_source_is_the_error_of_sqlx_and_is_not_repeated() {
        let error = DatabaseError::from(sqlx::Error::RowNotFound);
        let source = error.source().and_then(|source| source.downcast_ref());
        assert!(matches!(source, Some(sqlx::Error::RowNotFound)));
        assert_eq!(error.to_string(), "the database failed");
    }
}
