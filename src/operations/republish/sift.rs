//! Chooses the rows to republish: page after page, while earlier ones are sent. Never sends one.

use std::{collections::HashMap, sync::Arc};

use tidings_contract::{EventId, Name};
use tokio::sync::mpsc;

use super::{
    Republish, Republished,
    held::{Held, Holds, Marked, Marks, Part},
    late::Late,
    ledger::Ledger,
};
use crate::outbox::{
    Chosen, Passed, PassedPage, Range, Relayed, RepublishError, Row, Store, Streams, WantsWhole,
};

/// How many row ids are passed to the sender together, unless most rows of a page are chosen.
const CHUNK: usize = 4_000;

/// What is known of a row, whether it was read with or without its payload.
#[derive(Clone, Copy)]
struct Seen<'a> {
    id: i64,
    event: EventId,
    marked: Marked<'a>,
}

impl<'a> From<&'a Relayed> for Seen<'a> {
    fn from(row: &'a Relayed) -> Self {
        Self {
            id: row.id,
            event: row.event,
            marked: Marked {
                name: &row.name,
                version: u32::try_from(row.version).unwrap_or(0),
                key: row.key.as_deref(),
                bytes: row.bytes,
            },
        }
    }
}

impl<'a> From<&'a Row> for Seen<'a> {
    fn from(row: &'a Row) -> Self {
        Self {
            id: row.id,
            event: row.event,
            marked: Marked {
                name: &row.name,
                version: u32::try_from(row.version).unwrap_or(0),
                key: row.key.as_deref(),
                bytes: row.payload.len(),
            },
        }
    }
}

pub(super) struct Sift<DB: Store> {
    republish: Republish<DB>,
    passed: Passed,
    /// Where chosen rows are sent; `None` for a dry run.
    to: Option<mpsc::Sender<Chosen>>,
    chosen: Chosen,
    whole: WantsWhole,
    streams: Streams,
    held: HashMap<Arc<str>, Held>,
    ledger: Option<Ledger>,
    late: Late,
    /// All chosen row ids, when the rows that follow them have to be read separately.
    places: Option<Vec<i64>>,
    told: Republished,
}

impl<DB: Store> Sift<DB> {
    pub(super) async fn begin(
        republish: Republish<DB>,
        to: Option<mpsc::Sender<Chosen>>,
    ) -> Result<Self, RepublishError> {
        republish.outbox.check_home(&republish.bus).await?;
        let passed = republish.outbox.passed().await?;
        let looks_further = republish.prefix.is_none() && !republish.sees_what_follows();
        let whole = WantsWhole::default();
        whole.set(!republish.looks() && to.is_some());
        let streams = Streams::new(&republish.bus, republish.prefix.clone());
        Ok(Self {
            republish,
            passed,
            to,
            chosen: Chosen::default(),
            whole,
            streams,
            held: HashMap::new(),
            ledger: None,
            late: Late::default(),
            places: looks_further.then(Vec::new),
            told: Republished::default(),
        })
    }

    /// Runs to the end of the range, or until the receiver is gone.
    pub(super) async fn run(mut self) -> Result<Republished, RepublishError> {
        let outbox = self.republish.outbox.clone();
        let mut pages = outbox.read_passed_whole(&self.republish.range, &self.passed, &self.whole);
        while let Some(page) = pages.next().await? {
            if !self.take_page(page).await? {
                return Ok(self.told);
            }
        }
        drop(pages);
        self.hand_on().await;
        // The sender need not wait for the remaining figures.
        self.to = None;
        if let Some(places) = self.places.take() {
            self.look_further(&places).await?;
        }
        if self.republish.prefix.is_none() {
            self.told.late = self.late.count();
        }
        Ok(self.told)
    }

    /// Chooses from a page; returns false when the receiver is gone.
    async fn take_page(&mut self, page: PassedPage) -> Result<bool, RepublishError> {
        let before = (self.told.rows, self.told.wanted);
        match page {
            PassedPage::Outlines(rows) => {
                for row in rows {
                    if self.takes(Seen::from(&row)).await? {
                        self.chosen.ids.push(row.id);
                    }
                }
            }
            PassedPage::Whole(rows) => {
                for row in rows {
                    if self.takes(Seen::from(&row)).await? {
                        self.chosen.rows.push(row);
                    }
                }
            }
        }
        let are_most_wanted = 2 * (self.told.wanted - before.1) > self.told.rows - before.0;
        self.whole.set(are_most_wanted && self.to.is_some());
        let is_little = self.chosen.rows.is_empty() && self.chosen.ids.len() < CHUNK;
        Ok(is_little && !are_most_wanted || self.hand_on().await)
    }

