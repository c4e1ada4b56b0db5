//! Empties inbox slots that are out of reach, concurrently with the handlers. Never delays a handler.

use std::{sync::Arc, time::Duration};

use futures::FutureExt;

use crate::{
    error_text::said,
    handler::housekeeping::Housekeeping,
    outbox::{Outbox, OutboxError, Store},
    policy::preflight::PoolFigures,
};

/// How often the dead slot is checked: it stays out of reach for a period.
const ROUND: Duration = Duration::from_secs(300);
/// The pause before the first check, so that a due slot is emptied soon.
const FIRST: Duration = Duration::from_secs(1);

/// The housekeeping that the inbox of this database needs.
pub(super) fn housekeeping<DB: Store>(outbox: &Outbox<DB>) -> Housekeeping {
    let pool = outbox.shared.pool.options();
    let pool = PoolFigures {
        connections: usize::try_from(pool.get_max_connections()).unwrap_or(usize::MAX),
        acquire_timeout: pool.get_acquire_timeout(),
    };
    Housekeeping {
        pool: (!DB::HAS_ONE_WRITER).then_some(pool),
        of: Arc::as_ptr(&outbox.shared).addr(),
        work: keep(outbox.clone()).boxed(),
    }
}

/// Any number of instances may run this at once.
async fn keep<DB: Store>(outbox: Outbox<DB>) {
    if let Err(error @ OutboxError::Version { .. }) = outbox.check_version().await {
        tracing::error!(database = DB::KIND, %error, "inbox unavailable: transactional handlers are not called");
    }
    let mut pause = FIRST;
    let mut is_told = false;
    loop {
        tokio::time::sleep(pause).await;
        pause = ROUND;
        match tokio::time::timeout(ROUND, empty(&outbox)).await {
            Ok(Ok(None)) | Err(_) => {}
            Ok(Ok(Some(slot))) => {
                tracing::info!(database = DB::KIND, slot, "inbox slot emptied");
            }
            Ok(Err(error)) if is_told => {
                tracing::debug!(
                    database = DB::KIND,
                    error = said(&error),
                    "inbox slot still not emptied"
                );
            }
            Ok(Err(error)) => {
                is_told = true;
                tracing::warn!(
                    database = DB::KIND,
                    error = said(&error),
                    "inbox slot not emptied: the inbox grows"
                );
            }
        }
    }
}

/// Uses a connection of its own: handlers must not wait for it.
async fn empty<DB: Store>(outbox: &Outbox<DB>) -> Result<Option<usize>, sqlx::Error> {
    let mut connection = outbox.connect_for(FIRST).await?;
    let emptied = DB::empty_dead_slot(&mut connection, &outbox.shared.names).await?;
    sqlx::Connection::close(connection).await?;
    Ok(emptied)
}
