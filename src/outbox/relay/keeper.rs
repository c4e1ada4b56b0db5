//! Renews the lease and writes checkpoints. Never moves the cursor past a row that is neither confirmed nor parked.

mod checkpoint;
mod parking;
mod room;

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use chrono::{DateTime, Utc};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::{
    Fault,
    failpoint::{self, Point},
    fault::is_of_version,
    issue::{Issues, SAY_AGAIN},
    janitor::Janitor,
    lost::Lost,
    progress::{Confirmation, Progress, Report},
    reporter::Reporter,
    restore::{RestoreSchedule, restorable},
};
use crate::{
    nats::Bus,
    outbox::{
        Outbox, Store,
        losses::store_new,
        store::{
            Entry, Position, Positions, Tenure,
            losses::{Losses, losses_from},
        },
    },
    policy::adjustment::RelayTuning,
    task::fence::Fence,
};

/// The minimum time between two checkpoints of progress.
const CHECKPOINT: Duration = Duration::from_millis(500);
/// How often the streams are surveyed; sooner at first.
const TIDY: Duration = Duration::from_secs(60);
const TIDY_SOON: Duration = Duration::from_secs(1);

/// How often the disk of the database is looked at.
const ROOM: Duration = Duration::from_secs(5);

/// What a keeper works with.
pub(super) struct KeeperContext<DB: Store> {
    pub(super) outbox: Outbox<DB>,
    pub(super) bus: Bus,
    pub(super) connection: DB::Connection,
    pub(super) tenure: Tenure,
    /// The settings with which the tenure began.
    pub(super) tuning: RelayTuning,
    /// Where later settings arrive.
    pub(super) changes: watch::Receiver<RelayTuning>,
    pub(super) fence: Fence,
    pub(super) issues: Issues,
    pub(super) reporter: Arc<Reporter>,
    /// Ends this tenure; the next one begins.
    pub(super) end_of_tenure: CancellationToken,
    /// The relay ends for good: the keeper releases the lease then.
    pub(super) stop: CancellationToken,
    pub(super) restore_schedule: Arc<Mutex<RestoreSchedule>>,
}

pub(super) struct Keeper<DB: Store> {
    context: KeeperContext<DB>,
    progress: Progress<DB::Cursor>,
    /// Everything before it is done; newer than the stored cursor.
    cursor: Option<DB::Cursor>,
    /// Where each stream was behind the last page before the cursor. The next owner of the lease reads the stream
    /// from there, and finds everything confirmed of the pages behind the cursor.
    streams: Positions,
    /// Entries that were confirmed and are not covered by the position yet, with their page.
    ahead: Vec<(u64, Entry)>,
    /// Where the streams ended when the tenure began.
    ends: Positions,
    /// Streams whose position is held until the cursor has passed everything committed before the tenure began: what
    /// an earlier tenure stored there is in an order of its own.
    held: HashSet<String>,
    /// The first whole page of the tenure, until the cursor has passed it.
    whole: Option<u64>,
    is_caught_up: bool,
    /// The relay has caught up, and that is not written yet.
    catches_up: bool,
    ledger: Vec<Entry>,
    /// Parked rows that were published.
    returned: Vec<i64>,
    /// Something was confirmed or parked since the last checkpoint.
    dirty: bool,
    /// The log is being read. A request to unpark, or a row that may be restored, ends the tenure from now on.
    is_relaying: bool,
    is_waiting: bool,
    /// The cursor that is in the database.
    written: watch::Sender<Option<DB::Cursor>>,
    losses: Lost,
    /// Ends with the keeper.
    _janitor: JoinSet<()>,
}

impl<DB: Store> Keeper<DB> {
    pub(super) fn new(context: KeeperContext<DB>, streams: Positions) -> Self {
        let (written, cursor) = watch::channel(None);
        let mut janitor = JoinSet::new();
        let changes = context.changes.clone();
        janitor.spawn(Janitor::new(context.outbox.clone(), changes, cursor).run());
        Self {
            context,
            progress: Progress::new(),
            cursor: None,
            streams,
            ahead: Vec::new(),
            ends: Positions::new(),
            held: HashSet::new(),
            whole: None,
            is_caught_up: false,
            catches_up: false,
            ledger: Vec::new(),
            returned: Vec::new(),
            dirty: false,
            is_relaying: false,
            is_waiting: false,
            written,
            losses: Lost::default(),
            _janitor: janitor,
        }
    }

