//! The crash guard for events that may have killed their process. Such an event runs alone, under a crash marker that
//! stays when the process dies. When enough processes have died of it, it is dead-lettered. Never decides the outcome
//! of an attempt.
//!
//! A redelivery alone proves little: the process may have been stopped, or have lost its connection. So a redelivered
//! event is only a suspect. The proof is a death while nothing else ran in the process. An event that ends under its
//! marker is cleared, and the marker is removed. No event waits for long: when handlers or the suspect run for minutes,
//! a death cannot be attributed to one event, and is not.

use std::{
    pin::pin,
    sync::{Arc, LazyLock},
    time::{Duration, Instant},
};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use tokio::sync::{OnceCell, RwLock, RwLockReadGuard, RwLockWriteGuard};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    executor::{Acknowledger, Attempt, Delivery, Disposition, Executor},
    log::Lasting,
    nats::{AckHandle, Bus, BusError, keys},
    policy::outcome::{Cause, DeadLetter},
};

/// The delivery count from which an event is a suspect.
pub(super) const DELIVERIES: u32 = 3;
/// When this many instances in a row did not release their lease, the events that they had in flight are suspects.
pub(super) const UNCLEAN: u32 = 2;
/// How long a suspect waits for running events, at most; never longer than its timeout. Meanwhile no other event
/// begins.
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// How long other events wait for a suspect, at most. After that, a death is no longer attributed to it.
const ALONE: Duration = Duration::from_secs(60);
/// How many processes have to die of an event.
const DEATHS: usize = 3;
/// How long a marker stays when no process removes it.
const KEPT: Duration = Duration::from_secs(86_400);
/// How long a removed marker is still an empty entry.
const EMPTY: Duration = Duration::from_secs(60);
/// The pause before the bucket is tried again.
const PAUSE: Duration = Duration::from_secs(1);

/// A crash also ends what other subscribers of the process do, so a suspect runs alone across all of them.
static BESIDE: RwLock<()> = RwLock::const_new(());
/// Identifies this process, and none before or after it.
static PROCESS: LazyLock<Uuid> = LazyLock::new(Uuid::now_v7);

/// Runs the attempts of a subscriber; suspects run alone.
pub(super) struct CrashGuard {
    bus: Bus,
    subscriber: String,
    /// A new bucket gets as many replicas as this stream has.
    like: String,
    bucket: OnceCell<()>,
    /// Throttle the log: events cannot be marked, and markers are not removed.
    unmarked: Lasting,
    uncleared: Lasting,
}

/// The crash marker: in the bucket while a suspect runs.
#[derive(Debug, Default, Serialize, Deserialize)]
struct CrashMarker {
    /// Where the event was first stored.
    stream: String,
    sequence: u64,
    /// When it was first marked.
    since: Option<DateTime<Utc>>,
    /// The processes that ran it, the latest last.
    processes: Vec<Uuid>,
}

/// The state of a suspect before it runs.
enum Marked {
    /// It may run.
    Tried,
    /// It has killed every process that ran it.
    Quarantined(CrashMarker),
}

/// How a suspect has run.
enum Ran<T> {
    /// Alone, to its end.
    Alone(T),
    /// In the end beside other events.
    Beside(T),
}

impl CrashGuard {
    pub(super) fn new(bus: &Bus, subscriber: &str, like: &str) -> Self {
        Self {
            bus: bus.clone(),
            subscriber: subscriber.to_owned(),
            like: like.to_owned(),
            bucket: OnceCell::new(),
            unmarked: Lasting::default(),
            uncleared: Lasting::default(),
        }
    }

