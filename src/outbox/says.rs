//! What a database says, in words for people, and what helps. Never decides what follows.

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

/// What helps when the database fails. From Postgres' and SQLite's tables of error codes.
pub(super) fn cure_of_database(kind: &str, error: &sqlx::Error) -> &'static str {
    let Some(failed) = error.as_database_error() else {
        return match (kind, error) {
            ("sqlite", _) => "see to the file and its disk",
            (_, sqlx::Error::PoolTimedOut) => {
                "see whether the server answers, and whether it has a connection left (max_connections)"
            }
            _ => {
                "start the database server, or see to the network between; the relay connects by itself"
            }
        };
    };
    let code = failed.code().unwrap_or_default();
    match kind {
        "sqlite" => of_sqlite(code.parse().unwrap_or(0)),
        _ => of_postgres(&code),
    }
}

fn of_postgres(code: &str) -> &'static str {
    match code {
        "25006" => {
            "let the database be written to: end its default_transaction_read_only, or give the relay the URL of the \
             primary"
        }
        "42501" => "grant the relay's role what the README lists under \"Roles\"",
        "53100" => "give the disk of the database room",
        "53300" => "raise max_connections, or end connections that nobody needs",
        "55P03" | "57014" => "end the transaction that holds the lock: see pg_stat_activity",
        "3D000" => "create the database, or correct its name in the URL",
        "42P01" | "3F000" | "42703" => "tidings migrate",
        "57P01" | "57P02" | "57P03" => {
            "none is needed while the server starts; else start it: the relay connects by itself"
        }
        _ if code.starts_with("28") => "correct user and password of the URL, or pg_hba.conf",
        _ if code.starts_with("08") => {
            "start the database server, or see to the network between; the relay connects by itself"
        }
        _ if code.starts_with("58") || code.starts_with("XX") => {
            "see to the database server's disk and to its log"
        }
        _ => "see what the database server's log says about it",
    }
}

fn of_sqlite(code: i32) -> &'static str {
    // The lower byte is the primary code.
    match code & 0xff {
        5 | 6 => "end the transaction that holds the write lock of the file",
        3 | 8 => "let this process write the file and its folder, on a disk that is not read-only",
        13 => "give the disk of the file room",
        10 => "see to the disk of the file",
        14 => "let this process open the file, and correct its path",
        11 | 26 => "restore the file from a backup: it is damaged, or no database",
        1 => "tidings migrate",
        _ => "see to the file and its disk",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_has_a_cure_of_its_own() {
        let codes = [
            "25006", "42501", "53100", "53300", "55P03", "28P01", "57P03",
        ];
        let mut cures: Vec<_> = codes.map(of_postgres).to_vec();
        cures.extend([5, 8, 13, 14, 26].map(of_sqlite));
        let told = cures.len();
        cures.sort_unstable();
        cures.dedup();
        assert_eq!(cures.len(), told);
        // An extended code: SQLITE_BUSY_SNAPSHOT, SQLITE_READONLY_DIRECTORY.
        assert_eq!(
            (of_sqlite(517), of_sqlite(1544)),
            (of_sqlite(5), of_sqlite(8))
        );
    }

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
