//! Cause and cure of a database error, by its code. Never decides what the outbox does about it.

use crate::{database_error::DatabaseError, policy::issue_kind::IssueKind};

/// Cause and cure of a [`DatabaseError`], for operators.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Diagnosis {
    /// The kind of the issue.
    pub kind: IssueKind,
    /// What is wrong, in a few words.
    pub cause: &'static str,
    /// What to do about it.
    pub cure: &'static str,
}

impl DatabaseError {
    /// Cause and cure, when the error tells more than that a statement has failed.
    #[must_use]
    pub fn diagnosis(&self) -> Option<Diagnosis> {
        Diagnosis::of(self.sqlx())
    }
}

impl Diagnosis {
    /// Diagnoses a database error, when its code tells more than that a statement has failed.
    pub(in crate::outbox) fn of(error: &sqlx::Error) -> Option<Self> {
        match error {
            sqlx::Error::Database(said) => Self::of_code(&said.code()?),
            sqlx::Error::PoolTimedOut => Some(Self {
                kind: IssueKind::DatabaseLimit,
                cause: "no connection of the pool became free in time",
                cure: "use a larger pool, or find what holds its connections, or check that the database can be \
                       reached",
            }),
            sqlx::Error::Tls(_) => Some(Self {
                kind: IssueKind::DatabaseUnreachable,
                cause: "the connection to the database cannot be encrypted as the URL demands",
                cure: "check sslmode and sslrootcert in the database's URL, and TLS on the server (`ssl = on`)",
            }),
            sqlx::Error::Io(error) => Self::of_io(error),
            _ => None,
        }
    }

    /// Codes of Postgres are SQLSTATEs, of five characters; those of SQLite are shorter numbers.
    fn of_code(code: &str) -> Option<Self> {
        match code.len() {
            5 => Self::of_sqlstate(code),
            _ => Self::of_sqlite(code.parse().ok()?),
        }
    }

    fn of_sqlstate(code: &str) -> Option<Self> {
        let (kind, cause, cure) = match code {
            "53100" => (
                IssueKind::DatabaseFull,
                "the disk of the database is full",
                "make room on the disk of Postgres (its data, its WAL, its temporary files): Tidings continues by \
                 itself",
            ),
            "53200" => (
                IssueKind::DatabaseLimit,
                "the database is out of memory",
                "give Postgres more memory, or lower work_mem or shared_buffers, or open fewer connections",
            ),
            "53300" => (
                IssueKind::DatabaseLimit,
                "the database accepts no more connections",
                "use fewer or smaller pools, or a pooler such as pgbouncer, or raise max_connections, for this role \
                 or this database too (CONNECTION LIMIT)",
            ),
            "53000" | "53400" => (
                IssueKind::DatabaseLimit,
                "the database is short of a resource",
                "see the log of the database: it names the limit that was reached",
            ),
            "25006" => (
                IssueKind::DatabaseReadOnly,
                "the database is read-only: a standby, or default_transaction_read_only is on",
                "use the address of the primary in the database's URL, or turn default_transaction_read_only off",
            ),
            "42501" => (
                IssueKind::DeniedDatabase,
                "the role in the database has no right to do this",
                "grant the role the right that the error names, as in deploy/, or use a role that has it",
            ),
            "26000" | "42P05" => (
                IssueKind::DatabaseFailed,
                "a prepared statement is missing or exists already: a pooler gives each transaction another connection",
                "append statement-cache-capacity=0 to the parameters of the database's URL, or use the address of the \
                 database itself",
            ),
            "57P01" | "57P02" | "57P05" => (
                IssueKind::DatabaseUnreachable,
                "the database has closed the connection",
                "none is needed if the database was restarted; otherwise see its log for what has ended the connection",
            ),
            "57P03" => (
                IssueKind::DatabaseUnreachable,
                "the database is starting up, shutting down, or recovering",
                "wait until the database is up; see its log if that takes long",
            ),
            "57P04" => (
                IssueKind::DatabaseUnreachable,
                "the database was dropped",
                "correct the name of the database in its URL",
            ),
            "57014" => (
                IssueKind::DatabaseFailed,
                "the database has cancelled a statement",
                "raise statement_timeout for this role, or find the client that has cancelled the statement",
            ),
            "55P03" => (
                IssueKind::DatabaseLocked,
                "a table or a row was locked for too long by another transaction",
                "wait until that transaction ends, or end it: select pg_terminate_backend(PID)",
            ),
            "40P01" => (
                IssueKind::DatabaseLocked,
                "two transactions have waited for each other (deadlock)",
                "none is needed: the work is retried. If deadlocks recur, lock in the same order everywhere",
            ),
            "25P03" => (
                IssueKind::DatabaseFailed,
                "the database has ended a transaction that was idle for too long",
                "shorten the transaction, or raise idle_in_transaction_session_timeout",
            ),
            "28P01" | "28000" => (
                IssueKind::DeniedDatabase,
                "the database refuses the user or the password",
                "correct user and password in the database's URL, or the line of pg_hba.conf for this user",
            ),
            "3D000" => (
                IssueKind::DatabaseUnreachable,
                "the database does not exist",
                "correct the name in the database's URL, or create the database: createdb NAME",
            ),
            "58030" => (
                IssueKind::DatabaseFailed,
                "the database cannot read or write its disk",
                "check the disk of Postgres, and its log",
            ),
            "XX001" | "XX002" => (
                IssueKind::DatabaseDamaged,
                "the database has found damaged data",
                "see the log of the database; restore a copy, or rebuild the index that the log names (reindex)",
            ),
            code if code.starts_with("08") => (
                IssueKind::DatabaseUnreachable,
                "the connection to the database was lost",
                "check whether the database runs, and the network between",
            ),
            _ => return None,
        };
        Some(Self { kind, cause, cure })
    }

