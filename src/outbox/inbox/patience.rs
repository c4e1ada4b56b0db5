//! How long the inbox waits for the database, and the spans of that. Never decides what follows.

use std::time::Duration;

use tracing::{Instrument, debug_span};

use crate::outbox::{OutboxError, link};

/// The target of the spans around begin and commit, so that a filter can name them.
const SPANS: &str = "tidings::inbox";
/// How long to wait for a connection, for an answer of the inbox or for a commit.
const PATIENCE: Duration = Duration::from_secs(30);

/// Asks the database to begin, inside a span.
pub(super) async fn in_begin_span<T>(asking: impl Future<Output = T>) -> T {
    let span = debug_span!(target: SPANS, "inbox begin");
    asking.instrument(span).await
}

/// Asks the database to commit, inside a span.
pub(super) async fn in_commit_span<T>(asking: impl Future<Output = T>) -> T {
    let span = debug_span!(target: SPANS, "inbox commit");
    asking.instrument(span).await
}

/// Does work within [`PATIENCE`], on another connection when one is lost: a lost connection does not mean that the
/// database is unavailable.
pub(super) async fn again<T, F>(work: impl Fn() -> F) -> Result<T, OutboxError>
where
    F: Future<Output = Result<T, OutboxError>>,
{
    patiently(async {
        loop {
            match work().await {
                Err(error) if link::is_lost(&error) => {}
                done => return done,
            }
        }
    })
    .await
}

/// Does work within [`PATIENCE`]. The work is on the heap: with all that it waits for it has several kilobytes, which
/// each caller would have on its stack once more. Development builds move it there, and overflowed the stack of a thread.
pub(super) fn patiently<T>(
    work: impl Future<Output = Result<T, OutboxError>>,
) -> impl Future<Output = Result<T, OutboxError>> {
    let work = Box::pin(work);
    async move {
        match tokio::time::timeout(PATIENCE, work).await {
            Ok(done) => done,
            Err(_) => Err(OutboxError::database(sqlx::Error::Io(
                std::io::ErrorKind::TimedOut.into(),
            ))),
        }
    }
}
