//! What a database says, in words for people. Never decides what follows.

use std::error::Error as _;

/// An error without the line of the database's own source, which tells nobody anything.
pub(super) fn said(error: &sqlx::Error) -> String {
    match error {
        sqlx::Error::Database(error) => match error.code() {
            Some(code) => format!("{} ({code})", error.message()),
            None => error.message().to_owned(),
        },
        error => match error.source() {
            Some(source) => {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_database_error_is_told_with_its_source() {
        let refused = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        let told = said(&sqlx::Error::Io(refused));
        assert!(
            told.contains("refused") && !told.contains("at line"),
            "{told}"
        );
    }
}
