//! Reads the outbox page by page, ahead of what is being sent; moves due delayed events into it; waits when there is
//! nothing. Never decides what happens to a row.

use std::{sync::Arc, time::Duration};

use tokio::{sync::mpsc, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{
    Fault,
    delay_schedule::{CHUNK, DelaySchedule},
    reporter::Reporter,
};
use crate::{
    nats::{Bus, Pings, subjects},
    outbox::{
        Outbox, Store,
        page_size::PageSize,
        store::{Bound, Page},
    },
};

/// How long the database may take for a page; without it, the relay would wait forever on a dead connection.
const SILENCE: Duration = Duration::from_secs(60);
/// How many batches a page may fill.
const BATCHES_A_PAGE: usize = 2;
/// How long after the last event the outbox is polled often.
const BUSY_FOR: Duration = Duration::from_secs(1);
const BUSY_FIRST: Duration = Duration::from_millis(1);
const BUSY_LONGEST: Duration = Duration::from_millis(50);
const IDLE: Duration = Duration::from_millis(250);

pub(super) struct Fetcher<DB: Store> {
    outbox: Outbox<DB>,
    connection: DB::Connection,
    cursor: DB::Cursor,
    size: PageSize,
    /// The server's payload limit.
    max_payload: usize,
    pings: Pings,
    hints: Hints,
    poll: Poll,
    schedule: DelaySchedule,
    reporter: Arc<Reporter>,
    /// The cursor is past everything that a predecessor may have read.
    is_past: bool,
}

impl<DB: Store> Fetcher<DB> {
    pub(super) async fn open(
        outbox: &Outbox<DB>,
        bus: &Bus,
        reporter: &Arc<Reporter>,
        mut connection: DB::Connection,
        cursor: DB::Cursor,
        batch: usize,
    ) -> Result<Self, Fault> {
        let subject = subjects::wake(outbox.shared.names.schema());
        DB::note_limit(&mut connection, &outbox.shared.names, bus.max_payload()).await?;
        Ok(Self {
            outbox: outbox.clone(),
            connection,
            cursor,
            size: PageSize::new(batch * BATCHES_A_PAGE, batch * BATCHES_A_PAGE),
            max_payload: bus.max_payload(),
            pings: bus.pings(&subject).await?,
            hints: Hints::default(),
            poll: Poll::new(Instant::now()),
            schedule: DelaySchedule::new(Instant::now()),
            reporter: Arc::clone(reporter),
            is_past: false,
        })
    }

    /// Reads until `stop`, or until the receiver of the pages is gone.
    pub(super) async fn run(
        mut self,
        pages: mpsc::Sender<Page<DB::Cursor>>,
        stop: CancellationToken,
    ) -> Result<(), Fault> {
        while !stop.is_cancelled() {
            if self.schedule.is_due(Instant::now()) {
                self.move_due().await?;
            }
            let mut page = self.fetch().await?;
            self.cursor = page.next.clone();
            self.size.adapt(page.rows.len(), page.is_cut);
            let is_empty = page.rows.is_empty();
            if !self.is_past {
                self.pass_over_parked(&mut page).await?;
            }
            if pages.send(page).await.is_err() {
                return Ok(());
            }
            self.hints.looked(is_empty);
            if is_empty {
                self.rest(&stop).await;
            } else {
                self.poll = Poll::new(Instant::now());
            }
        }
        Ok(())
    }

    /// Reads a page, and asks for the next delayed event when that is due.
    async fn fetch(&mut self) -> Result<Page<DB::Cursor>, Fault> {
        let asked = Instant::now();
        let bound = Bound {
            rows: self.size.rows(),
            bytes: self.max_payload,
            with_due: self.schedule.is_looked_into(asked),
        };
        let names = &self.outbox.shared.names;
        let fetching = DB::fetch(&mut self.connection, names, &self.cursor, bound);
        self.reporter.fetches(true);
        let page = tokio::time::timeout(SILENCE, fetching).await;
        self.reporter.fetches(false);
        let page = page.map_err(|_| Fault::Silent)??;
        if bound.with_due {
            self.reporter.delayed(page.due_in == Some(Duration::ZERO));
            self.schedule.looked(asked, Instant::now(), page.due_in);
        }
        Ok(page)
    }

    /// A predecessor may have parked rows and died before the cursor passed them. They stay parked, even if their
    /// reason is gone: an operator decides, or they are restored together with the rows that follow them. Rows that
    /// an operator has discarded since are left out, too.
    async fn pass_over_parked(&mut self, page: &mut Page<DB::Cursor>) -> Result<(), Fault> {
        let ids: Vec<i64> = page.rows.iter().map(|row| row.id).collect();
        if !ids.is_empty() {
            let names = &self.outbox.shared.names;
            let parked = DB::parked_ids(&mut self.connection, names, &ids).await?;
            page.rows.retain(|row| !parked.contains(&row.id));
        }
        self.is_past = page.is_whole;
        Ok(())
    }

    /// Moves due events into the log, where the next page finds them. A relay that has lost its lease may do so
    /// concurrently with its successor: each event is still moved once and in order.
    async fn move_due(&mut self) -> Result<(), Fault> {
        let names = &self.outbox.shared.names;
        let moving = DB::move_due(&mut self.connection, names, CHUNK);
        let moved = tokio::time::timeout(SILENCE, moving).await;
        let moved = moved.map_err(|_| Fault::Silent)??;
        if moved > 0 {
            self.reporter.delayed(false);
        }
        self.schedule.moved(Instant::now(), moved);
        Ok(())
    }

    /// Waits for a commit, here or elsewhere, until a delayed event is due, or until the next poll.
    async fn rest(&mut self, stop: &CancellationToken) {
        let now = Instant::now();
        let delay = self.poll.next(now);
        let delay = self
            .schedule
            .until_due(now)
            .map_or(delay, |due| due.min(delay));
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.outbox.shared.wake.heard() => self.poll = Poll::new(Instant::now()),
            () = hinted(&self.pings, self.hints.pause()) => {
                if self.hints.pause().is_zero() {
                    self.poll = Poll::new(Instant::now());
                }
                self.hints.followed();
            }
            () = tokio::time::sleep(delay) => {}
        }
    }
}

