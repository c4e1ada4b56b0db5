//! Restores parked rows: at the start of a tenure, before new rows are read, publishes those that may go, in the
//! order in which they were written. Never reads the log.
//!
//! Only then, and not concurrently with the log: what is published here lies in the stream behind the relay's
//! position, and the position does not move meanwhile. So the next owner finds it there after a crash.
//!
//! A row that the cursor has not passed is only unparked: the log still has it, behind older rows of its key, and
//! the relay publishes it from there in order, once.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use tidings_contract::EventId;
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};

use super::{
    Fault, fault_of,
    lane_context::LaneContext,
    parked_keys::ParkedKeys,
    progress::{Confirmation, Report},
    resume::Known,
    route::Router,
};
use crate::{
    nats::{Bus, Found},
    outbox::{
        Outbox, Store,
        page_size::PageSize,
        store::{Bound, Reason, Row, Rows, Waiting, parked::BlockedOn},
    },
};

/// The pauses between two checks of what parked rows wait for.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// The most rows that are read at once.
const ROWS: usize = 1000;
/// The most ids that are looked up at once.
const IDS: usize = 10_000;

/// When to check again whether what parked rows wait for is there. Outlives a tenure.
#[derive(Debug, Clone, Copy)]
pub(super) struct RestoreSchedule {
    at: Instant,
    pause: Duration,
}

impl RestoreSchedule {
    pub(super) fn soon() -> Self {
        Self {
            at: Instant::now(),
            pause: FIRST_PAUSE,
        }
    }

    pub(super) fn at(&self) -> Instant {
        self.at
    }

    /// The check found nothing: the pause doubles.
    pub(super) fn later(&mut self) {
        self.at = Instant::now() + self.pause;
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
    }
}

/// Returns the reasons that may be over. When unsure, the reason is included: publishing shows whether it is.
pub(super) async fn restorable(bus: &Bus, reasons: &[Reason]) -> Result<Vec<BlockedOn>, Fault> {
    let mut open = Vec::new();
    for reason in reasons {
        let stream = bus.stream_of(&reason.name).await?;
        let is_open = match (&reason.blocked_on, stream) {
            (_, None) => false,
            (BlockedOn::Subject(name), Some(_)) => {
                !bus.is_denied(name) || bus.may_publish(name).await
            }
            (BlockedOn::Stream(waited_for), Some(now)) if *waited_for != now => true,
            (BlockedOn::Stream(stream), Some(_)) => match bus.stream_state(stream).await? {
                Some(state) => !state.is_closed && state.confirms,
                None => true,
            },
        };
        if is_open {
            open.push(reason.blocked_on.clone());
        }
    }
    Ok(open)
}

/// Publishes parked rows that may go; `context` takes only parked rows. Returns when all of it is written down:
/// published, or parked again with another reason.
pub(super) async fn restore<DB: Store>(
    outbox: &Outbox<DB>,
    connection: &mut DB::Connection,
    (waiting, keys, cursor): (&Waiting, &[(String, i64)], &DB::Cursor),
    context: LaneContext<DB::Cursor>,
) -> Result<(), Fault> {
    note_stored(outbox, connection, &context).await?;
    let mut open = restorable(&context.bus, &waiting.reasons).await?;
    if open.is_empty() && !waiting.is_asked {
        return Ok(());
    }
    let (reports, stop) = (context.reports.clone(), context.stop.clone());
    let max_payload = context.bus.max_payload();
    let parked_keys = Arc::clone(&context.parked_keys);
    // Rows that wait for these streams stay parked, so no other row may go there before them.
    for Reason {
        blocked_on, error, ..
    } in &waiting.reasons
    {
        if let BlockedOn::Stream(stream) = blocked_on
            && !open.contains(blocked_on)
        {
            parked_keys.close_stream(stream, error);
        }
    }
    let mut firsts = Firsts::new(keys);
    let (rows, routed) = mpsc::channel(1);
    let mut routing = tokio::task::JoinSet::new();
    routing.spawn(Router::new(context).run_parked(routed));
    let mut behind = i64::MIN;
    let mut events = 0;
    let mut size = PageSize::new(ROWS, ROWS);
    while !stop.is_cancelled() {
        // Rows that wait for something closed again are not read any further: they stay parked.
        open.retain(|blocked_on| !parked_keys.is_closed(blocked_on));
        if open.is_empty() && !waiting.is_asked {
            break;
        }
        let names = &outbox.shared.names;
        let bound = Bound {
            rows: size.rows(),
            bytes: max_payload,
            with_due: false,
        };
        let read = DB::returning(connection, names, &open, behind, bound).await?;
        let Rows {
            rows: mut page,
            are_cut,
        } = read;
        let Some(last) = page.last() else { break };
        behind = last.id;
        size.adapt(page.len(), are_cut);
        page.retain(|row| firsts.lets_go(row));
        events += page.len();
        leave_to_the_log(outbox, connection, cursor, &mut page, &reports).await?;
        if rows.send(page).await.is_err() {
            break;
        }
    }
    drop(rows);
    match routing.join_next().await {
        Some(Ok(Ok(()))) | None => {}
        Some(ended) => return Err(fault_of(ended)),
    }
    write(&reports).await?;
    tracing::info!(
        outbox = DB::KIND,
        events,
        "parked events restored: as far as their streams take them"
    );
    Ok(())
}

