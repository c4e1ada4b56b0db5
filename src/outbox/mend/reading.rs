//! Rows that are to be published again, read while others are sent. Never decides which, and never sends one.

use tidings_contract::wire;
use tokio::sync::mpsc;

use super::{Ends, RepublishError, lane::Item};
use crate::outbox::{Outbox, Store, ahead::Ahead, store::Row};

/// Rows that are read at once.
const ROWS: usize = 4_000;
/// Pages that wait to be sent.
const AHEAD: usize = 2;

/// Places of rows, in their order, that are to be published again.
#[derive(Debug, Default)]
pub(crate) struct Chosen {
    pub(crate) places: Vec<i64>,
    /// Where streams ended when it was found out what is missing, if they are not known yet.
    pub(crate) ends: Ends,
}

/// What was read of it.
pub(super) struct Page {
    pub(super) items: Vec<Item>,
    pub(super) ends: Ends,
    /// How many of the rows are no longer kept.
    pub(super) gone: u64,
}

/// Reads ahead until it is dropped.
pub(super) type Reading = Ahead<Page, RepublishError>;

pub(super) fn read<DB: Store>(outbox: &Outbox<DB>, mut chosen: mpsc::Receiver<Chosen>) -> Reading {
    let outbox = outbox.clone();
    Reading::begin(AHEAD, async move |to| {
        while let Some(Chosen { places, mut ends }) = chosen.recv().await {
            let mut left = &places[..];
            while !left.is_empty() {
                let page = page(&outbox, &mut left, std::mem::take(&mut ends)).await;
                let is_last = page.is_err();
                if to.send(page).await.is_err() || is_last {
                    return;
                }
            }
        }
    })
}

/// Reads the first ones of these places, and leaves the others.
async fn page<DB: Store>(
    outbox: &Outbox<DB>,
    left: &mut &[i64],
    ends: Ends,
) -> Result<Page, RepublishError> {
    let (rows, covered) = outbox.rows_at(&left[..left.len().min(ROWS)]).await?;
    *left = &left[covered..];
    let gone = (covered - rows.len()) as u64;
    let items: Result<Vec<_>, _> = rows.into_iter().map(item).collect();
    let items = items?;
    Ok(Page { items, ends, gone })
}

fn item(row: Row) -> Result<Item, RepublishError> {
    let version = u32::try_from(row.version).unwrap_or(0);
    let key = row.key.as_deref();
    let payload = row.payload.clone();
    let read = wire::from_stored(row.event, &row.name, version, key, &row.headers, payload);
    match read {
        Ok(envelope) => Ok(Item { row, envelope }),
        Err(error) => Err(RepublishError::Unreadable {
            row: row.id,
            reason: error.to_string(),
        }),
    }
}