/// Waits for a hint from another process, which counts after a pause.
async fn hinted(pings: &Pings, pause: Duration) {
    if !pause.is_zero() {
        tokio::time::sleep(pause).await;
    }
    pings.next().await;
}

/// Follows hints that were true at once. While hints come and the outbox is empty, follows them ever less often: any
/// client of NATS may send them.
#[derive(Default)]
struct Hints {
    /// The last look was caused by a hint.
    is_followed: bool,
    pause: Duration,
}

impl Hints {
    fn followed(&mut self) {
        self.is_followed = true;
    }

    fn looked(&mut self, is_empty: bool) {
        if !is_empty {
            *self = Self::default();
        } else if std::mem::take(&mut self.is_followed) {
            self.pause = (self.pause * 2).clamp(BUSY_FIRST, BUSY_LONGEST);
        }
    }

    fn pause(&self) -> Duration {
        self.pause
    }
}

/// How long to wait before the next poll: often after an event, then 4 times a second.
struct Poll {
    since: Instant,
    delay: Duration,
}

impl Poll {
    fn new(now: Instant) -> Self {
        Self {
            since: now,
            delay: BUSY_FIRST,
        }
    }

    fn next(&mut self, now: Instant) -> Duration {
        if now - self.since > BUSY_FOR {
            return IDLE;
        }
        let next = (self.delay * 2).min(BUSY_LONGEST);
        std::mem::replace(&mut self.delay, next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn false_hints_are_followed_ever_less_until_one_is_true() {
        let mut hints = Hints::default();
        let mut pauses = Vec::new();
        for _ in 0..8 {
            pauses.push(hints.pause().as_millis());
            hints.followed();
            hints.looked(true);
        }
        assert_eq!(pauses, [0, 1, 2, 4, 8, 16, 32, 50]);
        hints.looked(true);
        assert_eq!(
            hints.pause(),
            BUSY_LONGEST,
            "a look without a hint says nothing of them"
        );
        hints.followed();
        hints.looked(false);
        assert_eq!(hints.pause(), Duration::ZERO);
    }

    #[test]
    fn polling_slows_down_to_four_times_a_second() {
        let start = Instant::now();
        let mut poll = Poll::new(start);
        let delays: Vec<_> = (0..8).map(|_| poll.next(start).as_millis()).collect();
        assert_eq!(delays, [1, 2, 4, 8, 16, 32, 50, 50]);
        assert_eq!(poll.next(start + BUSY_FOR * 2), IDLE);
    }
}
