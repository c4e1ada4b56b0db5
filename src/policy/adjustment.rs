//! Settings that change while a worker runs: which ones, and the bounds of their values, which the builders and the
//! configuration keep too. Plain values: changes nothing.

use std::{fmt, ops::RangeInclusive, time::Duration};

use super::{breaker::CircuitBreaker, rate::Rate};

/// How many events of one stream a subscriber may handle at once: as many deliveries as the server leaves ack pending.
pub(crate) const CONCURRENCY: Bounds<usize> =
    Bounds(1..=10_000, "write a whole number from 1 to 10000");
/// How many events an atomic batch may have: the server's limit.
const BATCH: Bounds<usize> = Bounds(1..=1000, "write a whole number from 1 to 1000");
/// A shorter lease cannot be renewed in time, and with a longer one nothing is relayed for too long after a relay dies.
const LEASE: Bounds<Duration> = Bounds(
    Duration::from_millis(100)..=Duration::from_secs(3600),
    "write 100ms to 1h: a standby waits for this long when a relay dies",
);
/// What is longer makes no difference, and no database can count it.
const LONGEST: Duration = Duration::from_secs(100 * 365 * 86_400);
const RETENTION: Bounds<Duration> =
    Bounds(Duration::ZERO..=LONGEST, "write at most 100 years, 36500d");
const STALL_TIMEOUT: Bounds<Duration> = Bounds(
    Duration::from_millis(1)..=LONGEST,
    "write 1ms to 100 years, 36500d",
);

/// The values that a setting takes, and what to write instead of another one.
pub(crate) struct Bounds<T>(RangeInclusive<T>, &'static str);

/// New values for settings of what a worker runs; see [`WorkerHandle::adjust`](crate::worker::WorkerHandle::adjust). A
/// setting without a new value stays as it is.
///
/// ```
/// use std::time::Duration;
/// use tidings::{Rate, worker::Adjustment};
///
/// let slower = Adjustment::subscriber("welcome-email")
///     .concurrency(4)
///     .rate_limit(Rate::per_second(10));
/// let smaller = Adjustment::relay().batch(100).retention(Duration::from_secs(3600));
/// # let _ = (slower, smaller);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Adjustment {
    /// Of a subscriber.
    Subscriber(SubscriberAdjustment),
    /// Of a relay.
    Relay(RelayAdjustment),
}

/// New values for the settings of a subscriber; made by [`Adjustment::subscriber`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubscriberAdjustment {
    pub(crate) name: String,
    pub(crate) concurrency: Option<usize>,
    pub(crate) rate: Option<Option<Rate>>,
    pub(crate) breaker: Option<CircuitBreaker>,
}

/// New values for the settings of a relay; made by [`Adjustment::relay`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RelayAdjustment {
    pub(crate) outbox: Option<String>,
    pub(crate) lease: Option<Duration>,
    pub(crate) batch: Option<usize>,
    pub(crate) retention: Option<Duration>,
    pub(crate) stall_timeout: Option<Duration>,
}

/// Why nothing was adjusted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AdjustError {
    /// A value is invalid.
    #[error("{setting} cannot be {value}: {reason}")]
    Invalid {
        /// The setting.
        setting: &'static str,
        /// The value.
        value: String,
        /// Why it is invalid.
        reason: &'static str,
    },
    /// The worker runs no subscriber of this name, or does not run yet.
    #[error("the worker runs no subscriber {0}")]
    NoSubscriber(String),
    /// The worker has no relay, or none of this outbox.
    #[error("the worker has no relay{}", of_outbox(.0.as_deref()))]
    NoRelay(Option<String>),
}

fn of_outbox(schema: Option<&str>) -> String {
    schema.map_or_else(String::new, |schema| format!(" of the outbox {schema}"))
}

/// A setting that has changed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Changed {
    pub(crate) setting: &'static str,
    pub(crate) old: String,
    pub(crate) new: String,
}

/// The settings of a relay that can change while it runs.
#[cfg(feature = "outbox")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RelayTuning {
    pub(crate) lease: Duration,
    pub(crate) batch: usize,
    pub(crate) retention: Duration,
    pub(crate) stall_timeout: Duration,
}

impl Adjustment {
    /// New values for the subscriber of this name.
    #[must_use]
    pub fn subscriber(name: impl Into<String>) -> SubscriberAdjustment {
        SubscriberAdjustment {
            name: name.into(),
            concurrency: None,
            rate: None,
            breaker: None,
        }
    }

