//! Whether attempts may begin while a dependency of the handlers may be down. A plain value: the time is passed in; it
//! never waits, and never dead-letters an event.
//!
//! Failures are counted over a sliding window, for each event name separately. When every name that was attempted in
//! the window keeps failing, more attempts would only use up the attempts of events: the circuit opens. Then one
//! attempt at a time, the probe, finds out whether the circuit may close.

mod adjust;
mod state;

use std::{
    fmt,
    time::{Duration, Instant},
};

pub use state::CircuitState;

/// The window is divided into this many slices, and moves by one slice at a time.
const SLICES: usize = 10;

/// When a subscriber stops pulling because its handlers fail, and how it resumes.
///
/// By default the circuit opens when, of at least 20 attempts within 30 s, 90 % have failed **of every event name**
/// that was attempted. A name whose handler works keeps the circuit closed, so that one kind of event that fails does
/// not stop the other kinds. The circuit stays open for 5 s; then one event is attempted, the probe. If the probe
/// succeeds, the circuit closes. If it fails, the circuit stays open for twice as long, up to 1 min. While a handler's
/// database is unavailable this time does not double: the attempt itself waits for the database.
///
/// Handlers that hang fail seldom: 16 at once with a timeout of 30 s make 16 attempts in 30 s. Therefore attempts that
/// are too slow for enough of them to end within the window, at the subscriber's concurrency, are counted over a longer
/// window. Its length follows from the concurrency and the timeout: with 16 at once and 30 s it is 135 s, and the
/// circuit opens after the second round. A single event that hangs does not fail often enough in that window.
///
/// Failures are errors, timeouts, panics and a database that does not answer. A rejected event is not a failure, and
/// neither is [`Failure::retry_after`](crate::Failure::retry_after): in both cases the handler has decided. While the
/// circuit is open, no event is dead-lettered for running out of attempts: a failed attempt does not count against its
/// event.
///
/// Each process has its own circuit for each of its subscribers.
///
/// ```
/// use std::time::Duration;
/// use tidings::CircuitBreaker;
///
/// let breaker = CircuitBreaker::default()
///     .share(50)
///     .within(Duration::from_secs(10), 100)
///     .open_for(Duration::from_secs(1), Duration::from_secs(30));
/// assert_ne!(breaker, CircuitBreaker::off());
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CircuitBreaker {
    percent: u8,
    window: Duration,
    attempts: u32,
    pause: Duration,
    longest: Duration,
}

impl CircuitBreaker {
    /// A circuit that never opens.
    #[must_use]
    pub fn off() -> Self {
        Self::default().within(Duration::from_secs(30), u32::MAX)
    }

    fn is_off(self) -> bool {
        self.attempts == u32::MAX
    }

    /// The percentage of attempts that must fail: 1 to 100, default 90. Retries are attempts too: a name of which one
    /// event in nine always fails has 50 failures in a hundred attempts.
    #[must_use]
    pub fn share(mut self, percent: u8) -> Self {
        self.percent = percent.clamp(1, 100);
        self
    }

    /// The window, and how many attempts it must contain; default 30 s and 20. Attempts that are too slow for that are
    /// counted over a longer window.
    #[must_use]
    pub fn within(mut self, window: Duration, attempts: u32) -> Self {
        self.window = window.max(Duration::from_millis(1));
        self.attempts = attempts.max(1);
        self
    }

    /// How long the circuit stays open at first, and at most after failed probes; default 5 s and 1 min.
    #[must_use]
    pub fn open_for(mut self, first: Duration, longest: Duration) -> Self {
        self.pause = first;
        self.longest = longest.max(first);
        self
    }
}

/// `off`, or such as `90% of 20 attempts in 30s, open for 5s to 60s`.
impl fmt::Display for CircuitBreaker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_off() {
            return f.write_str("off");
        }
        write!(
            f,
            "{}% of {} attempts in {:?}, open for {:?} to {:?}",
            self.percent, self.attempts, self.window, self.pause, self.longest
        )
    }
}

impl Default for CircuitBreaker {
    fn default() -> Self {
        Self {
            percent: 90,
            window: Duration::from_secs(30),
            attempts: 20,
            pause: Duration::from_secs(5),
            longest: Duration::from_secs(60),
        }
    }
}

/// How many attempts a subscriber makes at once, and how long one may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Load {
    pub(crate) concurrency: usize,
    pub(crate) timeout: Duration,
}

/// The state of one subscriber's circuit.
#[derive(Debug)]
pub(crate) struct Circuit {
    policy: CircuitBreaker,
    window: Window,
    /// Counts attempts that are too slow for the window; `None` when no attempt can be.
    slow: Option<Slow>,
    state: State,
    probes: u64,
}

#[derive(Debug)]
enum State {
    Closed,
    Open {
        until: Instant,
        pause: Duration,
        /// The number of the probe that is running.
        probe: Option<u64>,
    },
}

