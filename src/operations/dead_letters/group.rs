//! Dead letters grouped by the fingerprint of their error. Never keeps the dead letters.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use serde::Serialize;

use super::StoredDeadLetter;
use crate::policy::outcome::Cause;

/// The most groups; further fingerprints share one group.
const MOST: usize = 10_000;
/// The most subscribers and names that a group lists.
const MOST_NAMES: usize = 100;

/// Dead letters whose errors are of one kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct DeadLetterGroup {
    /// The fingerprint that their errors share; `None` for dead letters without an error.
    pub fingerprint: Option<String>,
    /// How many dead letters there are.
    pub count: u64,
    /// When the first of them was stored.
    pub first_at: DateTime<Utc>,
    /// When the last of them was stored.
    pub last_at: DateTime<Utc>,
    /// The cause of the last one.
    pub cause: Option<Cause>,
    /// The error of the last one.
    pub error: String,
    /// The sequence of the last one.
    pub last_sequence: u64,
    /// The subscribers, at most 100.
    pub subscribers: BTreeSet<String>,
    /// The names of the events, at most 100.
    pub names: BTreeSet<String>,
}

#[derive(Default)]
pub(super) struct Groups(BTreeMap<Option<String>, DeadLetterGroup>);

impl Groups {
    pub(super) fn add(&mut self, letter: &StoredDeadLetter) {
        let is_room = self.0.len() < MOST || self.0.contains_key(&letter.fingerprint);
        let fingerprint = letter.fingerprint.clone().filter(|_| is_room);
        let group = self.0.entry(fingerprint.clone());
        let group = group.or_insert_with(|| DeadLetterGroup {
            fingerprint,
            count: 0,
            first_at: letter.stored_at,
            last_at: letter.stored_at,
            cause: None,
            error: String::new(),
            last_sequence: 0,
            subscribers: BTreeSet::new(),
            names: BTreeSet::new(),
        });
        group.count += 1;
        group.first_at = group.first_at.min(letter.stored_at);
        group.last_at = group.last_at.max(letter.stored_at);
        group.cause.clone_from(&letter.cause);
        group.error.clone_from(&letter.error);
        group.last_sequence = letter.sequence;
        for (all, one) in [
            (&mut group.subscribers, &letter.subscriber),
            (&mut group.names, &letter.name),
        ] {
            if all.len() < MOST_NAMES && !all.contains(one) {
                all.insert(one.clone());
            }
        }
    }

    pub(super) fn largest_first(self) -> Vec<DeadLetterGroup> {
        let mut groups: Vec<_> = self.0.into_values().collect();
        groups.sort_by_key(|group| std::cmp::Reverse(group.count));
        groups
    }
}
