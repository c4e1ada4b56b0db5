//! The counts of the relay of one outbox, as an observer of what it sends. Never waits longer than for another batch's
//! additions.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::SystemTime,
};

use chrono::{DateTime, Utc};

use super::{
    families as is,
    histogram::{DELAYS, Histogram},
    sheet::{Label, Sheet},
};
use crate::{
    observer::{BatchEnd, Blocked, Observation, Observer, Path},
    policy::issue_kind::IssueKind,
};

/// The most streams that have series of their own.
const MOST_STREAMS: usize = 100;
/// Stands for all other streams.
const OTHER: &str = "other";

pub(super) struct Relay {
    outbox: Label,
    streams: RwLock<BTreeMap<String, Arc<OfStream>>>,
    parked: [AtomicU64; BLOCKED.len()],
    interruptions: Mutex<BTreeMap<IssueKind, u64>>,
}

struct OfStream {
    stream: Label,
    batched: AtomicU64,
    single: AtomicU64,
    bytes: AtomicU64,
    confirmed: AtomicU64,
    refused: AtomicU64,
    unknown: AtomicU64,
    duration: Histogram,
    commit_to_stream: Histogram,
}

const BLOCKED: [(Blocked, &str); 3] = [
    (Blocked::Decision, "decision"),
    (Blocked::Stream, "stream"),
    (Blocked::Subject, "subject"),
];

impl Relay {
    pub(super) fn new(outbox: &str) -> Self {
        Self {
            outbox: outbox.into(),
            streams: RwLock::default(),
            parked: Default::default(),
            interruptions: Mutex::default(),
        }
    }

    pub(super) fn write(&self, sheet: &mut Sheet) {
        let of = &self.outbox;
        let streams = self.streams.read().unwrap_or_else(PoisonError::into_inner);
        for stream in streams.values() {
            stream.write(of, sheet);
        }
        for ((_, word), count) in BLOCKED.into_iter().zip(&self.parked) {
            sheet.count(&is::PARKED, [of, &word.into()], count.load(Relaxed));
        }
        let interruptions = self.interruptions.lock();
        for (kind, count) in &*interruptions.unwrap_or_else(PoisonError::into_inner) {
            let labels = [of, &kind.as_str().into()];
            sheet.count(&is::RELAY_INTERRUPTIONS, labels, *count);
        }
    }

    /// The streams that it has stored events in, as far as they have series of their own.
    pub(super) fn streams(&self) -> Vec<String> {
        let streams = self.streams.read().unwrap_or_else(PoisonError::into_inner);
        let names = streams.keys().filter(|name| *name != OTHER);
        names.cloned().collect()
    }

    fn batch(&self, end: BatchEnd<'_>) {
        let of = self.of(end.stream);
        let events = u64::try_from(end.events).unwrap_or(u64::MAX);
        if end.path == Path::Batch {
            let result = match end.refusal {
                None => &of.confirmed,
                Some(_) if end.is_unknown => &of.unknown,
                Some(_) => &of.refused,
            };
            result.fetch_add(1, Relaxed);
            of.duration.observe(end.elapsed.as_secs_f64());
        }
        if end.refusal.is_some() {
            return;
        }
        let stored = match end.path {
            Path::Batch => &of.batched,
            Path::Single => &of.single,
        };
        stored.fetch_add(events, Relaxed);
        let bytes = u64::try_from(end.bytes).unwrap_or(u64::MAX);
        of.bytes.fetch_add(bytes, Relaxed);
        let now: DateTime<Utc> = SystemTime::now().into();
        let mut waits = of.commit_to_stream.batch();
        (end.committed)(&mut |at| waits.observe((now - at).as_seconds_f64()));
        waits.end();
    }

    fn of(&self, stream: &str) -> Arc<OfStream> {
        let known = self.streams.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = known.get(stream) {
            return Arc::clone(known);
        }
        let is_full = known.len() >= MOST_STREAMS;
        drop(known);
        let stream = if is_full { OTHER } else { stream };
        let mut all = self.streams.write().unwrap_or_else(PoisonError::into_inner);
        let known = all.entry(stream.to_owned());
        Arc::clone(known.or_insert_with(|| Arc::new(OfStream::new(stream))))
    }
}

impl Observer for Relay {
    fn observe(&self, observation: &Observation<'_>) {
        match *observation {
            Observation::Batch(end) => self.batch(end),
            Observation::Interrupted { kind } => {
                let mut all = self
                    .interruptions
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner);
                *all.entry(kind).or_default() += 1;
            }
            Observation::Parked { blocked_on, events } => {
                let at = BLOCKED.iter().position(|(known, _)| *known == blocked_on);
                if let Some(count) = at.and_then(|at| self.parked.get(at)) {
                    let events = u64::try_from(events).unwrap_or(u64::MAX);
                    count.fetch_add(events, Relaxed);
                }
            }
            Observation::Arrived
            | Observation::Delivery(..)
            | Observation::DeadLetter(..)
            | Observation::Replay { .. }
            | Observation::Key { .. }
            | Observation::Lease { .. }
            | Observation::Circuit { .. } => {}
        }
    }
}

impl OfStream {
    fn new(stream: &str) -> Self {
        Self {
            stream: stream.into(),
            batched: AtomicU64::new(0),
            single: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            confirmed: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            unknown: AtomicU64::new(0),
            duration: Histogram::new(DELAYS),
            commit_to_stream: Histogram::new(DELAYS),
        }
    }

    fn write(&self, outbox: &Label, sheet: &mut Sheet) {
        let stream = &self.stream;
        for (path, count) in [("batch", &self.batched), ("single", &self.single)] {
            let labels = [outbox, stream, &path.into()];
            sheet.count(&is::RELAY_EVENTS, labels, count.load(Relaxed));
        }
        let bytes = self.bytes.load(Relaxed);
        sheet.count(&is::RELAY_BYTES, [outbox, stream], bytes);
        for (result, count) in [
            ("confirmed", &self.confirmed),
            ("refused", &self.refused),
            ("unknown", &self.unknown),
        ] {
            let labels = [outbox, stream, &result.into()];
            sheet.count(&is::RELAY_BATCHES, labels, count.load(Relaxed));
        }
        let duration = self.duration.snapshot();
        sheet.histogram(&is::RELAY_BATCH_DURATION, [outbox, stream], duration);
        let waits = self.commit_to_stream.snapshot();
        sheet.histogram(&is::COMMIT_TO_STREAM, [outbox, stream], waits);
    }
}