/// Which attempts may begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Gate {
    /// Closed: any attempt.
    Free,
    /// Half-open: one attempt.
    Probe,
    /// None before this moment.
    Until(Instant),
    /// None before the probe has ended.
    Probing,
}

/// Permission to begin one attempt; its owner reports how the attempt ended. The default value is the permit of any
/// attempt other than the probe.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Permit {
    probe: Option<u64>,
    began: Option<Instant>,
}

impl Permit {
    /// Whether the attempt is the probe, which decides whether the circuit may close.
    pub(crate) fn is_probe(self) -> bool {
        self.probe.is_some()
    }
}

/// How an attempt ended, as far as the circuit is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Attempted {
    /// The handler decided: handled, rejected, or retried after a time that the handler chose.
    Decided,
    /// It failed and would be retried.
    Failed,
    /// A dependency of the handler is unavailable. The attempt itself waits for it, so the pause need not grow.
    Away,
    /// It has no bearing on the circuit: handed back, or no handler was called.
    Void,
}

/// How the circuit changed when an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    /// The circuit opened: this many attempts in the window had failed.
    Opened {
        failed: u32,
        attempts: u32,
        pause: Duration,
    },
    /// The probe failed.
    StaysOpen { pause: Duration },
    /// The probe succeeded, or the circuit was switched off.
    Closed,
}

impl Circuit {
    pub(crate) fn new(policy: CircuitBreaker) -> Self {
        Self {
            policy,
            window: Window::new(policy.window),
            slow: None,
            state: State::Closed,
            probes: 0,
        }
    }

    /// Sets the load of the subscriber, from which the longer window follows.
    pub(crate) fn under(mut self, load: Load) -> Self {
        self.slow = Slow::of(self.policy, load);
        self
    }

    pub(crate) fn gate(&self, now: Instant) -> Gate {
        match self.state {
            State::Closed => Gate::Free,
            State::Open { probe: Some(_), .. } => Gate::Probing,
            State::Open { until, .. } if now < until => Gate::Until(until),
            State::Open { .. } => Gate::Probe,
        }
    }

    /// Whether a failure counts as an attempt of its event.
    pub(crate) fn counts_failures(&self) -> bool {
        matches!(self.state, State::Closed)
    }

    /// The state for status and logs.
    pub(crate) fn shown(&self, now: Instant) -> CircuitState {
        match self.gate(now) {
            Gate::Free => CircuitState::Closed,
            Gate::Until(_) => CircuitState::Open,
            Gate::Probe | Gate::Probing => CircuitState::HalfOpen,
        }
    }

    /// Begins one attempt, if one may begin.
    pub(crate) fn begin(&mut self, now: Instant) -> Option<Permit> {
        match (self.gate(now), &mut self.state) {
            (Gate::Free, _) => Some(Permit {
                probe: None,
                began: Some(now),
            }),
            (Gate::Probe, State::Open { probe, .. }) => {
                self.probes += 1;
                *probe = Some(self.probes);
                Some(Permit {
                    probe: *probe,
                    began: Some(now),
                })
            }
            _ => None,
        }
    }

    /// Records that an attempt at an event of this name has ended. An attempt that began before the circuit opened does
    /// not decide whether it closes.
    pub(crate) fn end(
        &mut self,
        permit: Permit,
        name: &str,
        ended: Attempted,
        now: Instant,
    ) -> Option<Change> {
        match &mut self.state {
            State::Closed => self.count(permit, name, ended, now),
            State::Open {
                until,
                pause,
                probe,
            } => {
                if probe.is_none() || *probe != permit.probe {
                    return None;
                }
                *probe = None;
                match ended {
                    Attempted::Void => None,
                    Attempted::Failed | Attempted::Away => {
                        if ended == Attempted::Failed {
                            *pause = (*pause * 2).min(self.policy.longest);
                        }
                        *until = now + *pause;
                        Some(Change::StaysOpen { pause: *pause })
                    }
                    Attempted::Decided => {
                        self.window = Window::new(self.policy.window);
                        self.slow.iter_mut().for_each(Slow::forget);
                        self.state = State::Closed;
                        Some(Change::Closed)
                    }
                }
            }
        }
    }

    fn count(
        &mut self,
        permit: Permit,
        name: &str,
        ended: Attempted,
        now: Instant,
    ) -> Option<Change> {
        let has_failed = match ended {
            Attempted::Void => return None,
            Attempted::Decided => false,
            Attempted::Failed | Attempted::Away => true,
        };
        self.window.count(name, has_failed, now);
        let took = permit
            .began
            .map(|began| now.saturating_duration_since(began));
        if let Some(slow) = &mut self.slow {
            slow.count(name, has_failed, took.unwrap_or_default(), now);
        }
        if !has_failed {
            return None;
        }
        let windows = [
            Some(&self.window),
            self.slow.as_ref().map(|slow| &slow.window),
        ];
        let mut windows = windows.into_iter().flatten();
        let all = windows.find_map(|window| window.opens(self.policy))?;
        let pause = self.policy.pause;
        self.state = State::Open {
            until: now + pause,
            pause,
            probe: None,
        };
        Some(Change::Opened {
            failed: all.failed,
            attempts: all.attempts,
            pause,
        })
    }
}

