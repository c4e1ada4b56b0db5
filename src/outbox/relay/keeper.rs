//! Keeps the lease and writes down how far the relay is. Never moves the cursor past what is neither
//! confirmed nor parked.

use std::{collections::HashSet, time::Duration};

use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::Instant,
};

use super::{
    Fault,
    failpoint::{self, Point},
    janitor::Janitor,
    lane::Fence,
    progress::{Progress, Report},
};
use crate::{
    bus::Bus,
    outbox::{
        Outbox, Store,
        store::{Checkpoint, Entry, Parked, Position, Positions, Tenure},
    },
};

/// Checkpoints are written no more often than this.
const CHECKPOINT: Duration = Duration::from_millis(500);
/// How often the streams are looked at; sooner at first.
const TIDY: Duration = Duration::from_secs(60);
const TIDY_SOON: Duration = Duration::from_secs(1);

pub(super) struct Keeper<DB: Store> {
    outbox: Outbox<DB>,
    bus: Bus,
    connection: DB::Connection,
    tenure: Tenure,
    fence: Fence,
    progress: Progress<DB::Cursor>,
    /// Everything before it is done; newer than what is written.
    cursor: Option<DB::Cursor>,
    /// Where each stream was behind the last page before the cursor. Whoever resumes reads the stream from
    /// there, and finds all that was confirmed of the pages behind the cursor.
    streams: Positions,
    /// Confirmed sequences of pages that the cursor has not passed.
    ahead: Vec<(u64, String, Position)>,
    /// Where the streams ended when the tenure began.
    ends: Positions,
    /// Streams whose position stays where it is until the cursor has passed everything that was committed
    /// before the tenure began: what an earlier tenure has stored lies there in an order of its own.
    held: HashSet<String>,
    /// The first whole page of the tenure, until the cursor has passed it.
    whole: Option<u64>,
    is_caught_up: bool,
    ledger: Vec<Entry>,
    /// Something was confirmed or parked since the last checkpoint.
    dirty: bool,
    /// The cursor that is in the database.
    written: watch::Sender<Option<DB::Cursor>>,
    /// Ends with the keeper.
    _janitor: JoinSet<()>,
}

impl<DB: Store> Keeper<DB> {
    pub(super) fn new(
        outbox: Outbox<DB>,
        bus: Bus,
        connection: DB::Connection,
        tenure: Tenure,
        streams: Positions,
        retention: Duration,
        fence: Fence,
    ) -> Self {
        let (written, cursor) = watch::channel(None);
        let mut janitor = JoinSet::new();
        janitor.spawn(Janitor::new(outbox.clone(), retention, cursor).run());
        Self {
            outbox,
            bus,
            connection,
            tenure,
            fence,
            progress: Progress::new(),
            cursor: None,
            streams,
            ahead: Vec::new(),
            ends: Positions::new(),
            held: HashSet::new(),
            whole: None,
            is_caught_up: false,
            ledger: Vec::new(),
            dirty: false,
            written,
            _janitor: janitor,
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
        let mut tidy_at = Instant::now() + TIDY_SOON;
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
                () = tokio::time::sleep_until(tidy_at) => {
                    // The lease comes first: a NATS that does not answer is asked again later.
                    let surveying = self.survey(&reports);
                    if tokio::time::timeout(renewal, surveying).await.is_err() {
                        tracing::debug!("the streams were not surveyed in time");
                    }
                    tidy_at = Instant::now() + TIDY;
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
            Report::Began { ends, held } => {
                self.ends = ends;
                self.held = held;
            }
            Report::Page {
                number,
                rows,
                next,
                is_whole,
            } => {
                if is_whole && !self.is_caught_up && self.whole.is_none() {
                    self.whole = Some(number);
                }
                self.progress.page(number, rows, next);
            }
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
                failpoint::reach(&self.tenure.owner, Point::Noted).await;
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

    /// A stream that is known keeps its place: what lies behind it may be of an unfinished page. One that
    /// was created anew, or has lost its end, was read from further back.
    fn begin_stream(&mut self, stream: String, incarnation: String, sequence: u64) {
        let sequence = match self.streams.get(&stream) {
            Some(known) if known.incarnation == incarnation => known.sequence.min(sequence),
            Some(_) => 0,
            None => sequence,
        };
        let position = Position {
            incarnation,
            sequence,
        };
        self.streams.insert(stream, position);
    }

    /// The cursor has passed a page, and with it what was confirmed of it.
    fn pass(&mut self, page: u64) {
        if self.whole.is_some_and(|whole| whole <= page) {
            self.catch_up();
        }
        let held = &self.held;
        let (passed, ahead) = std::mem::take(&mut self.ahead)
            .into_iter()
            .partition(|(of_page, stream, _)| *of_page <= page && !held.contains(stream));
        self.ahead = ahead;
        for (_, stream, position) in passed {
            self.move_on(stream, position);
        }
    }

    /// Everything that was committed before the tenure is done, so nothing that a stream held then is asked
    /// for any more.
    fn catch_up(&mut self) {
        self.whole = None;
        self.is_caught_up = true;
        self.held.clear();
        for (stream, end) in std::mem::take(&mut self.ends) {
            self.move_on(stream, end);
        }
    }

    fn move_on(&mut self, stream: String, position: Position) {
        let known = self
            .streams
            .entry(stream)
            .or_insert_with(|| position.clone());
        if known.incarnation != position.incarnation || known.sequence < position.sequence {
            *known = position;
            self.dirty = true;
        }
    }

    /// Moves the positions over what others have written, so that whoever resumes need not read it. Only
    /// while nothing is on its way: pages are reported before their rows are sent, so what the streams hold
    /// then is known.
    async fn survey(&mut self, reports: &mpsc::Receiver<Report<DB::Cursor>>) {
        let is_quiet =
            |keeper: &Self| keeper.is_caught_up && keeper.progress.is_idle() && reports.is_empty();
        for stream in self.streams.keys().cloned().collect::<Vec<_>>() {
            if !is_quiet(self) {
                return;
            }
            match self.bus.stream_state(&stream).await {
                Ok(Some(state)) if is_quiet(self) => {
                    let known = self.streams.get(&stream);
                    // Another incarnation, or a lost end, is the next tenure's to find.
                    if known.is_some_and(|known| known.incarnation == state.incarnation) {
                        let position = Position {
                            incarnation: state.incarnation,
                            sequence: state.last_sequence,
                        };
                        self.move_on(stream, position);
                    }
                }
                Ok(_) => {}
                Err(error) => tracing::debug!(stream, %error, "the stream was not surveyed"),
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
        failpoint::reach(&self.tenure.owner, Point::Checkpoint).await;
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
        self.written.send_replace(checkpoint.cursor);
        self.fence.extend(sent + self.tenure.lease);
        failpoint::reach(&self.tenure.owner, Point::Checkpointed).await;
        Ok(())
    }
}
