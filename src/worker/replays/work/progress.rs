//! Writes the progress of a replay to the bucket, at most once a second. Never decides anything.

use chrono::Utc;
use tokio::time::Instant;

use super::Work;
use crate::{
    nats::BusError,
    observer::ReplayChange,
    policy::breaker::CircuitState,
    replay::{ReplayProgress, StreamProgress, tag::Count},
    worker::replays::issue::lasting,
};

impl<S: Send + Sync + 'static> Work<'_, S> {
    /// Notes the ack floors, so that events which ended since the last look count, too.
    pub(super) async fn note_floors(&mut self) {
        let streams = self.parts.iter().map(|part| part.range.stream.clone());
        for stream in streams.collect::<Vec<_>>() {
            match self
                .context
                .bus
                .consumer_state_of(&stream, &self.replay)
                .await
            {
                Ok(Some(state)) => self.note_floor(stream, state.floor),
                Ok(None) => {}
                Err(error) => tracing::debug!(stream, %error, "replay position unknown"),
            }
        }
    }

    pub(super) fn note_floor(&mut self, stream: String, floor: u64) {
        let range = self
            .replay
            .ranges
            .iter()
            .find(|range| range.stream == stream);
        // Messages beyond the range are acknowledged, too.
        let floor = range.map_or(floor, |range| floor.min(range.last));
        let streams = &mut self.progress.streams;
        match streams.iter_mut().find(|one| one.stream == stream) {
            Some(one) if one.floor >= floor => return,
            Some(one) => one.floor = floor,
            None => streams.push(StreamProgress { stream, floor }),
        }
        self.is_written = false;
    }

    /// Notes what keeps the replay from making progress. That may be that its consumers cannot be inspected.
    pub(super) fn note_issue(&mut self, unknown: Option<String>) {
        let stall = self.parts.iter().find_map(|part| part.in_flight.stall());
        let executor = &self.context.executor;
        let circuit = || {
            let circuit = executor.throttle().circuit();
            (circuit != CircuitState::Closed)
                .then(|| format!("the circuit of the subscriber is {circuit}"))
        };
        let why = stall.or(unknown).or_else(circuit);
        let why = why.or_else(|| executor.tally().why_unconfirmed());
        let before = self.progress.issue.take();
        let change = match (&before, &why) {
            (None, Some(why)) => Some(ReplayChange::Stalled { why }),
            (Some(_), None) => Some(ReplayChange::Continued),
            (None, None) | (Some(_), Some(_)) => None,
        };
        if let Some(change) = change {
            self.context.record(self.replay.id, change);
        }
        let now = why.map(|why| lasting(before.as_ref(), why));
        self.is_written &= now == before;
        self.progress.issue = now;
    }

    /// Writes the progress if it has changed. If the write fails, the next one includes it.
    pub(super) async fn write_progress(&mut self) {
        let mut progress = self.counted();
        self.written_at = Instant::now();
        if self.is_written && self.progress == progress {
            return;
        }
        progress.at = Utc::now();
        self.progress = progress;
        self.is_written = match self.put_progress().await {
            Ok(()) => true,
            Err(error) => {
                if self.unwritten.is_news(&error.to_string()) {
                    let (subscriber, id) = (&*self.context.name, self.replay.id);
                    tracing::warn!(subscriber, replay = %id, %error, "replay progress not written");
                }
                false
            }
        };
    }

    /// The progress with the present counts.
    fn counted(&self) -> ReplayProgress {
        let mut progress = self.progress.clone();
        for (what, count) in counts(&mut progress) {
            *count = self.counters().count(what);
        }
        if self.replay.request.rehearse {
            progress.rehearsal = Some(self.found.rehearsal().clone());
        }
        progress
    }

    /// Counts events that the streams had removed before they were delivered: no more than the streams have removed at
    /// all, because the last events of an instance that died may not be counted. Those are reported as uncounted.
    pub(super) async fn count_gone(&mut self) -> Result<(), BusError> {
        let uncounted = self
            .replay
            .events()
            .saturating_sub(self.counted().completed());
        if uncounted == 0 {
            return Ok(());
        }
        let (bus, mut removed) = (&self.context.bus, 0);
        let counter = self.replay.counter();
        for range in &self.replay.ranges {
            let (stream, names) = (&range.stream, &range.names);
            let from = |sequence| bus.count_from(stream, names, sequence, &counter);
            let (from_here, from_there) = (
                from(range.first).await?,
                from(range.last.saturating_add(1)).await?,
            );
            let left = from_here.saturating_sub(from_there);
            removed = range.events.saturating_sub(left).saturating_add(removed);
        }
        self.progress.gone = uncounted.min(removed);
        self.progress.uncounted = uncounted - self.progress.gone;
        self.is_written = false;
        Ok(())
    }

    pub(super) async fn put_progress(&mut self) -> Result<(), BusError> {
        let bus = &self.context.bus;
        loop {
            let writing = bus.write_replay_progress(&self.replay, &self.progress, self.revision);
            if let Some(revision) = writing.await? {
                self.revision = revision;
                return Ok(());
            }
            // The entry is its own, if the response was lost: no other instance writes while this one holds the lease.
            let entry = bus.replay_progress(&self.replay).await?;
            self.revision = entry.map_or(0, |entry| entry.revision);
        }
    }
}

/// Each count with its field in the progress.
pub(super) fn counts(progress: &mut ReplayProgress) -> [(Count, &mut u64); 7] {
    [
        (Count::Filtered, &mut progress.filtered),
        (Count::Skipped, &mut progress.skipped),
        (Count::Handled, &mut progress.handled),
        (Count::Duplicates, &mut progress.duplicates),
        (Count::Retried, &mut progress.retried),
        (Count::DeadLettered, &mut progress.dead_lettered),
        (Count::Suppressed, &mut progress.suppressed),
    ]
}
