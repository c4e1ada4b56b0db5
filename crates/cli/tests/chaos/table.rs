//! The rows that `make chaos` prints. It names a file in `TIDINGS_CHAOS`; without it the faults are short.

use std::{fmt::Display, fs::OpenOptions, io::Write, time::Duration};

use crate::support::Verdict;

const FILE: &str = "TIDINGS_CHAOS";

/// Whether there is time: the load goes on for longer, and leases are those of a service.
pub fn is_long() -> bool {
    std::env::var_os(FILE).is_some()
}

/// How often a fault happens that comes again and again.
pub fn rounds(long: usize) -> usize {
    if is_long() { long } else { 1 }
}

/// The stores that a fault is tried on: in the short form one, where the other makes no difference to it.
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

/// Whether a fault is tried on this store; the short form says where it is not.
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

/// Appends a row of what has no order.
pub fn row_without_order(fault: &str, store: &str, verdict: Verdict, recovered: Duration) {
    write(fault, store, verdict, &"-", recovered);
}

/// The first row comes with a head.
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
    // Shown when the test fails, or by --nocapture.
    print!("{row}");
}

const HEAD: &str = "\
| fault                                            | store    | events | lost | phantom | duplicated | inverted | recovered |
|--------------------------------------------------|----------|-------:|-----:|--------:|-----------:|---------:|----------:|
";
