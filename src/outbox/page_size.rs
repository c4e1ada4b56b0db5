//! How many rows a page requests. Never reads one.

/// The database sends all requested rows, including those that the limit on bytes cuts off. So a page requests fewer
/// rows while they are large.
#[derive(Debug, Clone, Copy)]
pub(in crate::outbox) struct PageSize {
    rows: usize,
    most: usize,
}

impl PageSize {
    pub(in crate::outbox) fn new(first: usize, most: usize) -> Self {
        Self { rows: first, most }
    }

    pub(in crate::outbox) fn rows(self) -> usize {
        self.rows
    }

    /// Adapts to a page that had this many rows, and was cut or not.
    pub(in crate::outbox) fn adapt(&mut self, read: usize, is_cut: bool) {
        self.rows = match is_cut {
            true => read.max(1),
            false => (2 * self.rows).min(self.most),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fewer_rows_are_requested_while_they_are_large() {
        let mut size = PageSize::new(100, 300);
        let pages = [(100, false), (200, false), (7, true), (0, true), (1, false)];
        let asked = pages.map(|(read, is_cut)| {
            size.adapt(read, is_cut);
            size.rows()
        });
        assert_eq!(asked, [200, 300, 7, 1, 2]);
    }
}
