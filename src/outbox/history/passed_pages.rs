//! Reads the rows that the relay has passed, page after page, in the order of their ids: the next page is read while
//! the caller examines the last one. Never decides which rows are wanted.

use std::{
    hash::RandomState,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use super::ahead::Ahead;
use crate::outbox::{
    Outbox, OutboxError, Store,
    page_size::PageSize,
    store::{
        Row, Rows,
        ledger::{Passed, PassedQuery, Range, Relayed},
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

/// Pages of rows that the relay has passed. Dropping it ends the reading.
pub(crate) type PassedPages = Ahead<Vec<Relayed>, OutboxError>;
/// The same, where some pages hold whole rows.
pub(crate) type WholePages = Ahead<PassedPage, OutboxError>;

/// A page of such rows.
pub(crate) enum PassedPage {
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
    /// Reads a range, page by page; with the hashes of the payloads when there is a hasher for them.
    pub(crate) fn read_passed(
        &self,
        range: &Range,
        passed: &Passed,
        payloads: Option<&RandomState>,
    ) -> PassedPages {
        let mut reader = PageReader::new(self, range, passed);
        let payloads = payloads.cloned();
        PassedPages::begin(AHEAD, async move |to| {
            while !reader.is_over {
                let page = reader.outlines(payloads.as_ref()).await;
                if to.send(page).await.is_err() {
                    return;
                }
            }
        })
    }

    /// Reads a range, page by page, with whole rows while they are wanted.
    pub(crate) fn read_passed_whole(
        &self,
        range: &Range,
        passed: &Passed,
        whole: &WantsWhole,
    ) -> WholePages {
        let mut reader = PageReader::new(self, range, passed);
        let whole = whole.clone();
        WholePages::begin(AHEAD, async move |to| {
            while !reader.is_over {
                let page = match whole.is_wanted() {
                    true => reader.whole().await.map(PassedPage::Whole),
                    false => reader.outlines(None).await.map(PassedPage::Outlines),
                };
                if to.send(page).await.is_err() {
                    return;
                }
            }
        })
    }
}

/// How far the pages have been read. An error ends the reading.
struct PageReader<DB: Store> {
    outbox: Outbox<DB>,
    range: Range,
    passed: Passed,
    behind: i64,
    outlines: PageSize,
    whole: PageSize,
    is_over: bool,
}

impl<DB: Store> PageReader<DB> {
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
        let page = self.outbox.relayed(&self.selection(rows, payloads)).await?;
        self.outlines.adapt(page.len(), false);
        self.go_on(page.last().map(|row| row.id), page.len() < rows);
        Ok(page)
    }

    async fn whole(&mut self) -> Result<Vec<Row>, OutboxError> {
        self.is_over = true;
        let rows = self.whole.rows();
        let page = self
            .outbox
            .relayed_rows(&self.selection(rows, None))
            .await?;
        let Rows {
            rows: page,
            are_cut,
        } = page;
        self.whole.adapt(page.len(), are_cut);
        self.go_on(page.last().map(|row| row.id), page.len() < rows && !are_cut);
        Ok(page)
    }

    fn selection<'a>(&'a self, rows: usize, payloads: Option<&'a RandomState>) -> PassedQuery<'a> {
        PassedQuery {
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
