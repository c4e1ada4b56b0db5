//! The event that is measured with.

use serde::{Deserialize, Serialize};
use tidings::Event;

use super::Job;

/// The n-th event of a key, filled up to the size that is wanted.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Written {
    pub(super) key: String,
    pub(super) number: usize,
    filler: String,
}

impl Event for Written {
    const NAME: &'static str = "bench.written";
    const VERSION: u32 = 1;

    fn key(&self) -> Option<String> {
        Some(self.key.clone())
    }
}

impl Written {
    /// What the JSON of the other fields takes, about.
    const FRAME: usize = 50;

    pub(super) fn new(job: Job, number: usize) -> Self {
        Self {
            key: format!("key-{}", number % job.keys),
            number,
            filler: "x".repeat(job.payload.saturating_sub(Self::FRAME)),
        }
    }
}
