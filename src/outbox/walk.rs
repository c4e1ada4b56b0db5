//! The rows that the relay has passed, page after page, in the order of their places: the next ones are read while the
//! last one is looked at. Never decides which are wanted.

use std::hash::RandomState;

use super::{
    Outbox, OutboxError, Store,
    ahead::Ahead,
    relayed::{Passed, Range, Relayed, Stretch},
};

/// Rows of a page.
const ROWS: usize = 5000;
/// Pages that wait to be looked at.
const AHEAD: usize = 2;

/// A walk through rows. Reading ends when it is dropped.
pub(crate) type Walk = Ahead<Vec<Relayed>, OutboxError>;

impl<DB: Store> Outbox<DB> {
    /// Walks through a range; with the hashes of the payloads when there is a hasher for them.
    pub(crate) fn walk(
        &self,
        range: &Range,
        passed: &Passed,
        payloads: Option<&RandomState>,
    ) -> Walk {
        let (outbox, range, passed) = (self.clone(), range.clone(), passed.clone());
        let payloads = payloads.cloned();
        Walk::begin(AHEAD, async move |to| {
            let mut stretch = Stretch {
                behind: range.first.saturating_sub(1),
                range: &range,
                passed: &passed,
                limit: ROWS,
                payloads: payloads.as_ref(),
            };
            loop {
                let page = outbox.relayed(&stretch).await;
                let last = page.as_ref().ok().and_then(|page| page.last());
                let last = last.map(|row| row.id);
                let is_last = page.as_ref().map_or(true, |page| page.len() < ROWS);
                if to.send(page).await.is_err() || is_last {
                    return;
                }
                stretch.behind = last.unwrap_or(i64::MAX);
            }
        })
    }
}