/// Records parked rows that an earlier owner published but did not write down. They are not published again, even if
/// what they waited for is closed by now: the position is about to pass them.
async fn note_stored<DB: Store>(
    outbox: &Outbox<DB>,
    connection: &mut DB::Connection,
    context: &LaneContext<DB::Cursor>,
) -> Result<(), Fault> {
    let names = &outbox.shared.names;
    let found = context.stored.found.values();
    let events: Vec<EventId> = found.flat_map(Found::ids).collect();
    let mut confirmation = Confirmation::default();
    for events in events.chunks(IDS) {
        let mut behind = 0;
        loop {
            let among = DB::parked_among(connection, names, events, behind).await?;
            for row in &among.rows {
                behind = row.id;
                let known = context.stored.anywhere(&context.bus, row.id, row.into());
                // A row whose id belongs to another event is not stored.
                if let (Known::Event(_), entry) = known.await? {
                    confirmation.entries.extend(entry);
                    confirmation.returned.push(row.id);
                }
            }
            if !among.are_cut {
                break;
            }
        }
    }
    if confirmation.returned.is_empty() {
        return Ok(());
    }
    context.report(Report::Confirmed(confirmation)).await?;
    write(&context.reports).await
}

/// Keeps the rows that the cursor has passed. The others are unparked, and are read from the log.
async fn leave_to_the_log<DB: Store>(
    outbox: &Outbox<DB>,
    connection: &mut DB::Connection,
    cursor: &DB::Cursor,
    page: &mut Vec<Row>,
    reports: &mpsc::Sender<Report<DB::Cursor>>,
) -> Result<(), Fault> {
    let ids: Vec<i64> = page.iter().map(|row| row.id).collect();
    let ahead = DB::ahead(connection, &outbox.shared.names, cursor, &ids).await?;
    if ahead.is_empty() {
        return Ok(());
    }
    page.retain(|row| !ahead.contains(&row.id));
    tracing::info!(
        outbox = DB::KIND,
        events = ahead.len(),
        "parked events unparked: their rows are published from the log in order"
    );
    let confirmation = Confirmation {
        returned: ahead.into_iter().collect(),
        ..Confirmation::default()
    };
    let reported = reports.send(Report::Confirmed(confirmation)).await;
    reported.map_err(|_| Fault::Ended("the keeper".to_owned()))
}

/// Has everything written to the database that was reported.
async fn write<C>(reports: &mpsc::Sender<Report<C>>) -> Result<(), Fault> {
    let ended = || Fault::Ended("the keeper".to_owned());
    let (written, is_written) = oneshot::channel();
    let report = Report::Write { written };
    reports.send(report).await.map_err(|_| ended())?;
    is_written.await.map_err(|_| ended())
}

/// The first parked row of each key when the restore began. An operator may unpark a key after its first row was
/// passed: then its later rows wait for the next restore, too.
struct Firsts<'a> {
    ids: HashMap<&'a str, i64>,
    gone: HashSet<&'a str>,
}

impl<'a> Firsts<'a> {
    fn new(keys: &'a [(String, i64)]) -> Self {
        Self {
            ids: keys.iter().map(|(key, id)| (&**key, *id)).collect(),
            gone: HashSet::new(),
        }
    }

    fn lets_go(&mut self, row: &Row) -> bool {
        let key = row.key.as_deref();
        let Some((key, first)) = key.and_then(|key| self.ids.get_key_value(key)) else {
            return true;
        };
        if row.id == *first {
            self.gone.insert(key);
        }
        row.id <= *first || self.gone.contains(key)
    }
}

/// At the start of a restore nothing is closed: each row is tried.
pub(super) fn nothing_parked() -> ParkedKeys {
    ParkedKeys::new(Vec::new(), [], [])
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use chrono::DateTime;

    #[test]
    fn a_late_unpark_waits_for_the_next_return() {
        let keys = [("a".to_owned(), 5), ("b".to_owned(), 6)];
        let mut firsts = Firsts::new(&keys);
        let mut lets_go = |id, key: Option<&str>| {
            firsts.lets_go(&Row {
                id,
                at: DateTime::UNIX_EPOCH,
                event: EventId::now(),
                name: "a.b".to_owned(),
                version: 1,
                key: key.map(str::to_owned),
                headers: "{}".to_owned(),
                payload: Bytes::new(),
                flaw: None,
            })
        };
        assert!(lets_go(5, Some("a")) && lets_go(9, Some("a")));
        // Before the first row of its key: it waits for a stream.
        assert!(lets_go(4, Some("b")));
        assert!(!lets_go(9, Some("b")));
        assert!(lets_go(9, Some("c")) && lets_go(9, None));
    }
}
