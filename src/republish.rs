//! Publishing again what the outbox still keeps: the rows that are named, in the order in which they were written.
//! Never a row that the relay has yet to publish, and never twice into a stream unless that is forced.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    hash::{BuildHasher, RandomState},
};

use chrono::{DateTime, Utc};
use serde::Serialize;
use tidings_contract::{EventId, Name};

use crate::{
    bus::Bus,
    outbox::{Ends, Outbox, Passed, Range, Relayed, RepublishError, Sender, Sending, Store, Way},
    rate::Rate,
};

/// Publishes rows of the outbox again; by default only what their streams do not hold.
///
/// ```no_run
/// use tidings::{Bus, Outbox, Rate, Republish};
///
/// # async fn example(bus: Bus, outbox: Outbox<sqlx::Postgres>) -> Result<(), tidings::RepublishError> {
/// let done = Republish::new(&bus, &outbox)
///     .since(chrono::Utc::now() - chrono::TimeDelta::hours(2))
///     .name("user.created")
///     .rate(Rate::per_second(500))
///     .run()
///     .await?;
/// println!("{} of {} were missing", done.events(), done.rows);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Republish<DB: Store> {
    bus: Bus,
    outbox: Outbox<DB>,
    range: Range,
    is_missing_only: bool,
    prefix: Option<String>,
    rate: Option<Rate>,
    is_forced: bool,
}

/// What was published again, or would be.
#[derive(Debug, Clone, Default, Serialize)]
#[non_exhaustive]
pub struct Republished {
    /// The rows that were named, that the outbox keeps, and that the relay has passed.
    pub rows: u64,
    /// How many of them the streams hold already; not counted where that makes no difference.
    pub held: u64,
    /// How many of them no stream has ever confirmed: `outbox discard` leaves such. They are left out.
    pub unconfirmed: u64,
    /// Those that are to be published: how many, and the first and the last of their places in the outbox.
    pub wanted: u64,
    /// The first place.
    pub first: Option<i64>,
    /// The last place.
    pub last: Option<i64>,
    /// How many of them lie behind later ones of their key in the stream, at most.
    pub late: u64,
    /// How many were published, by stream.
    pub republished: BTreeMap<String, u64>,
    /// Rows that the outbox has let go of meanwhile.
    pub gone: u64,
}

impl Republished {
    /// How many events were published again.
    #[must_use]
    pub fn events(&self) -> u64 {
        self.republished.values().sum()
    }
}

/// The rows that are to be published.
#[derive(Default)]
struct Plan {
    places: Vec<i64>,
    ends: Ends,
    told: Republished,
}

/// The rows of one stream.
#[derive(Default)]
struct Rows {
    events: HashMap<EventId, i64>,
    first: Option<i64>,
}

impl<DB: Store> Republish<DB> {
    /// Everything that the outbox keeps.
    #[must_use]
    pub fn new(bus: &Bus, outbox: &Outbox<DB>) -> Self {
        Self {
            bus: bus.clone(),
            outbox: outbox.clone(),
            range: Range::default(),
            is_missing_only: false,
            prefix: None,
            rate: None,
            is_forced: false,
        }
    }

    /// Only what was written then or later.
    #[must_use]
    pub fn since(mut self, time: DateTime<Utc>) -> Self {
        self.range.since = Some(time);
        self
    }

    /// Only what was written then or before.
    #[must_use]
    pub fn until(mut self, time: DateTime<Utc>) -> Self {
        self.range.until = Some(time);
        self
    }

    /// Only from this place of the outbox on.
    #[must_use]
    pub fn from_row(mut self, id: i64) -> Self {
        self.range.first = id;
        self
    }

    /// Only up to this place of the outbox.
    #[must_use]
    pub fn to_row(mut self, id: i64) -> Self {
        self.range.last = id;
        self
    }

