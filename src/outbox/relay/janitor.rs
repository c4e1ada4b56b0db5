//! Frees what is old, beside the relay: on a connection of its own, which it opens for each round, so that
//! neither a lock nor a large file ever delays the lease. Never touches what the written cursor has not passed.

use std::time::Duration;

use tokio::{sync::watch, time::Instant};

use crate::{
    error_text::said,
    outbox::{HeldSlot, Outbox, Store, store::Reclaimed},
};

/// How often storage is looked at. A slot is written to for at least as long.
const ROUND: Duration = Duration::from_secs(300);
/// The first rounds of a tenure: what is old is freed soon.
const FIRST: Duration = Duration::from_secs(1);
const FIRST_ROUNDS: u8 = 2;
/// While a slot is held, and how often its holders are named.
const HELD: Duration = Duration::from_secs(60);
const AGAIN: Duration = Duration::from_millis(100);

pub(super) struct Janitor<DB: Store> {
    outbox: Outbox<DB>,
    retention: Duration,
    /// The cursor that is in the database.
    cursor: watch::Receiver<Option<DB::Cursor>>,
    named_at: Option<Instant>,
    is_advised: bool,
    /// How many of the first rounds are left.
    first_rounds: u8,
}

impl<DB: Store> Janitor<DB> {
    pub(super) fn new(
        outbox: Outbox<DB>,
        retention: Duration,
        cursor: watch::Receiver<Option<DB::Cursor>>,
    ) -> Self {
        Self {
            outbox,
            retention,
            cursor,
            named_at: None,
            is_advised: false,
            first_rounds: FIRST_ROUNDS,
        }
    }

    /// Runs until it is dropped. A failure delays the freeing, and nothing else.
    pub(super) async fn run(mut self) {
        let mut pause = FIRST;
        loop {
            tokio::time::sleep(pause).await;
            let cursor = self.cursor.borrow().clone();
            let Some(cursor) = cursor else {
                pause = FIRST;
                continue;
            };
            let round = tokio::time::timeout(ROUND, self.reclaim(&cursor)).await;
            pause = match round {
                Ok(Ok(reclaimed)) => self.tell(reclaimed),
                Ok(Err(error)) => {
                    tracing::warn!(
                        outbox = DB::KIND,
                        error = said(&error),
                        "old rows not freed"
                    );
                    ROUND
                }
                Err(_) => ROUND,
            };
        }
    }

    async fn reclaim(&self, cursor: &DB::Cursor) -> Result<Reclaimed, sqlx::Error> {
        let mut connection = self.outbox.connect_for(HELD).await?;
        let names = &self.outbox.shared.names;
        let reclaimed = DB::reclaim(&mut connection, names, cursor, self.retention).await?;
        sqlx::Connection::close(connection).await?;
        Ok(reclaimed)
    }

    /// Says what was done, and returns when to look again: where there was something to free, there may be
    /// more.
    fn tell(&mut self, reclaimed: Reclaimed) -> Duration {
        if let Some(advice) = reclaimed.advice.filter(|_| !self.is_advised) {
            self.is_advised = true;
            tracing::warn!(
                outbox = DB::KIND,
                advice,
                "slot duration mismatch: the slots do not fit the retention"
            );
        }
        let is_due = self.named_at.is_none_or(|at| at.elapsed() >= HELD);
        if is_due && !reclaimed.held.is_empty() {
            self.named_at = Some(Instant::now());
            reclaimed.held.iter().for_each(name);
        }
        match reclaimed.freed {
            None if self.first_rounds > 0 => {
                self.first_rounds -= 1;
                FIRST
            }
            None if reclaimed.held.is_empty() => ROUND,
            None => HELD,
            Some(freed) => {
                tracing::info!(outbox = DB::KIND, freed, "old rows freed");
                AGAIN
            }
        }
    }
}

fn name(held: &HeldSlot) {
    tracing::warn!(
        slot = held.slot,
        pid = held.pid,
        application = held.application,
        state = held.state,
        age_seconds = held.age_seconds,
        "outbox slot held: it is freed when the transaction ends"
    );
}