    async fn takes(&mut self, row: Seen<'_>) -> Result<bool, RepublishError> {
        self.told.rows += 1;
        let is_wanted = self.wants(row).await?;
        if self.places.is_none() {
            self.late.note(row.marked.key, is_wanted);
        }
        if is_wanted {
            self.told.wanted += 1;
            self.told.first.get_or_insert(row.id);
            self.told.last = Some(row.id);
            self.places
                .iter_mut()
                .for_each(|places| places.push(row.id));
        }
        Ok(is_wanted)
    }

    async fn wants(&mut self, row: Seen<'_>) -> Result<bool, RepublishError> {
        let looks = self.republish.looks();
        // The relay has never published such a row.
        let name = row.marked.name;
        let is_none = !self.streams.knows(name) && Name::parse(name).is_err();
        if row.marked.version == 0 || is_none {
            self.told.unconfirmed += 1;
            return Ok(false);
        }
        // A row that no stream has confirmed need not have a stream now.
        if looks && self.republish.prefix.is_none() && !self.is_confirmed(row.id).await? {
            self.told.unconfirmed += 1;
            return Ok(false);
        }
        let stream = self.streams.of(row.marked.name).await?;
        if !looks {
            return Ok(true);
        }
        if !self.held.contains_key(&stream) {
            let held = self.read(&stream, row.id).await?;
            self.held.insert(Arc::clone(&stream), held);
        }
        let held = self.held.get(&stream);
        let holds = held.map(|held| held.holds(row.event, row.marked));
        match holds {
            Some(Holds::Event) => self.told.stored += 1,
            Some(Holds::Another) => self.told.duplicate_ids += 1,
            Some(Holds::Nothing) | None => return Ok(true),
        }
        Ok(false)
    }

    async fn is_confirmed(&mut self, place: i64) -> Result<bool, RepublishError> {
        let ledger = match &mut self.ledger {
            Some(ledger) => ledger,
            ledger => ledger.insert(Ledger::read(&self.republish.outbox, place).await?),
        };
        Ok(ledger.knows(place))
    }

    /// Reads what a stream holds of the rows from this row id on.
    async fn read(&mut self, stream: &Arc<str>, first: i64) -> Result<Held, RepublishError> {
        let (bus, outbox) = (&self.republish.bus, &self.republish.outbox);
        let Some(state) = bus.stream_state(stream).await? else {
            return Err(RepublishError::Changed {
                stream: stream.to_string(),
            });
        };
        let up_to = state.last_sequence;
        self.chosen.ends.insert(stream.to_string(), up_to);
        let beginnings = outbox.beginnings(first).await?;
        let from = beginnings.iter().find(|beginning| {
            *beginning.stream == **stream && beginning.incarnation == state.incarnation
        });
        // The ledger's beginnings do not cover copied events.
        let from = from.filter(|_| self.republish.prefix.is_none());
        let part = Part {
            stream,
            from: from.map_or(1, |beginning| beginning.sequence),
            up_to,
        };
        if part.is_small() {
            return part.read(bus).await;
        }
        let (bus, outbox) = (bus.clone(), outbox.clone());
        let mut events = Marks::default();
        let range = Range {
            first,
            ..self.republish.range.clone()
        };
        let mut pages = outbox.read_passed(&range, &self.passed, None);
        while let Some(page) = pages.next().await? {
            for row in page {
                // A row that no stream takes is reported when its turn comes.
                let taken = self.streams.of(&row.name).await;
                if taken.is_ok_and(|taken| taken == *stream) {
                    events.insert(row.event, Seen::from(&row).marked);
                }
            }
        }
        part.look_for(&bus, events).await
    }

    /// Sends the chosen rows; returns false when the receiver is gone.
    async fn hand_on(&mut self) -> bool {
        let chosen = std::mem::take(&mut self.chosen);
        match &self.to {
            Some(to) if !chosen.ids.is_empty() || !chosen.rows.is_empty() => {
                to.send(chosen).await.is_ok()
            }
            // The ends are sent with the first rows.
            Some(_) => {
                self.chosen = chosen;
                true
            }
            None => true,
        }
    }

    /// Counts republished rows that have a later row of their key outside the range.
    async fn look_further(&mut self, places: &[i64]) -> Result<(), RepublishError> {
        let Some(first) = places.first() else {
            return Ok(());
        };
        let range = Range {
            first: *first,
            key: self.republish.range.key.clone(),
            ..Range::default()
        };
        let mut pages = self
            .republish
            .outbox
            .read_passed(&range, &self.passed, None);
        while let Some(page) = pages.next().await? {
            for row in page {
                let is_wanted = places.binary_search(&row.id).is_ok();
                self.late.note(row.key.as_deref(), is_wanted);
            }
        }
        Ok(())
    }
}