/// Attempts that are too slow for the window of the policy.
#[derive(Debug)]
struct Slow {
    /// Failures that took longer than this are counted here; successes are all counted.
    longer_than: Duration,
    length: Duration,
    window: Window,
}

impl Slow {
    /// The minimum number of rounds of attempts: there may be fewer events than could be handled at once.
    const ROUNDS: u32 = 3;

    /// `None` when no attempt is too slow: even attempts that time out end often enough for the window.
    fn of(policy: CircuitBreaker, load: Load) -> Option<Self> {
        let concurrency = u32::try_from(load.concurrency).unwrap_or(u32::MAX).max(1);
        let rounds = policy.attempts.div_ceil(concurrency).max(Self::ROUNDS);
        // The window may already have lost one slice, hence nine tenths.
        let longer_than = policy.window / 10 * 9 / (rounds - 1);
        let length = load.timeout.saturating_mul(rounds);
        let length = length.saturating_add(length / 2);
        (load.timeout > longer_than).then(|| Self {
            longer_than,
            length,
            window: Window::new(length),
        })
    }

    fn count(&mut self, name: &str, has_failed: bool, took: Duration, now: Instant) {
        if !has_failed || took > self.longer_than {
            self.window.count(name, has_failed, now);
        }
    }

    fn forget(&mut self) {
        self.window = Window::new(self.length);
    }
}

/// The attempts within a window, by event name.
#[derive(Debug)]
struct Window {
    slice: Duration,
    /// When the latest slice began, and its index.
    latest: Option<(Instant, usize)>,
    /// A list, because a subscriber has few names, and a list is faster than a map.
    names: Vec<(String, [Tally; SLICES])>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Tally {
    attempts: u32,
    failed: u32,
}

impl Tally {
    fn plus(self, other: &Self) -> Self {
        Self {
            attempts: self.attempts.saturating_add(other.attempts),
            failed: self.failed.saturating_add(other.failed),
        }
    }

    fn fails(self, percent: u8) -> bool {
        u64::from(self.failed) * 100 >= u64::from(self.attempts) * u64::from(percent)
    }
}

impl Window {
    fn new(window: Duration) -> Self {
        let slices = u32::try_from(SLICES).unwrap_or(u32::MAX);
        Self {
            slice: window / slices,
            latest: None,
            names: Vec::new(),
        }
    }

    fn count(&mut self, name: &str, has_failed: bool, now: Instant) {
        let slice = self.forget(now);
        let place = match self.names.iter().position(|(known, _)| known == name) {
            Some(place) => place,
            None => {
                self.names.push((name.to_owned(), Default::default()));
                self.names.len() - 1
            }
        };
        let tally = &mut self.names[place].1[slice];
        tally.attempts = tally.attempts.saturating_add(1);
        tally.failed = tally.failed.saturating_add(u32::from(has_failed));
    }

    /// Clears the slices that have expired, and returns the index of the current one.
    fn forget(&mut self, now: Instant) -> usize {
        let Some((mut began, mut slice)) = self.latest else {
            self.latest = Some((now, 0));
            return 0;
        };
        let mut cleared = 0;
        while now.saturating_duration_since(began) >= self.slice {
            if cleared == SLICES {
                began = now;
                break;
            }
            cleared += 1;
            began += self.slice;
            slice = (slice + 1) % SLICES;
            for (_, tallies) in &mut self.names {
                tallies[slice] = Tally::default();
            }
        }
        self.latest = Some((began, slice));
        slice
    }

    /// The attempts of all names, if they open the circuit.
    fn opens(&self, policy: CircuitBreaker) -> Option<Tally> {
        let all = self.all();
        let opens = all.attempts >= policy.attempts && self.each_fails(policy.percent);
        opens.then_some(all)
    }

    fn all(&self) -> Tally {
        let tallies = self.names.iter().flat_map(|(_, tallies)| tallies);
        tallies.fold(Tally::default(), Tally::plus)
    }

    /// Whether this percentage of the attempts has failed for every name. A name without attempts does not count.
    fn each_fails(&self, percent: u8) -> bool {
        let of_name =
            |tallies: &[Tally; SLICES]| tallies.iter().fold(Tally::default(), Tally::plus);
        self.names
            .iter()
            .all(|(_, tallies)| of_name(tallies).fails(percent))
    }
}

#[cfg(test)]
mod tests;
