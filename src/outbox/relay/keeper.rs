//! Keeps the lease and writes down how far the relay is. Never moves the cursor past what is neither
//! confirmed nor parked.

use std::time::Duration;

use tokio::{sync::mpsc, time::Instant};

use super::{
    Fault,
    lane::Fence,
    progress::{Progress, Report},
};
use crate::outbox::{
    Outbox, Store,
    store::{Checkpoint, Entry, Parked, Position, Positions, Tenure},
};

/// Checkpoints are written no more often than this.
const CHECKPOINT: Duration = Duration::from_millis(500);
/// How often storage is looked at, and how soon at first.
const RECLAIM: Duration = Duration::from_secs(60);
const FIRST_RECLAIM: Duration = Duration::from_secs(1);

pub(super) struct Keeper<DB: Store> {
    outbox: Outbox<DB>,
    connection: DB::Connection,
    tenure: Tenure,
    retention: Duration,
    fence: Fence,
    progress: Progress<DB::Cursor>,
    /// Everything before it is done; newer than what is written.
    cursor: Option<DB::Cursor>,
    /// Where each stream was behind the last page before the cursor. Whoever resumes reads the stream from
    /// there, and finds all that was confirmed of the pages behind the cursor.
    streams: Positions,
    /// Confirmed sequences of pages that the cursor has not passed.
    ahead: Vec<(u64, String, Position)>,
    ledger: Vec<Entry>,
    /// Something was confirmed or parked since the last checkpoint.
    dirty: bool,
}

impl<DB: Store> Keeper<DB> {
    pub(super) fn new(
        outbox: Outbox<DB>,
        connection: DB::Connection,
        tenure: Tenure,
        streams: Positions,
        retention: Duration,
        fence: Fence,
    ) -> Self {
        Self {
            outbox,
            connection,
            tenure,
            retention,
            fence,
            progress: Progress::new(),
            cursor: None,
            streams,
            ahead: Vec::new(),
            ledger: Vec::new(),
            dirty: false,
        }
    }

    /// Runs until the reports end, then writes the last checkpoint and releases the lease.
    pub(super) async fn run(
        mut self,
        mut reports: mpsc::Receiver<Report<DB::Cursor>>,
    ) -> Result<(), Fault> {
        let renewal = self.tenure.lease / 3;
        let mut renew_at = Instant::now() + renewal;
        let mut checkpoint_at = Instant::now();
        let mut reclaim_at = Instant::now() + FIRST_RECLAIM;
        loop {
            tokio::select! {
                report = reports.recv() => match report {
                    Some(report) => self.take(report).await?,
                    None => break,
                },
                () = tokio::time::sleep_until(checkpoint_at), if self.dirty => {
                    self.checkpoint().await?;
                    checkpoint_at = Instant::now() + CHECKPOINT;
                    renew_at = Instant::now() + renewal;
                }
                () = tokio::time::sleep_until(renew_at) => {
                    self.checkpoint().await?;
                    renew_at = Instant::now() + renewal;
                }
                () = tokio::time::sleep_until(reclaim_at) => {
                    self.reclaim().await?;
                    reclaim_at = Instant::now() + RECLAIM;
                }
            }
        }
        self.checkpoint().await?;
        let names = &self.outbox.shared.names;
        DB::release(&mut self.connection, names, &self.tenure).await?;
        tracing::info!(
            owner = self.tenure.owner,
            "the relay has stopped and released its lease"
        );
        Ok(())
    }

    async fn take(&mut self, report: Report<DB::Cursor>) -> Result<(), Fault> {
        match report {
            Report::Page { number, rows, next } => self.progress.page(number, rows, next),
            Report::Stream {
                stream,
                incarnation,
                sequence,
                written,
            } => {
                self.begin_stream(stream, incarnation, sequence);
                self.checkpoint().await?;
                // A lane that is gone does not wait.
                let _ = written.send(());
            }
            Report::Confirmed { pages, entries } => {
                let last_page = pages.iter().map(|(page, _)| *page).max().unwrap_or(0);
                for entry in entries {
                    self.record(last_page, entry);
                }
                for (page, rows) in pages {
                    self.progress.done(page, rows);
                }
                self.dirty = true;
            }
            Report::Park { page, parked } => {
                self.park(&parked).await?;
                self.progress.done(page, 1);
                self.dirty = true;
            }
        }
        if let Some((page, cursor)) = self.progress.take() {
            self.cursor = Some(cursor);
            self.pass(page);
        }
        Ok(())
    }

    /// A stream that is known keeps its place: what lies behind it may be of an unfinished page.
    fn begin_stream(&mut self, stream: String, incarnation: String, sequence: u64) {
        let known = self.streams.get(&stream);
        if known.is_none_or(|known| known.incarnation != incarnation) {
            let position = Position {
                incarnation,
                sequence,
            };
            self.streams.insert(stream, position);
        }
    }

    /// The cursor has passed a page, and with it what was confirmed of it.
    fn pass(&mut self, page: u64) {
        let (passed, ahead) = std::mem::take(&mut self.ahead)
            .into_iter()
            .partition(|(of_page, ..)| *of_page <= page);
        self.ahead = ahead;
        for (_, stream, position) in passed {
            let known = self
                .streams
                .entry(stream)
                .or_insert_with(|| position.clone());
            if known.incarnation != position.incarnation || known.sequence < position.sequence {
                *known = position;
            }
        }
    }

    fn record(&mut self, page: u64, entry: Entry) {
        let position = Position {
            incarnation: entry.incarnation.clone(),
            sequence: entry.last_sequence,
        };
        self.ahead.push((page, entry.stream.clone(), position));
        self.ledger.push(entry);
    }

    async fn park(&mut self, parked: &Parked) -> Result<(), Fault> {
        tracing::error!(
            event.id = %parked.row.event,
            event.name = parked.row.name,
            key = parked.row.key,
            error = parked.error,
            "the event is parked: NATS will never take it as it is"
        );
        let names = &self.outbox.shared.names;
        DB::park(&mut self.connection, names, std::slice::from_ref(parked)).await?;
        Ok(())
    }

    /// Writes what is new, and renews the lease in the same statement. The fence is measured from before
    /// the statement was sent.
    async fn checkpoint(&mut self) -> Result<(), Fault> {
        let sent = Instant::now();
        let checkpoint = Checkpoint {
            cursor: self.cursor.clone(),
            streams: self.streams.clone(),
            ledger: std::mem::take(&mut self.ledger),
        };
        let names = &self.outbox.shared.names;
        let is_ours =
            DB::checkpoint(&mut self.connection, names, &self.tenure, &checkpoint).await?;
        if !is_ours {
            return Err(Fault::Fenced);
        }
        self.dirty = false;
        self.fence.extend(sent + self.tenure.lease);
        Ok(())
    }

    async fn reclaim(&mut self) -> Result<(), Fault> {
        let Some(cursor) = &self.cursor else {
            return Ok(());
        };
        let names = &self.outbox.shared.names;
        let freed = DB::reclaim(&mut self.connection, names, cursor, self.retention).await?;
        if let Some(freed) = freed {
            tracing::info!(outbox = DB::KIND, freed, "old events were freed");
        }
        Ok(())
    }
}
