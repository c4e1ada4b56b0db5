//! The event of all measurements.

use serde::{Deserialize, Serialize};
use tidings::Event;

use super::Job;

/// The n-th event of a key, padded to the configured size.
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
    /// The approximate size of the JSON of the other fields.
    const FRAME: usize = 50;

    pub(super) fn new(job: Job, number: usize) -> Self {
        Self {
            key: format!("key-{}", number % job.keys),
            number,
            filler: "x".repeat(job.payload.saturating_sub(Self::FRAME)),
        }
    }
}
