//! Divides many events among statements of limited size. Never changes their order.

/// The most rows of one statement.
const ROWS: usize = 1000;
/// A statement takes no further row once it has this many bytes of payload.
const BYTES: usize = 4 * 1024 * 1024;

/// Divides items into slices of at most `ROWS` items and about `BYTES`; a single larger item is allowed.
pub(in crate::outbox) fn chunks<T, F: Fn(&T) -> usize>(
    items: &[T],
    bytes: F,
) -> impl Iterator<Item = &[T]> + use<'_, T, F> {
    let mut left = items;
    std::iter::from_fn(move || {
        let mut sum = 0;
        let fits = |item: &&T| {
            let has_room = sum < BYTES;
            sum += bytes(item);
            has_room
        };
        let rows = left.iter().take(ROWS).take_while(fits).count();
        let (chunk, rest) = left.split_at(rows);
        left = rest;
        (!chunk.is_empty()).then_some(chunk)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sizes(items: &[usize]) -> Vec<usize> {
        chunks(items, |bytes| *bytes).map(<[usize]>::len).collect()
    }

    #[test]
    fn nothing_makes_no_statement() {
        assert!(sizes(&[]).is_empty());
    }

    #[test]
    fn a_chunk_ends_with_the_row_or_the_byte_that_fills_it() {
        assert_eq!(sizes(&[1; 2500]), [1000, 1000, 500]);
        assert_eq!(sizes(&[BYTES / 2; 5]), [2, 2, 1]);
        assert_eq!(sizes(&[1, BYTES * 2, 1, 1]), [2, 2]);
    }
}
