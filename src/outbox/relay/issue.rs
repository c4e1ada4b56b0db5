//! The issues that hinder the relay: logged when they begin, repeatedly while they last, and when they are over; and
//! shown in the status, through the checkpoints. Never decides what to do about them.
//!
//! An issue begins once. A new tenure ends none: an issue of the last tenure is over when an event was confirmed and
//! that is written to the database, or when there was nothing to confirm.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use chrono::Utc;

use crate::{
    outbox::store::{
        parked::BlockedOn,
        status::{Issue, StoredIssue, stored_issues},
    },
    policy::issue_kind::IssueKind,
};

/// How often a lasting issue is logged again.
pub(super) const SAY_AGAIN: Duration = Duration::from_secs(10);
/// A changed cause is logged at once, but no more often than this.
const SAY_CHANGE: Duration = Duration::from_secs(5);
/// The place of an issue that hinders all of the relay.
pub(super) const RELAY: &str = "relay";
/// The place of an issue of the database that hinders no event in the log. Only the look that has found it ends it.
pub(super) const DATABASE: &str = "database";
/// The place of an issue of the configuration. It hinders nothing, and is none of the issues here.
pub(super) const CONFIGURATION: &str = "configuration";

/// The present issues of a relay, by place: the relay, a stream or a subject. Clones share them; they outlive a
/// tenure.
#[derive(Debug, Clone, Default)]
pub(super) struct Issues(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    by_place: BTreeMap<String, Known>,
    /// Counts the tenures of this process.
    tenure: u64,
}

#[derive(Debug)]
struct Known {
    issue: StoredIssue,
    /// The last tenure in which the issue was met.
    met: u64,
    /// How often the issue was met.
    times: u64,
    said: Instant,
}

impl Issues {
    /// Begins an issue at a place. An issue that is already there continues, possibly with another cause. Returns
    /// whether it was logged.
    pub(super) fn begin(&self, place: &str, kind: IssueKind, cause: &str, cure: &str) -> bool {
        let mut state = self.lock();
        let met = state.tenure;
        let Some(known) = state.by_place.get_mut(place) else {
            tracing::error!(place, cause, cure, "events held up");
            let known = Known::new(StoredIssue::begins(kind, cause, cure), met);
            state.by_place.insert(place.to_owned(), known);
            return true;
        };
        let is_other = known.issue.cause != cause;
        known.issue.kind = kind;
        cause.clone_into(&mut known.issue.cause);
        cure.clone_into(&mut known.issue.cure);
        known.met = met;
        known.times += 1;
        let is_said = is_other && known.said.elapsed() >= SAY_CHANGE;
        if is_said {
            known.say(place);
        }
        is_said
    }

    /// Records an issue that is older than this process: what is already known of it stays.
    pub(super) fn recall(&self, place: &str, kind: IssueKind, cause: &str, cure: &str) {
        let mut state = self.lock();
        let met = state.tenure;
        if let Some(known) = state.by_place.get_mut(place) {
            known.met = met;
            return;
        }
        drop(state);
        self.begin(place, kind, cause, cure);
    }

    /// Begins a tenure with the stored issues of the last one, possibly of another process.
    pub(super) fn new_tenure(&self, stored: &str) -> Result<(), sqlx::Error> {
        let stored = stored_issues(stored)?;
        let mut state = self.lock();
        let before = state.tenure;
        state.tenure += 1;
        for (place, issue) in stored {
            if place == CONFIGURATION {
                continue;
            }
            match state.by_place.get_mut(&place) {
                Some(known) => known.issue.since = known.issue.since.min(issue.since),
                None => drop(state.by_place.insert(place, Known::new(issue, before))),
            }
        }
        Ok(())
    }

    /// Ends the issue of a place. Returns whether there was one.
    pub(super) fn end(&self, place: &str) -> bool {
        let Some(known) = self.lock().by_place.remove(place) else {
            return false;
        };
        let since = known.issue.since;
        let lasted_s = (Utc::now() - since).num_seconds();
        tracing::info!(place, %since, lasted_s, "events flowing again");
        true
    }

    /// Everything committed before this tenure is confirmed, parked or absent: issues that this tenure has not met
    /// are over. Returns whether any is.
    pub(super) fn caught_up(&self) -> bool {
        let state = self.lock();
        let places = state.by_place.iter();
        let over = places.filter(|(place, known)| known.met < state.tenure && *place != DATABASE);
        let over: Vec<String> = over.map(|(place, _)| place.clone()).collect();
        drop(state);
        for place in &over {
            self.end(place);
        }
        !over.is_empty()
    }

    /// Another relay has the lease, and reports its own issues.
    pub(super) fn forget(&self) {
        self.lock().by_place.clear();
    }

    /// Logs all issues again.
    pub(super) fn say(&self) {
        for (place, known) in &mut self.lock().by_place {
            known.say(place);
        }
    }

