//! The subjects that the server does not let us publish to. It says so in the connection's log only, never
//! to the request, which would wait for its whole time. Never decides what follows.

use std::{collections::BTreeSet, sync::Arc};

use tokio::sync::watch;

/// What was denied on a connection, as far as is known. Clones share it.
#[derive(Debug, Clone)]
pub(super) struct Denied(Arc<watch::Sender<BTreeSet<String>>>);

impl Denied {
    pub(super) fn new() -> Self {
        Self(Arc::new(watch::Sender::new(BTreeSet::new())))
    }

    /// Takes note of what the server reports, if it is about publishing.
    pub(super) fn note(&self, report: &str) {
        if let Some(subject) = subject_of(report) {
            self.0
                .send_if_modified(|denied| denied.insert(subject.to_owned()));
        }
    }

    /// Forgets a subject: it was allowed since.
    #[cfg(any(feature = "postgres", feature = "sqlite"))]
    pub(super) fn forget(&self, subject: &str) {
        self.0.send_if_modified(|denied| denied.remove(subject));
    }

    /// Forgets everything: another connection may have other rights.
    pub(super) fn forget_all(&self) {
        self.0
            .send_if_modified(|denied| !std::mem::take(denied).is_empty());
    }

    #[cfg(any(feature = "postgres", feature = "sqlite"))]
    pub(super) fn has(&self, subject: &str) -> bool {
        self.0.borrow().contains(subject)
    }

    /// Ends when a subject is denied.
    #[cfg(any(feature = "postgres", feature = "sqlite"))]
    pub(super) async fn denied(&self, subject: &str) {
        let mut denied = self.0.subscribe();
        // The sender lives as long as `self`.
        let _ = denied.wait_for(|denied| denied.contains(subject)).await;
    }
}

fn subject_of(report: &str) -> Option<&str> {
    const WORDS: &str = "permissions violation for publish to ";
    let at = report.to_ascii_lowercase().find(WORDS)?;
    let subject = report.get(at + WORDS.len()..)?;
    Some(subject.trim_matches(|c| c == '"' || c == '\''))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_reports_about_publishing_are_taken_note_of() {
        let reports = [
            ("Permissions Violation for Publish to \"a.b\"", Some("a.b")),
            (
                "nats: permissions violation for publish to \"a.b\"",
                Some("a.b"),
            ),
            ("Permissions Violation for Subscription to \"a.b\"", None),
            ("Maximum Payload Violation", None),
        ];
        for (report, subject) in reports {
            assert_eq!(subject_of(report), subject, "{report}");
        }
    }
}
