//! How many rows to ask for at once. Never reads one.

/// The database sends as many rows as it was asked for, also those that the bound on bytes cuts off: so fewer are asked
/// for while rows are large.
#[derive(Debug, Clone, Copy)]
pub(super) struct PageSize {
    rows: usize,
    most: usize,
}

impl PageSize {
    pub(super) fn new(first: usize, most: usize) -> Self {
        Self { rows: first, most }
    }

    pub(super) fn rows(self) -> usize {
        self.rows
    }

    /// After a page that had so many, and was cut or not.
    pub(super) fn adapt(&mut self, read: usize, is_cut: bool) {
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
    fn fewer_rows_are_asked_for_while_they_are_large() {
        let mut size = PageSize::new(100, 300);
        let pages = [(100, false), (200, false), (7, true), (0, true), (1, false)];
        let asked = pages.map(|(read, is_cut)| {
            size.adapt(read, is_cut);
            size.rows()
        });
        assert_eq!(asked, [200, 300, 7, 1, 2]);
    }
}
