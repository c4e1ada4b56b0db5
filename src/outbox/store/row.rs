//! Rows of the outbox as they were written, and reading a page of them. Never decides which rows.

use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures::{Stream, TryStreamExt};
use tidings_contract::{Envelope, EventId, wire};

use crate::nats::{Identity, Own};

/// A row of the outbox.
#[derive(Debug, Clone)]
pub struct Row {
    /// The row id.
    pub id: i64,
    /// When it was written.
    pub at: DateTime<Utc>,
    /// The event's id.
    pub event: EventId,
    /// The event's name.
    pub name: String,
    /// The payload's version.
    pub version: i32,
    /// The event's key.
    pub key: Option<String>,
    /// The headers, as JSON.
    pub headers: String,
    /// The payload.
    pub payload: Bytes,
    /// Why the row is not a valid event: a column has a wrong value, or is too large to be read. Then the row id is
    /// right, and so is the key if there is one; the other fields hold what could be read. The row is parked inside the
    /// database.
    pub flaw: Option<String>,
}

/// A page of rows.
#[derive(Debug)]
pub struct Rows {
    /// The rows, in the order of their ids.
    pub rows: Vec<Row>,
    /// The page was cut at [`PAGE_BYTES`]; there may be more rows.
    pub are_cut: bool,
}

/// A page ends with the row that reaches this many bytes.
pub(in crate::outbox) const PAGE_BYTES: usize = 4 * 1024 * 1024;

impl<'a> From<&'a Row> for Identity<'a> {
    fn from(row: &'a Row) -> Self {
        Self {
            event: row.event,
            name: &row.name,
            version: u32::try_from(row.version).unwrap_or(0),
            key: row.key.as_deref(),
            payload: &row.payload,
            own: Own::Stored(&row.headers),
        }
    }
}

impl Row {
    /// The event, or why the row is not one.
    pub(in crate::outbox) fn envelope(&self) -> Result<Envelope, String> {
        if let Some(flaw) = &self.flaw {
            return Err(flaw.clone());
        }
        let version = u32::try_from(self.version).unwrap_or(0);
        let key = self.key.as_deref();
        let payload = self.payload.clone();
        let read = wire::from_stored(self.event, &self.name, version, key, &self.headers, payload);
        read.map_err(|error| error.to_string())
    }

    fn bytes(&self) -> usize {
        let key = self.key.as_ref().map_or(0, String::len);
        self.payload.len() + self.headers.len() + self.name.len() + key
    }
}

impl Rows {
    /// Reads the rows for which `read` returns one.
    pub(in crate::outbox) async fn read<R>(
        mut found: impl Stream<Item = Result<R, sqlx::Error>> + Unpin,
        read: impl Fn(R) -> Result<Option<Row>, sqlx::Error>,
    ) -> Result<Self, sqlx::Error> {
        let (mut rows, mut bytes) = (Vec::new(), 0);
        while bytes < PAGE_BYTES
            && let Some(row) = found.try_next().await?
        {
            if let Some(row) = read(row)? {
                bytes += row.bytes();
                rows.push(row);
            }
        }
        let are_cut = bytes >= PAGE_BYTES;
        Ok(Self { rows, are_cut })
    }
}

#[cfg(test)]
mod tests {
    use futures::{FutureExt, stream};

    use super::*;

    /// The ids of a page, from rows of these sizes, of which those with an even id are wanted.
    fn page(bytes: &[usize]) -> (Vec<i64>, bool) {
        let rows = bytes.iter().zip(1..).map(|(bytes, id)| Row {
            id,
            at: DateTime::UNIX_EPOCH,
            event: EventId::now(),
            name: "a.b".into(),
            version: 1,
            key: Some("k".into()),
            headers: "x".repeat(bytes - bytes / 2 - 4),
            payload: vec![0; bytes / 2].into(),
            flaw: None,
        });
        let even = |row: Row| Ok(Some(row).filter(|row| row.id % 2 == 0));
        let reading = Rows::read(stream::iter(rows.map(Ok)), even);
        let Rows { rows, are_cut } = reading.now_or_never().unwrap().unwrap();
        (rows.iter().map(|row| row.id).collect(), are_cut)
    }

    #[test]
    fn a_page_ends_with_the_row_that_reaches_its_bytes() {
        let half = PAGE_BYTES / 2;
        assert_eq!(page(&[]), (vec![], false));
        assert_eq!(page(&[10; 5]), (vec![2, 4], false));
        assert_eq!(page(&[half; 4]), (vec![2, 4], true));
        assert_eq!(page(&[half; 6]), (vec![2, 4], true));
        let below = [10, half, 10, half - 1];
        assert_eq!(page(&below), (vec![2, 4], false));
        assert_eq!(
            page(&[10, 10, 10, 2 * PAGE_BYTES, 10, 10]),
            (vec![2, 4], true)
        );
    }
}
