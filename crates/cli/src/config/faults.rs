//! The faults of a configuration, collected, so that all of them can be told at once. Finds none itself.

use super::ConfigError;

/// What cannot be used, in the order in which it was found.
#[derive(Debug, Default)]
pub(crate) struct Faults(Vec<ConfigError>);

impl Faults {
    /// The value, or `None` and its fault is kept.
    pub(super) fn keep<T>(&mut self, read: Result<T, ConfigError>) -> Option<T> {
        read.map_err(|fault| self.push(fault)).ok()
    }

    /// Keeps a fault, unless its line cannot be read anyway.
    pub(super) fn push(&mut self, fault: ConfigError) {
        let is_read = |known: &ConfigError| {
            let is_syntax = matches!(known, ConfigError::Syntax { .. });
            !is_syntax || known.place() != fault.place()
        };
        if self.0.iter().all(is_read) {
            self.0.push(fault);
        }
    }

    /// Keeps what another text has, unless it is in a line that has a fault already: the one may follow from the other.
    pub(super) fn extend(&mut self, others: Self) {
        let before = self.0.len();
        for fault in others.0 {
            let place = fault.place();
            let is_known = self.0[..before].iter().any(|known| known.place() == place);
            if place.is_none() || !is_known {
                self.0.push(fault);
            }
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &ConfigError> {
        self.0.iter()
    }

    /// The first fault, if there is one.
    pub(super) fn first(self) -> Option<ConfigError> {
        self.0.into_iter().next()
    }
}
