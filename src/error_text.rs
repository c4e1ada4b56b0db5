//! Error texts for people. A database error is shown as the database reported it, with detail, hint and code, but
//! without the line of the server's source code. Never decides what follows.

use std::{error::Error, fmt};

#[cfg(feature = "outbox")]
use crate::database_error::DatabaseError;

/// The texts of an error and of its sources, the outermost first.
///
/// A database error is shown as its server reports it: message, code, detail and hint. Its own text
/// ends with a line number of the server's source code, which does not help.
#[must_use]
pub fn error_texts(error: &(dyn Error + 'static)) -> Vec<String> {
    let mut texts = Vec::new();
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(said) = of_database(error) {
            texts.push(said);
            break;
        }
        texts.push(error.to_string());
        next = error.source();
    }
    texts
}

/// Writes the same texts on one line, as far as it gets: the `Display` of a foreign error may panic.
pub(crate) fn write_texts(
    line: &mut fmt::Formatter<'_>,
    error: &(dyn Error + 'static),
) -> fmt::Result {
    let mut between = "";
    let mut next = Some(error);
    while let Some(error) = next {
        line.write_str(between)?;
        if let Some(said) = of_database(error) {
            return line.write_str(&said);
        }
        write!(line, "{error}")?;
        (between, next) = (": ", error.source());
    }
    Ok(())
}

#[cfg(feature = "outbox")]
fn of_database(error: &(dyn Error + 'static)) -> Option<String> {
    let carried = error.downcast_ref::<DatabaseError>();
    let error = carried
        .map(DatabaseError::sqlx)
        .or_else(|| error.downcast_ref());
    error.map(said)
}

#[cfg(not(feature = "outbox"))]
fn of_database(_: &(dyn Error + 'static)) -> Option<String> {
    None
}

/// The text of a JSON error without line and column, for JSON that is not read from a file and is on one line.
pub(crate) fn unplaced(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let place = format!(" at line {} column {}", error.line(), error.column());
    match text.strip_suffix(&place) {
        Some(text) => text.to_owned(),
        None => text,
    }
}

/// A database error in one sentence, with everything helpful that it reports.
#[cfg(feature = "outbox")]
pub(crate) fn said(error: &sqlx::Error) -> String {
    match error {
        sqlx::Error::Database(error) => {
            let mut text = error.message().to_owned();
            if let Some(code) = error.code() {
                text = format!("{text} ({code})");
            }
            for (what, more) in more(&**error) {
                text = format!("{text}; {what}: {more}");
            }
            text
        }
        error => match error.source() {
            Some(source) => {
                let read = source.downcast_ref::<serde_json::Error>();
                if let Some(read) = read {
                    return format!("what it holds cannot be read: {}", unplaced(read));
                }
                let (error, source) = (error.to_string(), source.to_string());
                match error.contains(&source) {
                    true => error,
                    false => format!("{error}: {source}"),
                }
            }
            None => error.to_string(),
        },
    }
}

/// The detail and the hint of a Postgres error.
#[cfg(feature = "postgres")]
fn more(error: &dyn sqlx::error::DatabaseError) -> Vec<(&'static str, String)> {
    let Some(error) = error.try_downcast_ref::<sqlx::postgres::PgDatabaseError>() else {
        return Vec::new();
    };
    let said = [("detail", error.detail()), ("hint", error.hint())];
    let said = said.into_iter();
    said.filter_map(|(what, text)| Some((what, text?.to_owned())))
        .collect()
}

#[cfg(all(feature = "sqlite", not(feature = "postgres")))]
fn more(_: &dyn sqlx::error::DatabaseError) -> Vec<(&'static str, String)> {
    Vec::new()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("outer")]
    struct Outer(#[source] std::io::Error);

    #[test]
    fn an_error_is_shown_with_its_sources() {
        let error = Outer(std::io::Error::other("inner"));
        assert_eq!(error_texts(&error), ["outer", "inner"]);
    }

    #[test]
    fn json_errors_are_shown_without_line_and_column() {
        for text in ["{", "{\"a\":}", "[1,2"] {
            let error = serde_json::from_str::<serde_json::Value>(text).unwrap_err();
            let told = unplaced(&error);
            assert!(!told.contains(" at line "), "{told}");
            assert!(error.to_string().starts_with(&told), "{told}");
        }
    }

    #[cfg(feature = "outbox")]
    #[test]
    fn an_error_outside_the_database_is_shown_with_its_source() {
        let refused = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        let told = said(&sqlx::Error::Io(refused));
        assert!(told.contains("refused"), "{told}");
    }
}
