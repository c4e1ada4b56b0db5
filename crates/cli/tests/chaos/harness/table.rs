//! The rows that `make chaos` prints. The variable `TIDINGS_CHAOS` names the file; without it the faults are short.

use std::{fmt::Display, fs::OpenOptions, io::Write, time::Duration};

use crate::support::Verdict;

const FILE: &str = "TIDINGS_CHAOS";

/// Whether this is the long form: the load lasts longer, and leases are as long as those of a service.
pub fn is_long() -> bool {
    std::env::var_os(FILE).is_some()
}

/// How often a repeated fault happens.
pub fn rounds(long: usize) -> usize {
    if is_long() { long } else { 1 }
}

/// The databases that a fault is tried on. The short form tries one, when the fault does not depend on the database.
#[macro_export]
macro_rules! trials {
    ($($name:ident: in short on $short:ident),+ $(,)?) => {
        mod on_postgres {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                if $crate::table::has_time_for("postgres", stringify!($short)) {
                    super::$name($crate::support::World::<sqlx::Postgres>::start().await).await;
                }
            })+
        }
        mod on_sqlite {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                if $crate::table::has_time_for("sqlite", stringify!($short)) {
                    super::$name($crate::support::World::<sqlx::Sqlite>::start().await).await;
                }
            })+
        }
    };
}

/// Whether a fault is tried on this database; when the short form skips it, that is printed.
pub fn has_time_for(store: &str, short: &str) -> bool {
    let has_time = is_long() || store == short;
    if !has_time {
        println!("skipped: on {store} this is tried by `make chaos` only");
    }
    has_time
}

/// Appends a row.
pub fn row(fault: &str, store: &str, verdict: Verdict, recovered: Duration) {
    write(fault, store, verdict, &verdict.inverted, recovered);
}

/// Appends a row of a fault whose events have no order.
pub fn row_without_order(fault: &str, store: &str, verdict: Verdict, recovered: Duration) {
    write(fault, store, verdict, &"-", recovered);
}

/// Writes a row; the first one comes with the head of the table.
fn write(fault: &str, store: &str, verdict: Verdict, inverted: &dyn Display, recovered: Duration) {
    let Verdict {
        events,
        lost,
        phantom,
        duplicated,
        ..
    } = verdict;
    let seconds = format!("{:.2} s", recovered.as_secs_f64());
    let row = format!(
        "| {fault:<48} | {store:<8} | {events:>6} | {lost:>4} | {phantom:>7} | {duplicated:>10} | {inverted:>8} | {seconds:>9} |\n"
    );
    if let Some(path) = std::env::var_os(FILE) {
        let file = OpenOptions::new().create(true).append(true).open(path);
        let mut file = file.expect("the table");
        if file.metadata().expect("its size").len() == 0 {
            file.write_all(HEAD.as_bytes()).expect("the head");
        }
        file.write_all(row.as_bytes()).expect("a row");
    }
    // Shown when the test fails, or with `--nocapture`.
    print!("{row}");
}

const HEAD: &str = "\
| fault                                            | store    | events | lost | phantom | duplicated | inverted | recovered |
|--------------------------------------------------|----------|-------:|-----:|--------:|-----------:|---------:|----------:|
";
