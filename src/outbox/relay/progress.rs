//! How far the relay is, as the lanes report it: a page is done when every row of it is confirmed or
//! parked, and the cursor moves over done pages in their order only. Pure.

use std::collections::{HashSet, VecDeque};

use chrono::{DateTime, Utc};
use tokio::sync::oneshot;

use crate::outbox::{
    standing::Losses,
    store::{Entry, Last, Parked, Positions},
};

/// What the keeper is told.
#[derive(Debug)]
pub(super) enum Report<C> {
    /// The tenure begins: where the streams end, and in which of them there is something behind the
    /// position.
    Began {
        ends: Positions,
        held: HashSet<String>,
        /// The streams that are not what was written down, and where they are from now on.
        losses: Losses,
        resets: Positions,
    },
    /// A page was read; it holds this many rows. When it is whole, everything that was committed before the
    /// tenure began lies before its end.
    Page {
        number: u64,
        rows: usize,
        next: C,
        is_whole: bool,
    },
    /// The relay is about to publish into a stream, which ends with this sequence now. Nothing may be
    /// published before that is written: whoever resumes reads the stream from there.
    Stream {
        stream: String,
        incarnation: String,
        sequence: u64,
        /// When it did, by the server's clock.
        at: Option<DateTime<Utc>>,
        written: oneshot::Sender<()>,
    },
    /// Rows were confirmed.
    Confirmed(Confirmation),
    /// Rows are to be put aside: how many of which page.
    Park {
        pages: Vec<(u64, usize)>,
        parked: Vec<Parked>,
    },
    /// Everything that was reported is to be written down.
    Write { written: oneshot::Sender<()> },
    /// What was parked has gone back as far as it can. From now on more may be asked for.
    Relaying,
}

/// Rows that the stream has confirmed.
#[derive(Debug, Default)]
pub(super) struct Confirmation {
    /// How many of which page.
    pub(super) pages: Vec<(u64, usize)>,
    /// What to write down.
    pub(super) entries: Vec<Entry>,
    /// The one that lies last in the stream of the entries.
    pub(super) last: Option<Last>,
    /// Those of them that were parked.
    pub(super) returned: Vec<i64>,
}

impl Confirmation {
    /// Of a row that is not on its way to a stream.
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

/// Where a row on its way was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    /// A page of the log.
    Page(u64),
    /// What was parked.
    Parked,
}

/// How many rows are of which page.
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

/// The pages that are on their way.
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

    /// A page was read. Pages are numbered in their order.
    pub(super) fn page(&mut self, number: u64, rows: usize, next: C) {
        self.open.push_back(Open {
            number,
            left: rows,
            next,
        });
        self.advance();
    }

    /// Rows of a page are done.
    pub(super) fn done(&mut self, number: u64, rows: usize) {
        if let Some(page) = self.open.iter_mut().find(|page| page.number == number) {
            page.left = page.left.saturating_sub(rows);
        }
        self.advance();
    }

    /// The last page before which everything is done, and the cursor behind it, if it has moved since it
    /// was last taken.
    pub(super) fn take(&mut self) -> Option<(u64, C)> {
        self.reached.take()
    }

    /// Whether no page is on its way.
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
        /// Whatever the order in which rows are done, the cursor stands behind the longest prefix of
        /// done pages, and never goes back.
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