    /// New values for each relay of the worker.
    #[must_use]
    pub fn relay() -> RelayAdjustment {
        RelayAdjustment::default()
    }

    pub(crate) fn check(&self) -> Result<(), AdjustError> {
        match self {
            Self::Subscriber(subscriber) => subscriber.check(),
            Self::Relay(relay) => relay.check(),
        }
    }

    /// The error when the process does not run what it concerns.
    pub(crate) fn unmatched(&self) -> AdjustError {
        match self {
            Self::Subscriber(subscriber) => AdjustError::NoSubscriber(subscriber.name.clone()),
            Self::Relay(relay) => AdjustError::NoRelay(relay.outbox.clone()),
        }
    }
}

impl SubscriberAdjustment {
    /// How many events of one stream are handled at once: 1 to 10 000; with batch handlers, how many batches. More
    /// begin at once. When it is lower, running attempts end by themselves, and no others begin before.
    #[must_use]
    pub fn concurrency(mut self, concurrency: usize) -> Self {
        self.concurrency = Some(concurrency);
        self
    }

    /// How many attempts begin per time.
    #[must_use]
    pub fn rate_limit(mut self, rate: Rate) -> Self {
        self.rate = Some(Some(rate));
        self
    }

    /// Removes the limit of attempts per time.
    #[must_use]
    pub fn no_rate_limit(mut self) -> Self {
        self.rate = Some(None);
        self
    }

    /// When it stops pulling because its handlers fail. A circuit that is open stays open until a probe succeeds, but
    /// not longer than the new breaker says; with [`CircuitBreaker::off`] it closes.
    #[must_use]
    pub fn circuit_breaker(mut self, breaker: CircuitBreaker) -> Self {
        self.breaker = Some(breaker);
        self
    }

    /// Checks the values, as an adjustment does before it changes anything.
    ///
    /// # Errors
    /// [`AdjustError::Invalid`] for the first one that is out of its bounds.
    pub fn check(&self) -> Result<(), AdjustError> {
        CONCURRENCY.check(self.concurrency, "concurrency")
    }
}

impl RelayAdjustment {
    /// Only of the relay of this outbox: the schema, or the prefix of its tables.
    #[must_use]
    pub fn of_outbox(mut self, schema: impl Into<String>) -> Self {
        self.outbox = Some(schema.into());
        self
    }

    /// How long a standby waits for a relay that died: 100 ms to 1 h. A relay that has the lease takes it again.
    #[must_use]
    pub fn lease(mut self, lease: Duration) -> Self {
        self.lease = Some(lease);
        self
    }

    /// The most events of one atomic batch: 1 to 1000. A relay that has the lease finishes what is in flight and
    /// takes the lease again, which takes some milliseconds.
    #[must_use]
    pub fn batch(mut self, events: usize) -> Self {
        self.batch = Some(events);
        self
    }

    /// How long confirmed events stay in the outbox at least.
    #[must_use]
    pub fn retention(mut self, retention: Duration) -> Self {
        self.retention = Some(retention);
        self
    }

    /// How long a stream that accepts no events may delay the events of other streams; more than 0.
    #[must_use]
    pub fn stall_timeout(mut self, stall_timeout: Duration) -> Self {
        self.stall_timeout = Some(stall_timeout);
        self
    }

    /// Checks the values, as an adjustment does before it changes anything.
    ///
    /// # Errors
    /// [`AdjustError::Invalid`] for the first one that is out of its bounds.
    pub fn check(&self) -> Result<(), AdjustError> {
        LEASE.check(self.lease, "lease")?;
        BATCH.check(self.batch, "batch")?;
        RETENTION.check(self.retention, "retention")?;
        STALL_TIMEOUT.check(self.stall_timeout, "stall_timeout")
    }
}

#[cfg(feature = "outbox")]
impl RelayTuning {
    /// The same with each value that is out of its bounds at the nearest one.
    pub(crate) fn bounded(self) -> Self {
        Self {
            lease: LEASE.nearest(self.lease),
            batch: BATCH.nearest(self.batch),
            retention: RETENTION.nearest(self.retention),
            stall_timeout: STALL_TIMEOUT.nearest(self.stall_timeout),
        }
    }

