//! How far the relay is, as the lanes report it. A page is done when each of its rows is confirmed or parked; the
//! cursor moves over done pages in their order only. Pure.

use std::collections::{HashSet, VecDeque};

use chrono::{DateTime, Utc};
use tokio::sync::oneshot;

use crate::outbox::store::{Entry, Last, Parked, Positions, losses::Losses};

/// A report to the keeper.
#[derive(Debug)]
pub(super) enum Report<C> {
    /// The tenure begins: where the streams end, and which of them hold messages behind their position.
    Began {
        ends: Positions,
        held: HashSet<String>,
        /// The streams that are not intact, and their positions from now on.
        losses: Losses,
        resets: Positions,
    },
    /// A page was read; it has this many rows. When it is whole, everything that was committed before the tenure
    /// began lies before its end.
    Page {
        number: u64,
        rows: usize,
        next: C,
        is_whole: bool,
    },
    /// The relay is about to publish into a stream, which now ends with this sequence. Nothing may be published
    /// before that is written: the next owner of the lease reads the stream from there.
    Stream {
        stream: String,
        incarnation: String,
        sequence: u64,
        /// When the stream ended there, by the server's clock.
        at: Option<DateTime<Utc>>,
        written: oneshot::Sender<()>,
    },
    /// Rows were confirmed.
    Confirmed(Confirmation),
    /// Rows are to be parked: how many of which page.
    Park {
        pages: Vec<(u64, usize)>,
        parked: Vec<Parked>,
    },
    /// Everything reported so far is to be written to the database.
    Write { written: oneshot::Sender<()> },
    /// Parked rows are restored as far as possible. From now on an operator may ask to unpark more.
    Relaying,
}

/// Rows that the stream has confirmed.
#[derive(Debug, Default)]
pub(super) struct Confirmation {
    /// How many rows of which page.
    pub(super) pages: Vec<(u64, usize)>,
    /// The ledger entries.
    pub(super) entries: Vec<Entry>,
    /// The last event in the stream, of those in the entries.
    pub(super) last: Option<Last>,
    /// The row ids of those that were parked.
    pub(super) returned: Vec<i64>,
}

impl Confirmation {
    /// Confirms one row that is not in flight to a stream.
    pub(super) fn of_one(origin: Origin, id: i64, entry: Option<Entry>) -> Self {
        let is_parked = origin == Origin::Parked;
        Self {
            pages: by_page([origin]),
            entries: entry.into_iter().collect(),
            last: None,
            returned: is_parked.then_some(id).into_iter().collect(),
        }
    }
}

/// Where a row in flight was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    /// A page of the log.
    Page(u64),
    /// The parked rows.
    Parked,
}

/// Counts the rows of each page.
pub(super) fn by_page(origins: impl IntoIterator<Item = Origin>) -> Vec<(u64, usize)> {
    let mut pages: Vec<(u64, usize)> = Vec::new();
    for origin in origins {
        let Origin::Page(page) = origin else { continue };
        match pages.last_mut() {
            Some((last, rows)) if *last == page => *rows += 1,
            _ => pages.push((page, 1)),
        }
    }
    pages
}

/// The pages in flight.
#[derive(Debug)]
pub(super) struct Progress<C> {
    open: VecDeque<Open<C>>,
    reached: Option<(u64, C)>,
}

#[derive(Debug)]
struct Open<C> {
    number: u64,
    left: usize,
    next: C,
}

impl<C> Progress<C> {
    pub(super) fn new() -> Self {
        Self {
            open: VecDeque::new(),
            reached: None,
        }
    }

    /// Adds a page. Pages are numbered in their order.
    pub(super) fn page(&mut self, number: u64, rows: usize, next: C) {
        self.open.push_back(Open {
            number,
            left: rows,
            next,
        });
        self.advance();
    }

    /// Marks rows of a page as done.
    pub(super) fn done(&mut self, number: u64, rows: usize) {
        if let Some(page) = self.open.iter_mut().find(|page| page.number == number) {
            page.left = page.left.saturating_sub(rows);
        }
        self.advance();
    }

    /// Returns the last page up to which everything is done, and the cursor behind it, if the cursor has moved since
    /// the last call.
    pub(super) fn take(&mut self) -> Option<(u64, C)> {
        self.reached.take()
    }

    /// How many rows of the pages in flight are not done.
    pub(super) fn open_rows(&self) -> usize {
        self.open.iter().map(|page| page.left).sum()
    }

    /// Whether no page is in flight.
    pub(super) fn is_idle(&self) -> bool {
        self.open.is_empty()
    }

    fn advance(&mut self) {
        while self.open.front().is_some_and(|page| page.left == 0) {
            if let Some(page) = self.open.pop_front() {
                self.reached = Some((page.number, page.next));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// In whatever order rows are done, the cursor stands behind the longest prefix of done pages and never
        /// moves backwards.
        #[test]
        fn the_cursor_never_passes_an_open_row(
            rows in proptest::collection::vec(0usize..4, 1..12),
            order in any::<prop::sample::Index>(),
        ) {
            let mut progress = Progress::new();
            let mut left = rows.clone();
            for (number, rows) in rows.iter().enumerate() {
                progress.page(number as u64, *rows, number);
            }
            let mut reached = progress.take().map(|(_, next)| next);
            let mut all: Vec<usize> = rows.iter().enumerate().flat_map(|(n, r)| vec![n; *r]).collect();
            while !all.is_empty() {
                let page = all.swap_remove(order.index(all.len()));
                progress.done(page as u64, 1);
                left[page] -= 1;
                let before = reached;
                reached = progress.take().map(|(_, next)| next).or(reached);
                prop_assert!(reached >= before);
                let done = left.iter().take_while(|left| **left == 0).count();
                prop_assert_eq!(reached, done.checked_sub(1));
            }
        }
    }
}