    /// Makes one attempt.
    pub(super) async fn run<S: Send + Sync + 'static, A: Acknowledger>(
        &self,
        executor: &Executor<S>,
        attempt: Attempt<'_, A>,
        handle: &AckHandle,
    ) -> Disposition {
        let delivery = &*attempt.delivery;
        if delivery.is_suspect && executor.takes(delivery) {
            let wait = executor.timeout().min(LONGEST_WAIT);
            let alone = tokio::time::timeout(wait, BESIDE.write());
            match attempt.halt.run_until_cancelled(alone).await {
                Some(Ok(alone)) => {
                    let running = self.run_marked(executor, attempt, handle, alone);
                    // Boxed, like everything that is rare: a task is as large as the largest thing that it may do.
                    return Box::pin(running).await;
                }
                Some(Err(_)) => self.cannot_tell(delivery, "handlers run for too long to wait for"),
                // When halted, the event is only handed back.
                None => {}
            }
        }
        let _beside = self.beside().await;
        executor.run(attempt).await
    }

    /// While the guard is held, no suspect runs.
    pub(super) async fn beside(&self) -> RwLockReadGuard<'static, ()> {
        BESIDE.read().await
    }

    /// Attempts a suspect under its crash marker, or dead-letters it.
    async fn run_marked<S: Send + Sync + 'static, A: Acknowledger>(
        &self,
        executor: &Executor<S>,
        mut attempt: Attempt<'_, A>,
        handle: &AckHandle,
        alone: RwLockWriteGuard<'static, ()>,
    ) -> Disposition {
        let (delivery, halt) = (&*attempt.delivery, attempt.halt);
        let (stream, sequence) = (Arc::clone(&delivery.stream), delivery.sequence);
        let key = keys::crash_marker(&self.subscriber, &handle.passage());
        let disposition = match self.mark(&key, &stream, sequence).await {
            Ok(Marked::Tried) => {
                let unmark = async {
                    tracing::warn!(
                        subscriber = self.subscriber,
                        stream = &*stream,
                        sequence,
                        "suspected event slow: other events no longer wait for it"
                    );
                    self.clear(&key, halt).await;
                };
                let running = executor.run(attempt.reborrow());
                match run_alone(running, alone, unmark).await {
                    Ran::Alone(disposition) => disposition,
                    Ran::Beside(disposition) => return disposition,
                }
            }
            Ok(Marked::Quarantined(marker)) => {
                let letter = letter(&marker, attempt.delivery.past.failures);
                let ended = executor.dead_letter(attempt.reborrow(), letter).await;
                drop(alone);
                ended
            }
            Err(error) => {
                let subscriber = &self.subscriber;
                if let Some(unsaid) = self.unmarked.again(Instant::now()) {
                    tracing::error!(
                        subscriber, stream = &*stream, sequence, %error, unsaid,
                        "crash marker not written: the suspected event waits"
                    );
                }
                executor.pass(&attempt);
                return Disposition::RetryLocally(PAUSE);
            }
        };
        attempt.delivery.is_suspect = false;
        self.clear(&key, halt).await;
        disposition
    }

    fn cannot_tell(&self, delivery: &Delivery, why: &str) {
        let (stream, sequence) = (&delivery.stream, delivery.sequence);
        tracing::warn!(
            subscriber = self.subscriber,
            stream = &**stream,
            sequence,
            why,
            "suspected event not isolated: it runs beside other events"
        );
    }

    /// Writes, confirmed, that this process runs the event, unless too many processes have died of it.
    async fn mark(&self, key: &str, stream: &str, sequence: u64) -> Result<Marked, BusError> {
        let open = || self.bus.open_state(&self.like);
        self.bucket.get_or_try_init(open).await?;
        loop {
            let entry = self.bus.read_state(key).await?;
            let revision = entry.as_ref().map_or(0, |entry| entry.revision);
            let mut marker = entry.map(|entry| read(&entry.value)).unwrap_or_default();
            // This process is alive.
            marker.processes.retain(|process| *process != *PROCESS);
            if marker.processes.len() >= DEATHS {
                return Ok(Marked::Quarantined(marker));
            }
            let deaths = marker.processes.len();
            tracing::warn!(
                subscriber = self.subscriber,
                stream,
                sequence,
                deaths,
                "crash suspected: the event may have killed an earlier process, and runs alone"
            );
            marker.stream = stream.to_owned();
            marker.sequence = sequence;
            marker.since.get_or_insert_with(Utc::now);
            marker.processes.push(*PROCESS);
            // Texts and numbers always serialise.
            let value: Bytes = serde_json::to_vec(&marker).unwrap_or_default().into();
            let writing = self.bus.write_state_for(Some(KEPT), key, value, revision);
            if writing.await?.is_some() {
                return Ok(Marked::Tried);
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Removes the marker, confirmed: if it stayed, it would count as a death. Its content does not matter, because the
    /// process has outlived the event.
    async fn clear(&self, key: &str, halt: &CancellationToken) {
        loop {
            let Err(error) = self.bus.clear_state(EMPTY, key).await else {
                return;
            };
            let subscriber = &self.subscriber;
            if let Some(unsaid) = self.uncleared.again(Instant::now()) {
                tracing::warn!(subscriber, key, %error, unsaid, "crash marker not removed");
            }
            let pause = tokio::time::sleep(PAUSE);
            if halt.run_until_cancelled(pause).await.is_none() {
                return;
            }
        }
    }
}

/// Makes other events wait for a suspect, at most for `ALONE`. Then the marker is removed first, because a death is no
/// longer attributed to the suspect.
async fn run_alone<T>(
    running: impl Future<Output = T>,
    alone: RwLockWriteGuard<'_, ()>,
    unmark: impl Future<Output = ()>,
) -> Ran<T> {
    let mut running = pin!(running);
    if let Ok(done) = tokio::time::timeout(ALONE, &mut running).await {
        return Ran::Alone(done);
    }
    let release = async {
        unmark.await;
        drop(alone);
    };
    Ran::Beside(futures::join!(running, release).0)
}

fn letter(marker: &CrashMarker, failures: u32) -> DeadLetter {
    let deaths = marker.processes.len();
    let error = format!("the process died {deaths} times while only this event was being handled");
    let attempts = failures.saturating_add(u32::try_from(deaths).unwrap_or(u32::MAX));
    DeadLetter {
        first_failed_at: marker.since,
        ..DeadLetter::new(Cause::Crashed, &error, attempts)
    }
}

/// An empty or unreadable entry marks nothing.
fn read(value: &[u8]) -> CrashMarker {
    serde_json::from_slice(value).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use tokio::time::{Instant, sleep};

    use super::{Duration, Ran, RwLock, letter, read, run_alone};

    /// Runs a suspect that takes this long: how it ran, how long other events waited, and whether it was still marked
    /// then.
    async fn others_wait_for(suspect: Duration) -> (Ran<Duration>, Duration, bool) {
        let (began, beside, is_marked) = (Instant::now(), RwLock::new(()), Cell::new(true));
        let alone = beside.write().await;
        let running = async {
            sleep(suspect).await;
            began.elapsed()
        };
        let others = async {
            let _beside = beside.read().await;
            (began.elapsed(), is_marked.get())
        };
        let unmark = async {
            sleep(Duration::from_secs(1)).await;
            is_marked.set(false);
        };
        let running = run_alone(running, alone, unmark);
        let (ran, (waited, was_marked)) = futures::join!(running, others);
        (ran, waited, was_marked)
    }

    #[tokio::test(start_paused = true)]
    async fn others_wait_for_a_suspect_until_it_has_ended() {
        let long = Duration::from_secs(59);
        let (ran, waited, was_marked) = others_wait_for(long).await;
        assert!(matches!(ran, Ran::Alone(took) if took >= long));
        assert!(waited >= long && was_marked, "{waited:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn others_wait_a_minute_for_a_suspect_that_takes_hours() {
        let hours = Duration::from_secs(7_200);
        let (ran, waited, was_marked) = others_wait_for(hours).await;
        assert_eq!((waited.as_secs(), was_marked), (60 + 1, false));
        assert!(matches!(ran, Ran::Beside(took) if took >= hours));
    }

    #[test]
    fn fuzz_crash_markers() {
        let seed = r#"{"stream":"EVENTS","sequence":18446744073709551615,"since":"2026-11-21T09:30:00Z",
            "processes":["0190e6e4-7a3e-7c3e-9d3e-3b1f0d8a6a11"]}"#;
        tidings_fuzz::fuzz_json("crash marker", &[seed], |value| {
            let marker = read(value);
            let letter = letter(&marker, u32::MAX);
            assert_eq!(letter.attempts, u32::MAX);
            !marker.processes.is_empty()
        });
    }
}
