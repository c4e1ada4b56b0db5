//! Frees old rows, concurrently with the relay. Each round opens a connection of its own, so that neither a lock nor
//! a large file delays the lease. Never touches rows that the stored cursor has not passed.

use std::time::Duration;

use tokio::{sync::watch, time::Instant};

use crate::{
    error_text::said,
    outbox::{HeldSlot, Outbox, Store, store::Reclaimed},
    policy::adjustment::RelayTuning,
};

/// How often storage is checked. A slot is written to for at least this long.
const ROUND: Duration = Duration::from_secs(300);
/// The pause before the first rounds of a tenure, so that old rows are freed soon.
const FIRST: Duration = Duration::from_secs(1);
const FIRST_ROUNDS: u8 = 2;
/// The pause while a slot is held, and how often its holders are logged.
const HELD: Duration = Duration::from_secs(60);
const AGAIN: Duration = Duration::from_millis(100);

pub(super) struct Janitor<DB: Store> {
    outbox: Outbox<DB>,
    tuning: watch::Receiver<RelayTuning>,
    /// The cursor that is in the database.
    cursor: watch::Receiver<Option<DB::Cursor>>,
    named_at: Option<Instant>,
    is_advised: bool,
    /// How many of the first rounds remain.
    first_rounds: u8,
}

impl<DB: Store> Janitor<DB> {
    pub(super) fn new(
        outbox: Outbox<DB>,
        tuning: watch::Receiver<RelayTuning>,
        cursor: watch::Receiver<Option<DB::Cursor>>,
    ) -> Self {
        Self {
            outbox,
            tuning,
            cursor,
            named_at: None,
            is_advised: false,
            first_rounds: FIRST_ROUNDS,
        }
    }

    /// Runs until it is dropped. A failure only delays the freeing.
    pub(super) async fn run(mut self) {
        let mut pause = FIRST;
        loop {
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                // Another retention may free something at once, or may fit the slots.
                Ok(()) = self.tuning.changed() => self.is_advised = false,
            }
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
        let retention = self.tuning.borrow().retention;
        let mut connection = self.outbox.connect_for(HELD).await?;
        let names = &self.outbox.shared.names;
        let reclaimed = DB::reclaim(&mut connection, names, cursor, retention).await?;
        sqlx::Connection::close(connection).await?;
        Ok(reclaimed)
    }

    /// Logs what was done, and returns when to look again: after something was freed, there may be more.
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