    /// Looks at the primary code, which is the lowest byte of an extended one.
    fn of_sqlite(code: i32) -> Option<Self> {
        let (kind, cause, cure) = match code & 0xff {
            5 | 6 => (
                IssueKind::DatabaseLocked,
                "another process has the write lock of the database file",
                "wait until its transaction ends, or end that process: `fuser FILE` or `lsof FILE` names it",
            ),
            7 => (
                IssueKind::DatabaseLimit,
                "SQLite is out of memory",
                "give this process more memory",
            ),
            8 => (
                IssueKind::DatabaseReadOnly,
                "this process may not write to the database file",
                "grant the right to write the file and its folder, where SQLite creates -wal and -shm files",
            ),
            10 => (
                IssueKind::DatabaseFailed,
                "the database file cannot be read or written",
                "check the disk under the file, and whether the disk is full",
            ),
            11 | 26 => (
                IssueKind::DatabaseDamaged,
                "the database file is damaged, or is not an SQLite database",
                "restore a copy, or correct the path of the file",
            ),
            13 => (
                IssueKind::DatabaseFull,
                "the disk of the database is full",
                "make room on the disk of the database file, or raise its max_page_count: Tidings continues by itself",
            ),
            14 => (
                IssueKind::DatabaseUnreachable,
                "the database file cannot be opened",
                "check the path of the file, and the right to its folder",
            ),
            _ => return None,
        };
        Some(Self { kind, cause, cure })
    }

    fn of_io(error: &std::io::Error) -> Option<Self> {
        use std::io::ErrorKind;

        let (kind, cause, cure) = match error.kind() {
            ErrorKind::ConnectionRefused => (
                IssueKind::DatabaseUnreachable,
                "no server listens at the database's address",
                "start the database (its log says why it has ended), or correct host and port in its URL",
            ),
            ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => (
                IssueKind::DatabaseUnreachable,
                "the database has closed the connection",
                "check whether the database runs; its log says why it has ended",
            ),
            ErrorKind::TimedOut => (
                IssueKind::DatabaseSilent,
                "the database does not answer",
                "check whether the database runs, and the network between: a firewall may drop packets silently",
            ),
            ErrorKind::StorageFull => (
                IssueKind::DatabaseFull,
                "the disk is full",
                "make room on the disk: Tidings continues by itself",
            ),
            _ => return None,
        };
        Some(Self { kind, cause, cure })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_recognised_on_both_databases() {
        for code in ["53100", "13"] {
            let said = Diagnosis::of_code(code).unwrap();
            assert_eq!(said.cause, "the disk of the database is full", "{code}");
            assert!(said.cure.starts_with("make room"), "{code}");
        }
    }

    #[test]
    fn an_extended_code_of_sqlite_is_the_same_as_its_primary_one() {
        // SQLITE_BUSY_SNAPSHOT, SQLITE_READONLY_DBMOVED, SQLITE_IOERR_WRITE
        for (extended, primary) in [("517", "5"), ("1032", "8"), ("778", "10")] {
            assert_eq!(Diagnosis::of_code(extended), Diagnosis::of_code(primary));
        }
    }

    #[test]
    fn every_condition_that_an_operator_can_fix_has_its_cure() {
        const CODES: [&str; 14] = [
            "26000", "42P05", "53100", "53200", "53300", "25006", "42501", "57P03", "57014",
            "55P03", "28P01", "28000", "3D000", "08006",
        ];
        for code in CODES {
            assert!(Diagnosis::of_code(code).is_some(), "{code}");
        }
        // These are errors of the statements themselves.
        for code in ["23505", "22P02", "42P01", "1", "19"] {
            assert_eq!(Diagnosis::of_code(code), None, "{code}");
        }
    }
}