    /// Only events of this name; call it again for another one.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.range.names.push(name.into());
        self
    }

    /// Only events of this key.
    #[must_use]
    pub fn key(mut self, key: impl Into<String>) -> Self {
        self.range.key = Some(key.into());
        self
    }

    /// Only what the stream that they go to does not hold. Into their own streams that is so anyway.
    #[must_use]
    pub fn missing(mut self) -> Self {
        self.is_missing_only = true;
        self
    }

    /// To the subjects `prefix.name`, which a stream has to take, and not to their own.
    #[must_use]
    pub fn into_prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = Some(prefix.into());
        self
    }

    /// At most so many events in a time; default as fast as it goes.
    #[must_use]
    pub fn rate(mut self, rate: Rate) -> Self {
        self.rate = Some(rate);
        self
    }

    /// Also what a stream holds already: it is there twice then, and consumers without an inbox handle it twice.
    #[must_use]
    pub fn force(mut self) -> Self {
        self.is_forced = true;
        self
    }

    /// What [`Republish::run`] would publish.
    ///
    /// # Errors
    /// [`RepublishError`] when that cannot be found out, or a subject is taken by no stream.
    pub async fn dry_run(&self) -> Result<Republished, RepublishError> {
        Ok(self.plan().await?.told)
    }

    /// Publishes, and returns when everything is stored and written down. The relay may go on meanwhile.
    ///
    /// # Errors
    /// [`RepublishError`]; what was published until then is there. Without [`Republish::force`] the same again
    /// goes on with what is left.
    ///
    /// # Cancel safety
    /// What is on its way may be stored.
    pub async fn run(&self) -> Result<Republished, RepublishError> {
        let sending = Sending {
            prefix: self.prefix.clone(),
            is_forced: self.is_forced || self.prefix.is_some() && !self.is_missing_only,
            interval: self.rate.map(Rate::interval),
        };
        let mut sender = Sender::begin(&self.bus, &self.outbox, sending).await?;
        let sent = self.send(&mut sender).await;
        let ended = sender.end().await;
        let mut told = sent?;
        told.republished = ended?;
        Ok(told)
    }

    async fn send(&self, sender: &mut Sender<DB>) -> Result<Republished, RepublishError> {
        let Plan {
            places,
            ends,
            mut told,
        } = self.plan().await?;
        sender.behind(ends);
        let read = sender.send(&places).await?;
        told.gone = places.len() as u64 - read;
        Ok(told)
    }

    async fn plan(&self) -> Result<Plan, RepublishError> {
        let passed = self.outbox.passed().await?;
        let looks = !self.is_forced && (self.prefix.is_none() || self.is_missing_only);
        let mut plan = Plan::default();
        let mut streams: HashMap<String, String> = HashMap::new();
        let mut rows: BTreeMap<String, Rows> = BTreeMap::new();
        let mut order = self.sees_what_follows().then(KeyOrder::default);
        let mut pages = self.outbox.walk(&self.range, &passed, None);
        while let Some(page) = pages.next().await? {
            for row in page {
                if !streams.contains_key(&row.name) {
                    let stream = self.stream_of(&row.name).await?;
                    rows.entry(stream.clone()).or_default();
                    streams.insert(row.name.clone(), stream);
                }
                plan.told.rows += 1;
                if let Some(order) = &mut order {
                    order.add(&row);
                }
                let stream = streams.get(&row.name).filter(|_| looks);
                if let Some(rows) = stream.and_then(|stream| rows.get_mut(stream)) {
                    rows.first.get_or_insert(row.id);
                    rows.events.insert(row.event, row.id);
                } else {
                    plan.places.push(row.id);
                }
            }
        }
        rows.retain(|_, rows| !rows.events.is_empty());
        for (stream, rows) in rows {
            let left = self.not_held(&stream, rows, &mut plan).await?;
            plan.places.extend(left);
        }
        plan.places.sort_unstable();
        plan.told.wanted = plan.places.len() as u64;
        plan.told.first = plan.places.first().copied();
        plan.told.last = plan.places.last().copied();
        if self.prefix.is_none() {
            plan.told.late = match order {
                Some(order) => order.late(&plan.places),
                None => self.late(&plan.places, &passed).await?,
            };
        }
        Ok(plan)
    }

    async fn stream_of(&self, name: &str) -> Result<String, RepublishError> {
        let subject = match &self.prefix {
            Some(prefix) => format!("{prefix}.{name}"),
            None => name.to_owned(),
        };
        if Name::parse(&subject).is_err() {
            return Err(RepublishError::NoStream { subject });
        }
        let stream = self.bus.stream_of(&subject).await?;
        stream.ok_or(RepublishError::NoStream { subject })
    }

    /// The rows that a stream does not hold.
    async fn not_held(
        &self,
        stream: &str,
        rows: Rows,
        plan: &mut Plan,
    ) -> Result<Vec<i64>, RepublishError> {
        let Rows { mut events, first } = rows;
        let first = first.unwrap_or(0);
        let Some(state) = self.bus.stream_state(stream).await? else {
            return Err(RepublishError::Changed {
                stream: stream.to_owned(),
            });
        };
        plan.ends.insert(stream.to_owned(), state.last_sequence);
        let beginnings = self.outbox.beginnings(first).await?;
        let from = beginnings.iter().find(|beginning| {
            beginning.stream == stream && beginning.incarnation == state.incarnation
        });
        // What was copied is not in the ledger's beginnings.
        let from = from.filter(|_| self.prefix.is_none());
        let from = from.map_or(1, |beginning| beginning.sequence);
        let payloads: Option<RandomState> = None;
        let read = self
            .bus
            .read_stored(stream, from, state.last_sequence, payloads);
        let mut messages = read.await?;
        while !events.is_empty()
            && let Some(message) = messages.next().await?
        {
            if events.remove(&message.event).is_some() {
                plan.told.held += 1;
            }
        }
        let mut left: Vec<i64> = events.into_values().collect();
        left.sort_unstable();
        if self.prefix.is_none() {
            let wanted = left.len();
            left = self.confirmed(left).await?;
            plan.told.unconfirmed += (wanted - left.len()) as u64;
        }
        Ok(left)
    }

    /// Those of the rows that the ledger knows.
    async fn confirmed(&self, places: Vec<i64>) -> Result<Vec<i64>, RepublishError> {
        let mut known = vec![false; places.len()];
        let mut discarded = Vec::new();
        let mut behind = places.first().map_or(i64::MAX, |first| first - 1);
        while places.last().is_some_and(|last| behind < *last) {
            let entries = self.outbox.entries(behind).await?;
            let Some(last) = entries.last() else { break };
            behind = last.last_id;
            for entry in &entries {
                if entry.way == Way::Discarded {
                    discarded.push(entry.first_id);
                }
                let (first, last) = (entry.first_id, entry.last_id);
                let from = places.partition_point(|place| *place < first.min(last));
                let to = places.partition_point(|place| *place <= first.max(last));
                known[from..to].fill(true);
            }
        }
        for place in discarded {
            if let Ok(at) = places.binary_search(&place) {
                known[at] = false;
            }
        }
        let known = places.into_iter().zip(known);
        Ok(known
            .filter_map(|(place, is)| is.then_some(place))
            .collect())
    }

    /// Whether every row behind the first one of the range is in it, or of another key.
    fn sees_what_follows(&self) -> bool {
        let range = &self.range;
        let is_open = range.last == i64::MAX && range.since.is_none() && range.until.is_none();
        is_open && range.names.is_empty() && self.prefix.is_none()
    }

    /// How many of these rows have a later one of their key that is not among them.
    async fn late(&self, places: &[i64], passed: &Passed) -> Result<u64, RepublishError> {
        let Some(first) = places.first() else {
            return Ok(0);
        };
        let range = Range {
            first: *first,
            key: self.range.key.clone(),
            ..Range::default()
        };
        let mut wanted: HashMap<String, Vec<i64>> = HashMap::new();
        let mut late = 0;
        let mut pages = self.outbox.walk(&range, passed, None);
        while let Some(page) = pages.next().await? {
            for row in page {
                let Some(key) = row.key else { continue };
                if places.binary_search(&row.id).is_ok() {
                    wanted.entry(key).or_default().push(row.id);
                } else if let Some(earlier) = wanted.remove(&key) {
                    late += earlier.len() as u64;
                }
            }
        }
        Ok(late)
    }
}

/// The keys of rows, in the order of places: 16 bytes for each row that has one.
#[derive(Default)]
struct KeyOrder {
    seed: RandomState,
    keys: Vec<(i64, u64)>,
}

impl KeyOrder {
    fn add(&mut self, row: &Relayed) {
        let key = row.key.as_ref();
        self.keys
            .extend(key.map(|key| (row.id, self.seed.hash_one(key))));
    }

    /// How many of these rows have a later one of their key that is not among them.
    fn late(&self, places: &[i64]) -> u64 {
        let mut others = HashSet::new();
        let mut late = 0;
        for (place, key) in self.keys.iter().rev() {
            if places.binary_search(place).is_err() {
                others.insert(*key);
            } else if others.contains(key) {
                late += 1;
            }
        }
        late
    }
}
