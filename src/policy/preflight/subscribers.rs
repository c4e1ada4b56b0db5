//! Judges the settings of subscribers. Never asks their instances.

use std::time::Duration;

use super::{About, Concern, Severity, SubscriberSetup};
use crate::policy::issue_kind::IssueKind;

/// How long the server waits for the acknowledgement of a delivery.
const ACK_WAIT: Duration = Duration::from_secs(30);
/// A longer attempt looks like one that hangs.
const LONGEST_ATTEMPT: Duration = Duration::from_secs(600);

pub(super) fn concerns(subscribers: &[SubscriberSetup]) -> Vec<Concern> {
    let each = subscribers.iter();
    each.flat_map(|one| [pool(one), drain(one), grace(one), timeout(one)])
        .flatten()
        .collect()
}

fn about(one: &SubscriberSetup) -> About {
    About::Subscriber(one.name.clone())
}

fn pool(one: &SubscriberSetup) -> Option<Concern> {
    let pool = one.pool?;
    let needed = one.concurrency.saturating_add(2);
    let (cause, cure) = if pool.connections < needed {
        (
            format!(
                "the pool has {} connections, and its transactional handlers use {} at once: they wait for each other, \
                 and so does all else that uses the pool",
                pool.connections, one.concurrency
            ),
            format!(
                "give the pool {needed} connections (max_connections), or lower .concurrency(..)"
            ),
        )
    } else if pool.acquire_timeout > ACK_WAIT {
        (
            format!(
                "the pool waits for a connection for {:?}, and a delivery is repeated after {ACK_WAIT:?}",
                pool.acquire_timeout
            ),
            "set acquire_timeout of the pool to 30s or less".to_owned(),
        )
    } else {
        return None;
    };
    Some(Concern::new(
        IssueKind::Pool,
        Severity::Danger,
        about(one),
        cause,
        cure,
    ))
}

fn drain(one: &SubscriberSetup) -> Option<Concern> {
    let drain = one.shutdown_timeout?;
    (one.timeout > drain).then(|| {
        Concern::new(
            IssueKind::Drain,
            Severity::Note,
            about(one),
            format!(
                "an attempt may take {:?}, and a worker that is stopped waits for {drain:?}: longer attempts are cut \
                 off, and their events are delivered again",
                one.timeout
            ),
            "raise .shutdown_timeout(..) and the grace period of the process, or lower .timeout(..)",
        )
    })
}

fn grace(one: &SubscriberSetup) -> Option<Concern> {
    let (drain, grace) = (one.shutdown_timeout?, one.grace?);
    (drain >= grace).then(|| {
        Concern::new(
            IssueKind::Drain,
            Severity::Note,
            about(one),
            format!(
                "a worker that is stopped waits for {drain:?}, and its process is killed after {grace:?} \
                 (its grace period): it is killed before it has handed back its events"
            ),
            "lower .shutdown_timeout(..), or raise the grace period to 15 s above it",
        )
    })
}

fn timeout(one: &SubscriberSetup) -> Option<Concern> {
    (one.timeout > LONGEST_ATTEMPT).then(|| {
        Concern::new(
            IssueKind::Timeout,
            Severity::Note,
            about(one),
            format!(
                "an attempt may take {:?}: a handler that hangs is noticed only then",
                one.timeout
            ),
            "lower .timeout(..), and do long work in steps",
        )
    })
}
