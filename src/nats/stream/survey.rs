//! How many events of a stream lie between two positions, by name. Never decides what that means.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};

use crate::nats::{Bus, Reader, ReaderError, StartFrom};

/// The events between two positions of a stream.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Survey {
    /// The number of events, by name.
    pub(crate) names: BTreeMap<String, u64>,
    /// When the first and the last event were stored.
    pub(crate) first_at: Option<DateTime<Utc>>,
    pub(crate) last_at: Option<DateTime<Utc>>,
}

impl Bus {
    /// Counts the events between two sequences, both included; only those that these subjects cover.
    pub(crate) async fn survey(
        &self,
        stream: &str,
        subjects: &[String],
        (first, last): (u64, u64),
    ) -> Result<Survey, ReaderError> {
        let mut survey = Survey::default();
        if first > last {
            return Ok(survey);
        }
        let start = StartFrom::Sequence(first);
        let mut reader = Reader::open(self, stream, subjects.to_vec(), start, true).await?;
        while let Some((message, place)) = reader.next_up_to(last).await? {
            *survey.names.entry(message.subject.to_string()).or_default() += 1;
            survey.first_at.get_or_insert(place.stored_at);
            survey.last_at = Some(place.stored_at);
        }
        Ok(survey)
    }
}
