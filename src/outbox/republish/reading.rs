//! Reads rows that are to be republished while earlier ones are sent. Never decides which, and never sends one.

use tokio::sync::mpsc;

use super::{
    Ends, RepublishError,
    form::{Item, RunNote},
};
use crate::outbox::{
    Outbox, Store,
    history::ahead::Ahead,
    page_size::PageSize,
    store::{Row, Rows},
};

/// How many rows are read at once: at first, as they may be large, and at most.
const FIRST_ROWS: usize = 500;
const ROWS: usize = 4_000;
/// How many pages may wait to be sent.
const AHEAD: usize = 2;

/// Rows that are to be republished, in the order of their row ids.
#[derive(Debug, Default)]
pub(crate) struct Chosen {
    /// The ids of rows that have yet to be read.
    pub(crate) ids: Vec<i64>,
    /// Rows that were already read, which follow them.
    pub(crate) rows: Vec<Row>,
    /// Where the streams ended when the missing rows were determined, if the sender does not know yet.
    pub(crate) ends: Ends,
}

/// A page of rows that were read.
pub(super) struct Page {
    pub(super) items: Vec<Item>,
    pub(super) ends: Ends,
    /// How many of the rows the outbox no longer keeps.
    pub(super) gone: u64,
}

/// Reads ahead until it is dropped.
pub(super) type Reading = Ahead<Page, RepublishError>;

pub(super) fn read<DB: Store>(outbox: &Outbox<DB>, mut chosen: mpsc::Receiver<Chosen>) -> Reading {
    let outbox = outbox.clone();
    let mut size = PageSize::new(FIRST_ROWS, ROWS);
    Reading::begin(AHEAD, async move |to| {
        while let Some(mut chosen) = chosen.recv().await {
            let ids = std::mem::take(&mut chosen.ids);
            let mut left = &ids[..];
            while !left.is_empty() {
                let page = page(
                    &outbox,
                    &mut left,
                    &mut size,
                    std::mem::take(&mut chosen.ends),
                )
                .await;
                let is_last = page.is_err();
                if to.send(page).await.is_err() || is_last {
                    return;
                }
            }
            if !chosen.rows.is_empty() {
                let page = Page::of(chosen.rows, chosen.ends, 0);
                if to.send(Ok(page)).await.is_err() {
                    return;
                }
            }
        }
    })
}

/// Reads the first of these rows; `left` keeps the rest.
async fn page<DB: Store>(
    outbox: &Outbox<DB>,
    left: &mut &[i64],
    size: &mut PageSize,
    ends: Ends,
) -> Result<Page, RepublishError> {
    let asked = left.len().min(size.rows());
    let Rows { rows, are_cut } = outbox.rows_at(&left[..asked]).await?;
    if are_cut || asked == size.rows() {
        size.adapt(rows.len(), are_cut);
    }
    let covered = match rows.last() {
        Some(last) if are_cut => left.partition_point(|place| *place <= last.id),
        _ => asked,
    };
    *left = &left[covered..];
    let gone = (covered - rows.len()) as u64;
    Ok(Page::of(rows, ends, gone))
}

impl Page {
    fn of(rows: Vec<Row>, ends: Ends, gone: u64) -> Self {
        let read = rows.len();
        let items: Vec<Item> = rows.into_iter().filter_map(item).collect();
        let gone = gone + (read - items.len()) as u64;
        Self { items, ends, gone }
    }
}

/// Returns `None` for a row that is no event, so that it does not hold up the others.
fn item(row: Row) -> Option<Item> {
    match row.envelope() {
        Ok(envelope) => Some(Item {
            row,
            envelope,
            note: RunNote::default(),
        }),
        Err(reason) => {
            tracing::warn!(
                row = row.id,
                event.id = %row.event,
                reason,
                cure = "none is needed for an event that was discarded; any other event must be published again by \
                        its service",
                "invalid row not republished: it is not an event"
            );
            None
        }
    }
}
