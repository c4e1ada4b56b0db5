//! The queries about events to the outbox, for any database. Never fails a search: a query that fails is reported.

use std::fmt::Debug;

use chrono::{DateTime, Utc};
use futures::future::BoxFuture;
use tidings_contract::{Envelope, EventId};

use super::{
    TraceTarget,
    report::{OutboxTrace, TracedBatch},
};

/// Why the outbox did not answer.
pub(super) type RecordsError = Box<dyn std::error::Error + Send + Sync>;

type Answer<'a, T> = BoxFuture<'a, Result<T, RecordsError>>;

/// An event in the outbox.
#[derive(Debug)]
pub(super) struct Noted {
    pub(super) event: EventId,
    pub(super) name: String,
    pub(super) version: u32,
    pub(super) key: Option<String>,
    /// `None` when a foreign writer has written a row that is not an event.
    pub(super) envelope: Option<Envelope>,
    pub(super) outbox: OutboxTrace,
}

/// An outbox, as far as events can be traced in it.
pub(super) trait Records: Debug + Send + Sync {
    /// The rows that match, the newest first. Of relayed rows, only those written since `since`.
    fn rows<'a>(
        &'a self,
        query: &'a TraceTarget,
        since: Option<DateTime<Utc>>,
        limit: usize,
    ) -> Answer<'a, Vec<Noted>>;

    /// The batches that may have held a row, and when the row was discarded, if it was.
    fn batches_of(&self, row: i64) -> Answer<'_, (Vec<TracedBatch>, Option<DateTime<Utc>>)>;

    /// The batches that a stream has confirmed at a sequence.
    fn batches_at<'a>(
        &'a self,
        stream: &'a str,
        incarnation: &'a str,
        sequence: u64,
    ) -> Answer<'a, Vec<TracedBatch>>;

    /// The scopes in which the inbox has an event, and why it was dead-lettered, when it was not handled.
    fn scopes(&self, event: EventId) -> Answer<'_, Vec<(String, Option<String>)>>;

    /// When the oldest row was written.
    fn oldest(&self) -> Answer<'_, Option<DateTime<Utc>>>;

    /// The streams that the relay knows.
    fn streams(&self) -> Answer<'_, Vec<String>>;

    /// What the relay does, and its issues.
    fn relay(&self) -> Answer<'_, Vec<String>>;
}

#[cfg(feature = "outbox")]
mod of_an_outbox {
    use super::{
        Answer, DateTime, EventId, Noted, OutboxTrace, Records, TraceTarget, TracedBatch, Utc,
    };
    use crate::outbox::{
        self, Outbox, Store, StreamSequence, TraceQuery, TracedRow, TracedState, Wanted,
    };

    impl<DB: Store> Records for Outbox<DB> {
        fn rows<'a>(
            &'a self,
            query: &'a TraceTarget,
            since: Option<DateTime<Utc>>,
            limit: usize,
        ) -> Answer<'a, Vec<Noted>> {
            let wanted = match query {
                TraceTarget::Event(event) => Wanted::Event(*event),
                TraceTarget::Key(key) => Wanted::Key(key),
                TraceTarget::Correlation(id) => Wanted::Correlation(id),
            };
            let asked = TraceQuery::of(wanted, since, limit);
            Box::pin(async move {
                let rows = self.rows_of(&asked).await?;
                Ok(rows.into_iter().map(Noted::from).collect())
            })
        }

        fn batches_of(&self, row: i64) -> Answer<'_, (Vec<TracedBatch>, Option<DateTime<Utc>>)> {
            Box::pin(async move {
                let said = Outbox::batches_of(self, row).await?;
                Ok((batches(said.batches), said.discarded_at))
            })
        }

        fn batches_at<'a>(
            &'a self,
            stream: &'a str,
            incarnation: &'a str,
            sequence: u64,
        ) -> Answer<'a, Vec<TracedBatch>> {
            let place = StreamSequence {
                stream,
                incarnation,
                sequence,
            };
            Box::pin(async move { Ok(batches(Outbox::batches_at(self, place).await?)) })
        }

        fn scopes(&self, event: EventId) -> Answer<'_, Vec<(String, Option<String>)>> {
            Box::pin(async move { Ok(self.scopes_of(event).await?) })
        }

        fn oldest(&self) -> Answer<'_, Option<DateTime<Utc>>> {
            Box::pin(async move { Ok(Outbox::oldest(self).await?) })
        }

        fn streams(&self) -> Answer<'_, Vec<String>> {
            Box::pin(async move { Ok(self.passed().await?.streams.into_keys().collect()) })
        }

        fn relay(&self) -> Answer<'_, Vec<String>> {
            Box::pin(async move {
                let status = self.status().await?;
                let lease = &status.lease;
                let mut said = vec![match &lease.owner {
                    Some(owner) if lease.remaining_seconds > 0.0 => {
                        format!("{owner} has the lease")
                    }
                    Some(owner) => {
                        format!("no relay is active: {owner} has stopped renewing its lease")
                    }
                    None => "no relay is active".to_owned(),
                }];
                said.push(format!("the backlog is {}", status.backlog));
                said.extend(status.refuses);
                let issues = status.issues.into_iter();
                said.extend(
                    issues.map(|issue| {
                        format!("{}: {}; try: {}", issue.place, issue.cause, issue.cure)
                    }),
                );
                Ok(said)
            })
        }
    }

    fn batches(found: Vec<outbox::TracedBatch>) -> Vec<TracedBatch> {
        let found = found.into_iter().map(|batch| TracedBatch {
            at: batch.at,
            epoch: batch.epoch,
            events: u64::try_from(batch.events).unwrap_or(0),
            first_row: batch.first_id,
            last_row: batch.last_id,
            stream: batch.stream,
            incarnation: batch.incarnation,
            first_sequence: batch.first_sequence,
            last_sequence: batch.last_sequence,
        });
        found.collect()
    }

    impl From<TracedRow> for Noted {
        fn from(row: TracedRow) -> Self {
            let envelope = row.envelope();
            let (written_at, id) = (row.at, row.id);
            let outbox = match row.state {
                TracedState::Log { is_passed: true } => OutboxTrace::Relayed {
                    row: id,
                    written_at,
                },
                TracedState::Log { is_passed: false } => OutboxTrace::Waiting {
                    row: id,
                    written_at,
                    relay: Vec::new(),
                },
                TracedState::Parked {
                    at,
                    error,
                    blocked_on,
                    unpark_requested_at,
                    is_returning,
                } => OutboxTrace::Parked {
                    row: id,
                    written_at,
                    parked_at: at,
                    error,
                    blocked_on,
                    unpark_requested_at,
                    is_returning,
                },
                TracedState::Delayed { due } => OutboxTrace::Delayed { written_at, due },
            };
            Self {
                event: row.event,
                name: row.name,
                version: row.version.unsigned_abs(),
                key: row.key,
                envelope,
                outbox,
            }
        }
    }
}