    /// Logs all issues repeatedly, across tenures. Never ends.
    pub(super) async fn keep_saying(self) {
        let mut times = tokio::time::interval(SAY_AGAIN);
        times.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            times.tick().await;
            self.say();
        }
    }

    /// The issues as text for the status, with that of the configuration.
    pub(super) fn text(&self, configuration: Option<StoredIssue>) -> Result<String, sqlx::Error> {
        let state = self.lock();
        let places = state.by_place.iter();
        let places = places.map(|(place, known)| (&**place, &known.issue));
        let configuration = configuration.iter().map(|issue| (CONFIGURATION, issue));
        let stored: BTreeMap<&str, &StoredIssue> = places.chain(configuration).collect();
        serde_json::to_string(&stored).map_err(|error| sqlx::Error::Encode(error.into()))
    }

    /// The places of the issues that only parked rows wait for.
    pub(super) fn subjects(&self) -> Vec<String> {
        let state = self.lock();
        let places = state.by_place.keys();
        let of_subjects = places.filter(|place| {
            let parsed = place.parse::<BlockedOn>();
            matches!(parsed, Ok(BlockedOn::Subject(_)))
        });
        of_subjects.cloned().collect()
    }

    /// The issues for status requests over NATS.
    pub(super) fn all(&self) -> Vec<Issue> {
        let state = self.lock();
        let places = state.by_place.iter();
        places
            .map(|(place, known)| known.issue.clone().at(place.clone()))
            .collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn new(issue: StoredIssue, met: u64) -> Self {
        Self {
            issue,
            met,
            times: 1,
            said: Instant::now(),
        }
    }

    fn say(&mut self, place: &str) {
        self.said = Instant::now();
        let StoredIssue {
            since, cause, cure, ..
        } = &self.issue;
        let (for_s, times) = ((Utc::now() - *since).num_seconds(), self.times);
        tracing::error!(place, for_s, times, cause, cure, "events still held up");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(issues: &Issues) -> Vec<String> {
        let all = issues.all().into_iter();
        all.map(|issue| issue.place).collect()
    }

    #[test]
    fn a_lasting_issue_keeps_its_start_and_gets_the_new_cause() {
        let issues = Issues::default();
        issues.begin("stream A", IssueKind::StreamFull, "full", "purge");
        let since = issues.all()[0].since;
        issues.begin("stream A", IssueKind::StreamSealed, "sealed", "delete");
        let now = issues.all().remove(0);
        assert_eq!((now.since, &*now.cause), (since, "sealed"));
        assert_eq!(now.kind, IssueKind::StreamSealed);
        issues.end("stream A");
        assert_eq!(issues.text(None).unwrap(), "{}");
    }

    #[test]
    fn a_tenure_that_has_caught_up_ends_issues_it_has_not_met() {
        let issues = Issues::default();
        issues.new_tenure("{}").unwrap();
        issues.begin(RELAY, IssueKind::DeniedNats, "denied", "allow it");
        issues.begin("stream A", IssueKind::StreamFull, "full", "purge");
        issues.begin("subject b.c", IssueKind::NoStream, "no stream", "apply");
        issues.new_tenure("{}").unwrap();
        assert_eq!(places(&issues).len(), 3);
        issues.recall(
            "subject b.c",
            IssueKind::SubjectClosed,
            "no stream",
            "apply",
        );
        issues.begin("stream A", IssueKind::StreamFull, "full", "purge");
        issues.caught_up();
        assert_eq!(places(&issues), ["stream A", "subject b.c"]);
    }

    #[test]
    fn the_configuration_of_another_process_is_forgotten() {
        let issues = Issues::default();
        let bad = StoredIssue::begins(IssueKind::Configuration, "line 2", "correct it");
        let stored = issues.text(Some(bad)).unwrap();
        assert!(stored.contains("configuration"), "{stored}");
        issues.new_tenure(&stored).unwrap();
        assert_eq!(issues.all(), []);
    }

    #[test]
    fn an_issue_of_another_process_keeps_its_start() {
        let issues = Issues::default();
        let stored =
            r#"{"relay": {"since": "2026-01-01T00:00:00Z", "cause": "down", "cure": "up"}}"#;
        issues.begin(RELAY, IssueKind::DeniedNats, "denied", "allow it");
        issues.new_tenure(stored).unwrap();
        assert_eq!(
            issues.all()[0].since.to_rfc3339(),
            "2026-01-01T00:00:00+00:00"
        );
        assert_eq!(issues.all()[0].cause, "denied");
        let other = Issues::default();
        other.new_tenure(stored).unwrap();
        assert_eq!(other.all()[0].cause, "down");
        assert_eq!(
            other.all()[0].kind,
            IssueKind::Unknown,
            "an older relay stored no kind"
        );
        other.caught_up();
        assert_eq!(other.all(), []);
    }
}
