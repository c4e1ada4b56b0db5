//! The subjects that the server denies to this user. It reports a denial only to the connection, never to the request,
//! which would wait for its whole timeout. Never decides what follows.

use std::{collections::BTreeMap, sync::Arc};

use tokio::sync::watch;

use crate::nats::protocol::permission::{deletes_unnamed_reader, permission_for};

/// How many subjects are remembered. Each delivery is acknowledged on a subject of its own; those are forgotten first,
/// because they begin with `$` and sort first.
const MAX_SUBJECTS: usize = 1_000;

/// The known denials of a connection. Clones share it.
#[derive(Debug, Clone)]
pub(in crate::nats) struct Denied(Arc<watch::Sender<Known>>);

#[derive(Debug, Default)]
struct Known {
    /// The subjects to which publishing was denied, with the number of denials.
    subjects: BTreeMap<String, u64>,
    /// The last subject to which subscribing was denied.
    subscription: Option<String>,
}

impl Denied {
    pub(in crate::nats) fn new() -> Self {
        Self(Arc::new(watch::Sender::new(Known::default())))
    }

    /// Records a report of the server, if it is about a permission.
    pub(in crate::nats) fn note(&self, report: &str) {
        if let Some(subject) = subject_of(report, "publish to ") {
            self.0.send_modify(|known| {
                *known.subjects.entry(subject.to_owned()).or_default() += 1;
                if known.subjects.len() > MAX_SUBJECTS {
                    known.subjects.pop_first();
                }
            });
        }
        if let Some(subject) = subject_of(report, "subscription to ") {
            self.0
                .send_modify(|known| known.subscription = Some(subject.to_owned()));
        }
    }

    /// Forgets a subject that may be allowed by now.
    #[cfg(feature = "outbox")]
    pub(in crate::nats) fn forget(&self, subject: &str) {
        self.0
            .send_if_modified(|known| known.subjects.remove(subject).is_some());
    }

    /// Forgets everything: another connection may have other permissions.
    pub(in crate::nats) fn forget_all(&self) {
        self.0.send_modify(|known| *known = Known::default());
    }

    #[cfg(feature = "outbox")]
    pub(in crate::nats) fn has(&self, subject: &str) -> bool {
        self.0.borrow().subjects.contains_key(subject)
    }

    /// The subscription that was denied last.
    pub(in crate::nats) fn subscription(&self) -> Option<String> {
        self.0.borrow().subscription.clone()
    }

    /// Changes whenever something is denied.
    pub(in crate::nats) fn reports(&self) -> watch::Receiver<impl Sized + use<>> {
        self.0.subscribe()
    }

    /// How often publishing to a subject was denied.
    pub(in crate::nats) fn times(&self, subject: &str) -> u64 {
        self.0.borrow().times(subject)
    }

    /// Returns when the number of denials to publish to a subject exceeds `times`.
    pub(in crate::nats) async fn once_more(&self, subject: &str, times: u64) {
        let mut known = self.0.subscribe();
        // The sender lives as long as `self`.
        let _ = known.wait_for(|known| known.times(subject) > times).await;
    }

    /// Returns when publishing to a subject is denied.
    #[cfg(feature = "outbox")]
    pub(in crate::nats) async fn denied(&self, subject: &str) {
        self.once_more(subject, 0).await;
    }
}

impl Known {
    fn times(&self, subject: &str) -> u64 {
        self.subjects.get(subject).copied().unwrap_or(0)
    }
}

/// The permission that a report of the server is about, if any: each ack has a subject of its own.
pub(in crate::nats) fn permission_of(report: &str) -> Option<String> {
    let of = |what| {
        Some(format!(
            "{what}{}",
            permission_for(subject_of(report, what)?)
        ))
    };
    of("publish to ").or_else(|| of("subscription to "))
}

/// Whether a report is about deleting the consumer of a reader.
pub(in crate::nats) fn is_end_of_reader(report: &str) -> bool {
    subject_of(report, "publish to ").is_some_and(deletes_unnamed_reader)
}

fn subject_of<'a>(report: &'a str, what: &str) -> Option<&'a str> {
    let words = format!("permissions violation for {what}");
    let at = report.to_ascii_lowercase().find(&words)?;
    let subject = report.get(at + words.len()..)?.split_whitespace().next()?;
    Some(subject.trim_matches(|c| c == '"' || c == '\''))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_names_the_denied_subject_and_direction() {
        let reports = [
            (
                "Permissions Violation for Publish to \"a.b\"",
                Some("a.b"),
                None,
            ),
            (
                "nats: permissions violation for publish to \"a.b\"",
                Some("a.b"),
                None,
            ),
            (
                "Permissions Violation for Subscription to \"a.b\" using queue \"q\"",
                None,
                Some("a.b"),
            ),
            ("Maximum Payload Violation", None, None),
        ];
        for (report, publish, subscription) in reports {
            assert_eq!(subject_of(report, "publish to "), publish, "{report}");
            let of_subscription = subject_of(report, "subscription to ");
            assert_eq!(of_subscription, subscription, "{report}");
        }
    }

    #[test]
    fn denials_are_reported_each_time_and_bounded() {
        let denied = Denied::new();
        for ack in 0..2 * MAX_SUBJECTS {
            let report = format!("Permissions Violation for Publish to \"$JS.ACK.{ack}\"");
            denied.note(&report);
            denied.note("Permissions Violation for Publish to \"user.created\"");
        }
        assert_eq!(denied.times("user.created"), 2 * MAX_SUBJECTS as u64);
        assert!(denied.0.borrow().subjects.len() <= MAX_SUBJECTS);
    }
}