    /// Runs until the reports end, then writes the last checkpoint. When the relay ends, releases the lease.
    pub(super) async fn run(
        mut self,
        mut reports: mpsc::Receiver<Report<DB::Cursor>>,
    ) -> Result<(), Fault> {
        let renewal = self.context.tenure.lease / 3;
        let mut renew_at = Instant::now() + renewal;
        let mut checkpoint_at = Instant::now();
        let mut tidy_at = Instant::now() + TIDY_SOON;
        let mut say_at = Instant::now() + SAY_AGAIN;
        let mut room_at = Instant::now();
        loop {
            let look_at = self.restore_schedule(|restore_schedule| restore_schedule.at());
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
                        tracing::debug!("stream survey timed out");
                    }
                    tidy_at = Instant::now() + TIDY;
                }
                () = tokio::time::sleep_until(look_at), if self.is_relaying && self.is_waiting => {
                    self.look().await?;
                }
                Ok(()) = self.context.changes.changed(), if self.is_relaying => {
                    let now = *self.context.changes.borrow_and_update();
                    if now.needs_new_tenure(&self.context.tuning) {
                        self.end_tenure();
                    }
                }
                () = tokio::time::sleep_until(room_at) => {
                    self.look_for_room().await?;
                    room_at = Instant::now() + ROOM;
                }
                () = tokio::time::sleep_until(say_at) => {
                    // Another program may have migrated the tables meanwhile.
                    let names = &self.context.outbox.shared.names;
                    is_of_version::<DB>(&mut self.context.connection, names).await?;
                    // Losses are repaired or acknowledged elsewhere, not by this relay.
                    if self.losses.are_open() {
                        let names = &self.context.outbox.shared.names;
                        let stored = DB::losses(&mut self.context.connection, names).await?;
                        self.know(losses_from(&stored)?);
                    }
                    say_at = Instant::now() + SAY_AGAIN;
                }
            }
        }
        self.checkpoint().await?;
        // The status must also show the issues that this has ended: nothing else is written until a relay runs
        // again.
        self.end_settled().await?;
        if self.dirty {
            self.checkpoint().await?;
        }
        if self.context.stop.is_cancelled() {
            let names = &self.context.outbox.shared.names;
            DB::release(&mut self.context.connection, names, &self.context.tenure).await?;
            tracing::info!(
                owner = self.context.tenure.owner,
                "relay lease released: the relay has stopped"
            );
        }
        Ok(())
    }

    /// Logs the losses, and shows them in the health of the process.
    fn know(&mut self, stored: Losses) {
        self.losses.know(stored);
        self.context.reporter.has_losses(self.losses.issues());
    }

    async fn take(&mut self, report: Report<DB::Cursor>) -> Result<(), Fault> {
        match report {
            Report::Began {
                ends,
                held,
                losses,
                resets,
            } => {
                self.ends = ends;
                self.held = held;
                self.streams.extend(resets);
                let names = &self.context.outbox.shared.names;
                let stored = store_new::<DB>(&mut self.context.connection, names, losses).await?;
                self.know(stored);
                self.dirty = true;
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
                self.context.reporter.read(self.progress.open_rows());
            }
            Report::Stream {
                stream,
                incarnation,
                sequence,
                at,
                written,
            } => {
                self.begin_stream(stream, incarnation, sequence, at)?;
                self.checkpoint().await?;
                // A lane that has ended does not wait.
                let _ = written.send(());
            }
            Report::Confirmed(confirmation) => {
                self.confirmed(confirmation);
                failpoint::reach(&self.context.tenure.owner, Point::Noted).await;
            }
            Report::Park { pages, parked } => {
                self.park(&parked).await?;
                self.done(pages);
            }
            Report::Write { written } => {
                self.checkpoint().await?;
                let _ = written.send(());
            }
            Report::Relaying => {
                self.is_relaying = true;
                self.dirty = true;
                self.context.reporter.relays();
            }
        }
        if let Some((page, cursor)) = self.progress.take() {
            self.cursor = Some(cursor);
            self.pass(page);
        }
        Ok(())
    }

    /// A known stream keeps its position: what lies behind it may be of an unfinished page. A stream that was
    /// recreated or truncated since the tenure began is left to the next tenure.
    fn begin_stream(
        &mut self,
        stream: String,
        incarnation: String,
        sequence: u64,
        at: Option<DateTime<Utc>>,
    ) -> Result<(), Fault> {
        let known = self.streams.get(&stream);
        if known.is_some_and(|known| known.incarnation != incarnation || known.known() > sequence) {
            return Err(Fault::WentBack { stream });
        }
        let known = known.cloned();
        let mut position = known.unwrap_or_else(|| Position::new(incarnation, sequence));
        position.since = at;
        self.streams.insert(stream, position);
        Ok(())
    }

    /// Records confirmed rows under the last of their pages: rows that were sent concurrently may be stored in any
    /// order.
    fn confirmed(&mut self, confirmation: Confirmation) {
        let Confirmation {
            pages,
            entries,
            last,
            returned,
        } = confirmation;
        if let Some((entry, last)) = entries.first().zip(last)
            && let Some(known) = self.streams.get_mut(&entry.stream)
            && known.incarnation == entry.incarnation
            && known
                .last
                .is_none_or(|known| known.sequence < last.sequence)
        {
            known.last = Some(last);
        }
        // Parked rows are of no page. They move no position, since messages before them may be of a page.
        if let Some(last) = pages.iter().map(|(page, _)| *page).max() {
            let ahead = entries.iter().map(|entry| (last, entry.clone()));
            self.ahead.extend(ahead);
        }
        self.ledger.extend(entries);
        let rows = pages.iter().map(|(_, rows)| rows).sum::<usize>() + returned.len();
        self.returned.extend(returned);
        self.done(pages);
        self.context.reporter.has_confirmed(rows);
    }

    fn done(&mut self, pages: Vec<(u64, usize)>) {
        for (page, rows) in pages {
            self.progress.done(page, rows);
        }
        self.dirty = true;
        self.context.reporter.moves_to(self.progress.open_rows());
    }

    /// The cursor has passed a page, and with it what was confirmed of it. A row that was refused at first may lie
    /// behind rows of later pages: the position stays before what the cursor has not passed.
    fn pass(&mut self, page: u64) {
        if self.whole.is_some_and(|whole| whole <= page) {
            self.catch_up();
        }
        let held = &self.held;
        let (passed, mut ahead): (Vec<_>, Vec<_>) = std::mem::take(&mut self.ahead)
            .into_iter()
            .partition(|(of_page, entry)| *of_page <= page && !held.contains(&entry.stream));
        let open: Vec<(String, u64)> = ahead
            .iter()
            .map(|(_, entry)| (entry.stream.clone(), entry.first_sequence))
            .collect();
        for (of_page, entry) in passed {
            let is_behind = |(stream, sequence): &(String, u64)| {
                *stream == entry.stream && *sequence < entry.last_sequence
            };
            if open.iter().any(is_behind) {
                ahead.push((of_page, entry));
                continue;
            }
            self.move_on(entry.stream, entry.incarnation, entry.last_sequence);
        }
        self.ahead = ahead;
    }

    /// Everything committed before the tenure is done, so what the streams held then is not needed any more.
    fn catch_up(&mut self) {
        self.whole = None;
        self.is_caught_up = true;
        self.catches_up = true;
        self.dirty = true;
        self.held.clear();
        for (stream, end) in std::mem::take(&mut self.ends) {
            self.move_on(stream, end.incarnation, end.sequence);
        }
    }

    fn move_on(&mut self, stream: String, incarnation: String, sequence: u64) {
        match self.streams.get_mut(&stream) {
            Some(known) if known.incarnation == incarnation && known.sequence >= sequence => return,
            Some(known) if known.incarnation == incarnation => known.sequence = sequence,
            _ => drop(
                self.streams
                    .insert(stream, Position::new(incarnation, sequence)),
            ),
        }
        self.dirty = true;
    }

    /// Moves the positions over messages of other publishers, so that the next owner of the lease need not read
    /// them. Only while nothing is in flight: pages are reported before their rows are sent, so everything in the
    /// streams is accounted for then.
    async fn survey(&mut self, reports: &mpsc::Receiver<Report<DB::Cursor>>) {
        let is_quiet =
            |keeper: &Self| keeper.is_caught_up && keeper.progress.is_idle() && reports.is_empty();
        for stream in self.streams.keys().cloned().collect::<Vec<_>>() {
            if !is_quiet(self) {
                return;
            }
            let Some(known) = self.streams.get(&stream).cloned() else {
                continue;
            };
            match self.context.bus.stream_state(&stream).await {
                // Another incarnation, or a lost end, is left to the next tenure.
                Ok(Some(state))
                    if state.incarnation != known.incarnation
                        || state.last_sequence < known.known() =>
                {
                    return self.end_tenure();
                }
                Ok(None) if !self.losses.is_gone(&stream) => return self.end_tenure(),
                Ok(Some(state)) if is_quiet(self) => {
                    self.move_on(stream, state.incarnation, state.last_sequence);
                }
                Ok(_) => {}
                Err(error) => tracing::debug!(stream, %error, "stream survey failed"),
            }
        }
    }

    /// Checks whether waiting rows may be restored.
    async fn look(&mut self) -> Result<(), Fault> {
        self.restore_schedule(RestoreSchedule::later);
        let names = &self.context.outbox.shared.names;
        let waiting = DB::waiting(&mut self.context.connection, names).await?;
        let asking = restorable(&self.context.bus, &waiting.reasons);
        // The lease comes first.
        match tokio::time::timeout(self.context.tenure.lease / 3, asking).await {
            Ok(Ok(open)) if open.is_empty() => {}
            Ok(Ok(_)) => self.end_tenure(),
            Ok(Err(error)) => tracing::debug!(%error, "parked row check failed"),
            Err(_) => tracing::debug!("parked row check timed out"),
        }
        Ok(())
    }

    fn restore_schedule<T>(&self, with: impl FnOnce(&mut RestoreSchedule) -> T) -> T {
        let restore_schedule = self.context.restore_schedule.lock();
        with(&mut restore_schedule.unwrap_or_else(PoisonError::into_inner))
    }

    fn end_tenure(&mut self) {
        self.is_relaying = false;
        self.context.end_of_tenure.cancel();
    }
}
