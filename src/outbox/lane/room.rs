//! How many rows fit into a batch. Pure.

use crate::outbox::store::Row;

/// The most payload in one batch, in bytes, one row excepted.
const BATCH_BYTES: usize = 4 * 1024 * 1024;

/// The room in a batch while it is filled.
pub(in crate::outbox) struct BatchRoom {
    rows: usize,
    bytes: usize,
    is_begun: bool,
}

impl BatchRoom {
    /// A batch of at most this many rows, and of one row at least.
    pub(in crate::outbox) fn of(rows: usize) -> Self {
        Self {
            rows: rows.max(1),
            bytes: 0,
            is_begun: false,
        }
    }

    /// Whether another row may fit.
    pub(in crate::outbox) fn is_left(&self) -> bool {
        self.rows > 0
    }

    /// Takes the next row into the batch; false when it has to go into another one.
    pub(in crate::outbox) fn takes(&mut self, row: &Row) -> bool {
        let bytes = self.bytes.saturating_add(row.payload.len());
        if self.rows == 0 || self.is_begun && bytes > BATCH_BYTES {
            return false;
        }
        self.is_begun = true;
        self.rows -= 1;
        self.bytes = bytes;
        true
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use chrono::DateTime;
    use tidings_contract::EventId;

    use super::*;

    fn taken(rows: usize, sizes: &[usize]) -> usize {
        let mut room = BatchRoom::of(rows);
        let row = |bytes: &usize| Row {
            id: 1,
            at: DateTime::UNIX_EPOCH,
            event: EventId::now(),
            name: "a.b".to_owned(),
            version: 1,
            key: None,
            headers: "{}".to_owned(),
            payload: Bytes::from(vec![0; *bytes]),
            flaw: None,
        };
        sizes
            .iter()
            .take_while(|bytes| room.takes(&row(bytes)))
            .count()
    }

    #[test]
    fn a_batch_has_one_row_and_ends_before_the_row_too_many() {
        assert_eq!(taken(3, &[1; 9]), 3);
        assert_eq!(taken(0, &[1; 9]), 1);
        assert_eq!(taken(9, &[BATCH_BYTES + 1, 0, 1]), 1);
        assert_eq!(taken(9, &[BATCH_BYTES - 1, 1, 0, 1]), 3);
    }
}
