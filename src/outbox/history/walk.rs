//! Reads the rows that the relay has passed, page after page, in the order of their ids: the next page is read while
//! the caller examines the last one. Never decides which rows are wanted.

use std::{
    hash::RandomState,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use super::{ahead::Ahead, page_size::PageSize};
use crate::outbox::{
    Outbox, OutboxError, Store,
    store::{
        Row, Rows,
        ledger::{Passed, Range, Relayed, Stretch},
    },
};

/// The rows of the first page. Each further page has twice as many, so that the caller can begin early.
const FIRST_ROWS: usize = 500;
/// The same for whole rows, which may be large.
const FIRST_WHOLE: usize = 100;
/// The most rows of a page.
const ROWS: usize = 4000;
/// How many pages are read ahead.
const AHEAD: usize = 2;

/// A walk through rows. Dropping it ends the reading.
pub(crate) type Walk = Ahead<Vec<Relayed>, OutboxError>;
/// A walk of which some pages hold whole rows.
pub(crate) type WalkOfWhole = Ahead<Walked, OutboxError>;

/// A page of a walk.
pub(crate) enum Walked {
    /// The rows without their payloads.
    Outlines(Vec<Relayed>),
    /// The whole rows.
    Whole(Vec<Row>),
}

/// Whether the next pages are to hold whole rows. A row that turns out to be wanted is read whole in any case; for one
/// that is not, the payload would be read in vain.
#[derive(Debug, Clone, Default)]
pub(crate) struct WantsWhole(Arc<AtomicBool>);

impl WantsWhole {
    pub(crate) fn set(&self, is_wanted: bool) {
        self.0.store(is_wanted, Ordering::Relaxed);
    }

    fn is_wanted(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl<DB: Store> Outbox<DB> {
    /// Walks through a range; with the hashes of the payloads when there is a hasher for them.
    pub(crate) fn walk(
        &self,
        range: &Range,
        passed: &Passed,
        payloads: Option<&RandomState>,
    ) -> Walk {
        let mut walker = Walker::new(self, range, passed);
        let payloads = payloads.cloned();
        Walk::begin(AHEAD, async move |to| {
            while !walker.is_over {
                let page = walker.outlines(payloads.as_ref()).await;
                if to.send(page).await.is_err() {
                    return;
                }
            }
        })
    }

    /// Walks through a range, with whole rows while they are wanted.
    pub(crate) fn walk_whole(
        &self,
        range: &Range,
        passed: &Passed,
        whole: &WantsWhole,
    ) -> WalkOfWhole {
        let mut walker = Walker::new(self, range, passed);
        let whole = whole.clone();
        WalkOfWhole::begin(AHEAD, async move |to| {
            while !walker.is_over {
                let page = match whole.is_wanted() {
                    true => walker.whole().await.map(Walked::Whole),
                    false => walker.outlines(None).await.map(Walked::Outlines),
                };
                if to.send(page).await.is_err() {
                    return;
                }
            }
        })
    }
}

/// The progress of a walk. An error ends it.
struct Walker<DB: Store> {
    outbox: Outbox<DB>,
    range: Range,
    passed: Passed,
    behind: i64,
    outlines: PageSize,
    whole: PageSize,
    is_over: bool,
}

impl<DB: Store> Walker<DB> {
    fn new(outbox: &Outbox<DB>, range: &Range, passed: &Passed) -> Self {
        Self {
            outbox: outbox.clone(),
            range: range.clone(),
            passed: passed.clone(),
            behind: range.first.saturating_sub(1),
            outlines: PageSize::new(FIRST_ROWS, ROWS),
            whole: PageSize::new(FIRST_WHOLE, ROWS),
            is_over: false,
        }
    }

    async fn outlines(
        &mut self,
        payloads: Option<&RandomState>,
    ) -> Result<Vec<Relayed>, OutboxError> {
        self.is_over = true;
        let rows = self.outlines.rows();
        let page = self.outbox.relayed(&self.stretch(rows, payloads)).await?;
        self.outlines.adapt(page.len(), false);
        self.go_on(page.last().map(|row| row.id), page.len() < rows);
        Ok(page)
    }

    async fn whole(&mut self) -> Result<Vec<Row>, OutboxError> {
        self.is_over = true;
        let rows = self.whole.rows();
        let page = self.outbox.relayed_rows(&self.stretch(rows, None)).await?;
        let Rows {
            rows: page,
            are_cut,
        } = page;
        self.whole.adapt(page.len(), are_cut);
        self.go_on(page.last().map(|row| row.id), page.len() < rows && !are_cut);
        Ok(page)
    }

    fn stretch<'a>(&'a self, rows: usize, payloads: Option<&'a RandomState>) -> Stretch<'a> {
        Stretch {
            behind: self.behind,
            range: &self.range,
            passed: &self.passed,
            limit: rows,
            payloads,
        }
    }

    fn go_on(&mut self, last: Option<i64>, is_last: bool) {
        self.behind = last.unwrap_or(i64::MAX);
        self.is_over = is_last;
    }
}
