//! Counts how many events lie behind later ones of their key when they are republished. Never decides which are.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
};

/// Counts row by row, in the order of row ids; 16 bytes for each key.
#[derive(Default)]
pub(super) struct Late {
    seed: RandomState,
    /// For each key, the number of republished rows behind its last row that is not republished.
    waiting: HashMap<u64, u32>,
    count: u64,
}

impl Late {
    pub(super) fn note(&mut self, key: Option<&str>, is_wanted: bool) {
        let Some(key) = key else { return };
        let key = self.seed.hash_one(key);
        if is_wanted {
            *self.waiting.entry(key).or_default() += 1;
        } else if let Some(earlier) = self.waiting.remove(&key) {
            self.count += u64::from(earlier);
        }
    }

    /// How many republished rows have a later row of their key that is not republished.
    pub(super) fn count(&self) -> u64 {
        self.count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_before_a_stored_later_one_of_its_key_is_late() {
        let mut late = Late::default();
        let rows = [
            ("a", true),
            ("b", false),
            ("a", true),
            ("a", false),
            ("b", true),
            ("a", true),
        ];
        for (key, is_wanted) in rows {
            late.note(Some(key), is_wanted);
            late.note(None, is_wanted);
        }
        assert_eq!(late.count(), 2, "the first two of a");
    }
}