    /// Takes the new values over; returns what has changed.
    pub(crate) fn adjust(&mut self, to: &RelayAdjustment) -> Vec<Changed> {
        let mut changed = Vec::new();
        let mut duration = |setting, value: &mut Duration, new: Option<Duration>| {
            let new = new.unwrap_or(*value);
            let old = std::mem::replace(value, new);
            changed.extend(Changed::new(setting, &Shown(old), &Shown(new)));
        };
        duration("lease", &mut self.lease, to.lease);
        duration("retention", &mut self.retention, to.retention);
        duration("stall_timeout", &mut self.stall_timeout, to.stall_timeout);
        let batch = to.batch.unwrap_or(self.batch);
        changed.extend(Changed::new("batch", &self.batch, &batch));
        self.batch = batch;
        changed
    }

    /// Whether a relay has to take the lease again to work with the other values.
    pub(crate) fn needs_new_tenure(&self, other: &Self) -> bool {
        (self.lease, self.batch) != (other.lease, other.batch)
    }
}

impl Changed {
    /// `None` when both are the same.
    pub(crate) fn new<T: fmt::Display>(setting: &'static str, old: &T, new: &T) -> Option<Self> {
        let (old, new) = (old.to_string(), new.to_string());
        (old != new).then_some(Self { setting, old, new })
    }
}

/// A duration as it is shown.
#[derive(Clone, Copy)]
struct Shown(Duration);

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

impl Bounds<usize> {
    pub(crate) const fn most(&self) -> usize {
        *self.0.end()
    }
}

impl<T: Ord + Copy + fmt::Debug> Bounds<T> {
    /// The value, or the bound that is nearest to it.
    pub(crate) fn nearest(&self, value: T) -> T {
        let Self(range, _) = self;
        value.clamp(*range.start(), *range.end())
    }

    fn check(&self, value: Option<T>, setting: &'static str) -> Result<(), AdjustError> {
        let Self(range, reason) = self;
        match value {
            Some(value) if !range.contains(&value) => Err(AdjustError::Invalid {
                setting,
                value: format!("{value:?}"),
                reason,
            }),
            _ => Ok(()),
        }
    }
}

impl From<SubscriberAdjustment> for Adjustment {
    fn from(subscriber: SubscriberAdjustment) -> Self {
        Self::Subscriber(subscriber)
    }
}

impl From<RelayAdjustment> for Adjustment {
    fn from(relay: RelayAdjustment) -> Self {
        Self::Relay(relay)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(adjustment: impl Into<Adjustment>) -> String {
        match adjustment.into().check() {
            Ok(()) => String::new(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn an_invalid_value_is_refused_with_its_setting() {
        let ms = Duration::from_millis;
        for concurrency in [0, 10_001] {
            let said = refused(Adjustment::subscriber("a").concurrency(concurrency));
            assert_eq!(
                said,
                format!(
                    "concurrency cannot be {concurrency}: write a whole number from 1 to 10000"
                )
            );
        }
        for (adjustment, setting) in [
            (Adjustment::relay().batch(0), "batch cannot be 0"),
            (Adjustment::relay().batch(1001), "batch cannot be 1001"),
            (Adjustment::relay().lease(ms(99)), "lease cannot be 99ms"),
            (Adjustment::relay().lease(ms(3_600_001)), "lease cannot be"),
            (
                Adjustment::relay().stall_timeout(ms(0)),
                "stall_timeout cannot be 0ns",
            ),
            (
                Adjustment::relay().retention(Duration::MAX),
                "retention cannot be",
            ),
        ] {
            let said = refused(adjustment.clone());
            assert!(said.starts_with(setting), "{adjustment:?}: {said:?}");
        }
        assert_eq!(refused(Adjustment::subscriber("a").concurrency(1)), "");
        let relay = Adjustment::relay().batch(1000).lease(ms(100));
        assert_eq!(refused(relay.retention(ms(0)).stall_timeout(ms(1))), "");
    }

    #[cfg(feature = "outbox")]
    #[test]
    fn lease_and_batch_need_a_new_tenure() {
        let before = RelayTuning {
            lease: Duration::from_secs(5),
            batch: 1000,
            retention: Duration::from_secs(60),
            stall_timeout: Duration::from_secs(5),
        };
        let mut tuning = before;
        let kept = Adjustment::relay().retention(Duration::from_secs(30));
        let changed = tuning.adjust(&kept.lease(before.lease));
        let [changed] = &changed[..] else {
            panic!("{changed:?}")
        };
        assert_eq!(
            (changed.setting, &*changed.old, &*changed.new),
            ("retention", "60s", "30s")
        );
        assert!(!tuning.needs_new_tenure(&before));
        assert_eq!(tuning.adjust(&Adjustment::relay().batch(10)).len(), 1);
        assert!(tuning.needs_new_tenure(&before));
    }
}
