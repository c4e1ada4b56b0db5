//! What every test needs: a world of its own, a journal and a log to compare with, and a deadline for every wait.

#![allow(clippy::unwrap_used, clippy::expect_used)] // helpers of tests are test code

mod cluster;
mod events;
mod inbox;
mod journal;
pub mod log;
mod oracle;
mod past;
mod pgbouncer;
mod proxy;
mod raw;
mod replays;
mod shop;
mod signal;
mod small_disk;
mod stuck;
mod tool;
mod tracing;
pub mod working;
mod world;

use std::time::Duration;

pub use cluster::Cluster;
pub use events::{Counted, Noted, User, event, note_id, note_replayed_id};
pub use journal::{Journal, Verdict};
pub use oracle::{Stored, Stream};
pub use past::Past;
pub use pgbouncer::{POOL, Pgbouncer};
pub use proxy::{Proxy, Way};
pub use raw::{deliver, publish_raw};
pub use replays::everything;
pub use shop::{CHARGES, Shop};
pub use signal::signal;
pub use small_disk::SmallDisk;
pub use stuck::App;
pub use tool::{Tool, put_over};
pub use world::{Database, Folder, Running, World, events_stream};

/// The longest that any step may take on a busy machine.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// A program or an example (`examples/NAME`) of this workspace that is not built with the test.
///
/// # Panics
/// When the program does not exist: `cargo test --workspace` and `cargo build --workspace --all-targets` build it.
pub fn program(name: &str) -> std::path::PathBuf {
    let test = std::env::current_exe().expect("a program");
    // target/PROFILE/deps/TEST
    let folder = test.ancestors().nth(2).expect("a folder");
    let program = folder.join(name);
    assert!(
        program.is_file(),
        "{} is not built: cargo build --workspace --all-targets",
        program.display()
    );
    program
}

/// Waits until a condition holds, and fails at the deadline.
pub async fn eventually<F, Fut>(what: &str, mut condition: F)
where
    F: FnMut() -> Fut,
    Fut: Future<Output = bool>,
{
    let deadline = tokio::time::Instant::now() + DEADLINE;
    while !condition().await {
        assert!(
            tokio::time::Instant::now() < deadline,
            "never came true: {what}"
        );
        // real time: the condition may depend on other processes
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Waits for a future, and fails at the deadline.
pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(DEADLINE, future).await {
        Ok(value) => value,
        Err(_) => panic!("never happened: {what}"),
    }
}

/// One test for each database: `both!(name)` runs `async fn name<DB: Database>(world: World<DB>)`.
#[macro_export]
macro_rules! both {
    ($($name:ident),+ $(,)?) => {
        mod on_postgres {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::$name($crate::World::<sqlx::Postgres>::start().await).await;
            })+
        }
        mod on_sqlite {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::$name($crate::World::<sqlx::Sqlite>::start().await).await;
            })+
        }
    };
}
