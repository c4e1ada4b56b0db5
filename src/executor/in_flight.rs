//! The handlers that a worker is calling, for a thread that checks whether they return. Never calls one.
//!
//! A handler that waits returns control of its thread between two polls. A handler that spends seconds inside a single
//! poll blocks its thread: nothing else runs there, and nothing can end it.

use std::{
    collections::HashMap,
    fmt,
    pin::pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use tidings_contract::{Envelope, EventId};

use crate::log::short;

/// The maximum number of handlers that are named.
const MOST: usize = 10;

/// The calls of one worker.
pub(crate) struct InFlight {
    began: Instant,
    calls: Mutex<Calls>,
}

/// Entries are reused, so that a call allocates nothing.
#[derive(Default)]
struct Calls {
    places: Vec<Place>,
    free: Vec<usize>,
}

struct Place {
    /// Since when the call is inside a poll, in milliseconds, from 1; 0 when it is not inside one.
    polled: Arc<AtomicU64>,
    call: Option<Call>,
}

struct Call {
    subscriber: Arc<str>,
    event: Arc<Envelope>,
    /// The number of its events.
    events: usize,
    since: Instant,
}

/// One call, for as long as it exists.
pub(crate) struct Running<'a> {
    all: &'a InFlight,
    place: usize,
    polled: Arc<AtomicU64>,
}

/// The call of a subscriber that has run for the longest; of a batch, its first event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Oldest {
    pub(crate) name: String,
    pub(crate) event: EventId,
    pub(crate) lasts: Duration,
}

/// Handlers that have not returned, for a log line.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct NotBack {
    named: Vec<String>,
    others: usize,
}

impl Default for InFlight {
    fn default() -> Self {
        Self {
            began: Instant::now(),
            calls: Mutex::default(),
        }
    }
}

impl InFlight {
    /// Registers a call of a handler with this many events, of which this is the first.
    pub(crate) fn begin(
        &self,
        subscriber: &Arc<str>,
        event: &Arc<Envelope>,
        events: usize,
    ) -> Running<'_> {
        let call = Call {
            subscriber: Arc::clone(subscriber),
            event: Arc::clone(event),
            events,
            since: Instant::now(),
        };
        let mut calls = self.calls();
        let place = calls.free.pop().unwrap_or_else(|| {
            let (polled, call) = (Arc::default(), None);
            calls.places.push(Place { polled, call });
            calls.places.len() - 1
        });
        let free = &mut calls.places[place];
        free.call = Some(call);
        let polled = Arc::clone(&free.polled);
        drop(calls);
        Running {
            all: self,
            place,
            polled,
        }
    }

    /// Since when each call has been inside a poll, by its entry; only calls inside a poll.
    pub(crate) fn polled(&self) -> HashMap<usize, u64> {
        let calls = self.calls();
        let polled = calls.places.iter().enumerate();
        let polled = polled.map(|(place, it)| (place, it.polled.load(Relaxed)));
        polled.filter(|(_, since)| *since > 0).collect()
    }

    /// The calls of these entries, the longest running first.
    pub(crate) fn named(&self, places: &[usize]) -> NotBack {
        self.not_back(|place| places.contains(&place))
    }

    /// The call of this subscriber that has run for the longest.
    pub(crate) fn oldest_of(&self, subscriber: &str) -> Option<Oldest> {
        let calls = self.calls();
        let all = calls.places.iter().filter_map(|place| place.call.as_ref());
        let its = all.filter(|call| *call.subscriber == *subscriber);
        let oldest = its.min_by_key(|call| call.since)?;
        Some(Oldest {
            name: short(oldest.event.name().as_str()).into_owned(),
            event: oldest.event.id(),
            lasts: oldest.since.elapsed(),
        })
    }

    /// All calls.
    pub(crate) fn all(&self) -> NotBack {
        self.not_back(|_| true)
    }

    fn not_back(&self, which: impl Fn(usize) -> bool) -> NotBack {
        let calls = self.calls();
        let places = calls.places.iter().enumerate();
        let places = places.filter(|(place, _)| which(*place));
        let mut found: Vec<&Call> = places.filter_map(|(_, it)| it.call.as_ref()).collect();
        found.sort_by_key(|call| call.since);
        NotBack {
            named: found.iter().take(MOST).map(|call| call.text()).collect(),
            others: found.len().saturating_sub(MOST),
        }
    }

    fn now(&self) -> u64 {
        let millis = self.began.elapsed().as_millis();
        u64::try_from(millis).unwrap_or(u64::MAX).saturating_add(1)
    }

    fn calls(&self) -> MutexGuard<'_, Calls> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Call {
    fn text(&self) -> String {
        let Self {
            subscriber,
            event,
            events,
            since,
        } = self;
        let (name, id) = (short(event.name().as_str()), event.id());
        let since = Duration::from_secs(since.elapsed().as_secs());
        match events {
            1 => format!("{subscriber}: {name} {id} for {since:?}"),
            more => format!("{subscriber}: {more} events from {name} {id} for {since:?}"),
        }
    }
}

impl Running<'_> {
    /// Runs a part of the call that does not wait.
    pub(crate) fn inside<T>(&self, part: impl FnOnce() -> T) -> T {
        self.polled.store(self.all.now(), Relaxed);
        let done = part();
        self.polled.store(0, Relaxed);
        done
    }

    /// Runs the part of the call that waits.
    pub(crate) async fn watched<T>(&self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        std::future::poll_fn(|cx| self.inside(|| work.as_mut().poll(cx))).await
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        // A panic may have left it set.
        self.polled.store(0, Relaxed);
        let mut calls = self.all.calls();
        calls.places[self.place].call = None;
        calls.free.push(self.place);
    }
}

impl NotBack {
    pub(crate) fn is_nothing(&self) -> bool {
        self.named.is_empty()
    }
}

impl fmt::Display for NotBack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.others {
            0 => f.write_str(&self.named.join("; ")),
            others => write!(f, "{}; and {others} more", self.named.join("; ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_call_is_inside_a_poll_only_while_it_runs() {
        let all = InFlight::default();
        let (subscriber, event) = ("w".into(), Envelope::raw("a.b", 1, None, "{}").unwrap());
        let event = Arc::new(event);
        let running = all.begin(&subscriber, &event, 1);
        let work = async {
            let inside = all.polled().len();
            tokio::task::yield_now().await;
            inside
        };
        let both = futures::join!(running.watched(work), async { all.polled().len() });
        assert_eq!(both, (1, 0));
        let named = all.named(&[running.place]).to_string();
        assert!(
            named.starts_with(&format!("w: a.b {}", event.id())),
            "{named}"
        );
        drop(running);
        assert!(all.all().is_nothing());
        let many: Vec<_> = (0..12).map(|_| all.begin(&subscriber, &event, 3)).collect();
        let text = all.all().to_string();
        assert!(
            text.contains("3 events from") && text.ends_with("and 2 more"),
            "{text}"
        );
        drop(many);
        assert_eq!(all.calls().places.len(), 12, "places are used again");
    }
}
