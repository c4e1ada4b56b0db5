//! The way back of what is parked: at the beginning of a tenure, before anything new is read, what may go back
//! is published, in the order in which it was written. Never reads the log.
//!
//! Only then, and not beside the log: what is published here lies in the stream behind the relay's position,
//! and the position does not move meanwhile, so whoever resumes after a crash finds it there.

use std::time::Duration;

use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};

use super::{Fault, aside::Aside, course::Course, fault_of, progress::Report, route::Router};
use crate::{
    bus::Bus,
    outbox::{
        Outbox, Store,
        parked::WaitsFor,
        store::{Bound, Reason, Waiting},
    },
};

/// The pauses between two looks at what is waited for.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// Rows that are read at once, and how much payload.
const ROWS: usize = 1000;
const PAGE_BYTES: usize = 4 * 1024 * 1024;

/// When it is looked again whether what parked rows wait for is there. It outlives a tenure.
#[derive(Debug, Clone, Copy)]
pub(super) struct LookAgain {
    at: Instant,
    pause: Duration,
}

impl LookAgain {
    pub(super) fn soon() -> Self {
        Self {
            at: Instant::now(),
            pause: FIRST_PAUSE,
        }
    }

    pub(super) fn at(&self) -> Instant {
        self.at
    }

    /// It was not there.
    pub(super) fn later(&mut self) {
        self.at = Instant::now() + self.pause;
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
    }
}

/// Those of the reasons that may be over. Who is not sure says yes: publishing shows.
pub(super) async fn may_go(bus: &Bus, reasons: &[Reason]) -> Result<Vec<WaitsFor>, Fault> {
    let mut open = Vec::new();
    for reason in reasons {
        let stream = bus.stream_of(&reason.name).await?;
        let is_open = match (&reason.waits_for, stream) {
            (_, None) => false,
            (WaitsFor::Subject(name), Some(_)) => {
                !bus.is_denied(name) || bus.may_publish(name).await
            }
            (WaitsFor::Stream(waited_for), Some(now)) if *waited_for != now => true,
            (WaitsFor::Stream(stream), Some(_)) => match bus.stream_state(stream).await? {
                Some(state) => !state.is_closed,
                None => true,
            },
        };
        if is_open {
            open.push(reason.waits_for.clone());
        }
    }
    Ok(open)
}

/// Publishes what may go back; `course` takes nothing but what is parked. Returns when all of it is written
/// down: published, or parked again with another reason.
pub(super) async fn give_back<DB: Store>(
    outbox: &Outbox<DB>,
    connection: &mut DB::Connection,
    waiting: &Waiting,
    course: Course<DB::Cursor>,
) -> Result<(), Fault> {
    let open = may_go(&course.bus, &waiting.reasons).await?;
    if open.is_empty() && !waiting.is_asked {
        return Ok(());
    }
    let (reports, stop) = (course.reports.clone(), course.stop.clone());
    let (rows, routed) = mpsc::channel(1);
    let mut routing = tokio::task::JoinSet::new();
    routing.spawn(Router::new(course).run_parked(routed));
    let mut behind = 0;
    let mut events = 0;
    while !stop.is_cancelled() {
        let names = &outbox.shared.names;
        let bound = Bound {
            rows: ROWS,
            bytes: PAGE_BYTES,
            with_due: false,
        };
        let page = DB::returning(connection, names, &open, behind, bound).await?;
        let Some(last) = page.last() else { break };
        behind = last.id;
        events += page.len();
        if rows.send(page).await.is_err() {
            break;
        }
    }
    drop(rows);
    match routing.join_next().await {
        Some(Ok(Ok(()))) | None => {}
        Some(ended) => return Err(fault_of(ended)),
    }
    let (written, is_written) = oneshot::channel();
    let ended = || Fault::Ended("the keeper".to_owned());
    let report = Report::Write { written };
    reports.send(report).await.map_err(|_| ended())?;
    is_written.await.map_err(|_| ended())?;
    tracing::info!(
        outbox = DB::KIND,
        events,
        "parked events went back, as far as they are taken"
    );
    Ok(())
}

/// Nothing is put aside yet when what is parked goes back: each row is tried.
pub(super) fn nothing_aside() -> Aside {
    Aside::new(Vec::new(), [], [])
}
