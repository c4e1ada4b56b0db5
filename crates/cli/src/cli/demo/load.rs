//! The work of the demo's service: it creates users and changes addresses, from several tasks at once, and rolls some
//! transactions back. The judge compares the committed events with the stream and the handlers.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use chrono::Utc;
use futures::future::try_join_all;
use tidings::{EventId, Outbox};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    Shared, locked,
    service::{UserCreated, UserEmailChanged},
    store::DemoStore,
};
use crate::cli::report::Report;

const WRITERS: usize = 8;
const TRANSACTIONS: usize = 75;
const USERS: usize = 90;
/// One of this many transactions is rolled back.
const EVERY: usize = 6;
/// The interval at which each writer starts a transaction: about 200 per second in all.
const PACE: Duration = Duration::from_millis(40);

/// A committed event.
#[derive(Debug, Clone)]
pub(super) struct Committed {
    pub(super) user: Uuid,
    /// The number of the change for its user; 1 is the creation.
    pub(super) change: i64,
    pub(super) at: Instant,
}

/// The events that were committed, and the count of rollbacks.
#[derive(Debug, Clone, Default)]
pub(super) struct Truth {
    pub(super) committed: HashMap<EventId, Committed>,
    pub(super) rolled_back: usize,
}

impl Truth {
    /// How many users were created.
    pub(super) fn created(&self) -> usize {
        self.committed
            .values()
            .filter(|event| event.change == 1)
            .count()
    }
}

pub(super) struct Load<DB: DemoStore> {
    outbox: Outbox<DB>,
    users: Vec<Uuid>,
    truth: Shared<Truth>,
    half: CancellationToken,
}

impl<DB: DemoStore> Load<DB> {
    pub(super) fn new(outbox: Outbox<DB>) -> Self {
        Self {
            outbox,
            users: (0..USERS).map(|_| Uuid::now_v7()).collect(),
            truth: Shared::default(),
            half: CancellationToken::new(),
        }
    }

    /// Cancelled when half of the transactions are done.
    pub(super) fn half(&self) -> CancellationToken {
        self.half.clone()
    }

    pub(super) async fn run(self) -> Result<Truth, Report> {
        // Cancelled also after an error, so that the task that waits for the half continues.
        let _half = self.half.clone().drop_guard();
        let load = Arc::new(self);
        let writers = (0..WRITERS).map(|writer| {
            let load = Arc::clone(&load);
            async move {
                let mut pace = tokio::time::interval(PACE);
                for n in 0..TRANSACTIONS {
                    pace.tick().await;
                    load.transaction(writer, n).await?;
                }
                Ok::<(), Report>(())
            }
        });
        try_join_all(writers).await?;
        let truth = locked(&load.truth).clone();
        Ok(truth)
    }

    async fn transaction(&self, writer: usize, n: usize) -> Result<(), Report> {
        let user = self.users[(writer * 31 + n * 7) % USERS];
        let failed =
            |error: sqlx::Error| Report::from(tidings::outbox::OutboxError::Database(error.into()));
        let mut tx = self.outbox.begin().await?;
        let change = DB::change(&mut tx, user).await.map_err(failed)?;
        let now = Utc::now();
        let address = |change: i64| format!("user-{}-{change}@example.org", user.simple());
        let id = if change == 1 {
            tx.publish(&UserCreated {
                id: user,
                email: address(change),
                created_at: now,
            })?
        } else {
            tx.publish(&UserEmailChanged {
                id: user,
                old_email: address(change - 1),
                new_email: address(change),
                changed_at: now,
            })?
        };
        if (writer + n).is_multiple_of(EVERY) {
            tx.rollback().await?;
            locked(&self.truth).rolled_back += 1;
            return Ok(());
        }
        tx.commit().await?;
        let at = Instant::now();
        let mut truth = locked(&self.truth);
        truth.committed.insert(id, Committed { user, change, at });
        if truth.committed.len() + truth.rolled_back >= WRITERS * TRANSACTIONS / 2 {
            self.half.cancel();
        }
        Ok(())
    }
}
