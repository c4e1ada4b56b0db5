//! A replay that makes no progress here: how long it is left alone, how often that is logged, and where the reason is
//! written. Never decides anything else about the replay.

use std::time::Duration;

use chrono::Utc;
use tokio::{sync::watch, time::Instant};

use super::ReplayContext;
use crate::{
    log::Lasting,
    nats::BusError,
    replay::{Replay, ReplayIssue, ReplayProgress},
};

/// The first and the longest pause.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

/// The errors of one replay, one after the other.
pub(super) struct Issue {
    pause: Duration,
    said: Lasting,
}

impl Default for Issue {
    fn default() -> Self {
        Self {
            pause: FIRST_PAUSE,
            said: Lasting::default(),
        }
    }
}

impl Issue {
    /// How long the replay is left alone now.
    fn pause(&mut self) -> Duration {
        let pause = self.pause;
        self.pause = (pause * 2).min(LONGEST_PAUSE);
        pause
    }

    /// Whether the reason is to be logged.
    pub(super) fn is_news(&self, why: &str) -> bool {
        let now = Instant::now().into_std();
        self.said.again_as(why, now).is_some()
    }
}

/// Since when the issue lasts: one cause may follow another.
pub(super) fn lasting(before: Option<&ReplayIssue>, why: String) -> ReplayIssue {
    let since = before.map_or_else(Utc::now, |before| before.since);
    ReplayIssue { why, since }
}

impl<S: Send + Sync + 'static> ReplayContext<S> {
    /// Leaves a replay alone for a while, or until its entry changes.
    pub(super) async fn leave_alone(
        &self,
        error: &BusError,
        issue: &mut Issue,
        entry: &mut watch::Receiver<Replay>,
    ) {
        let pause = issue.pause();
        if issue.is_news(&error.to_string()) {
            let (subscriber, id) = (&*self.name, entry.borrow().id);
            tracing::error!(subscriber, replay = %id, %error, ?pause, "replay interrupted");
        }
        tokio::select! {
            () = self.stop.cancelled() => {}
            _ = entry.changed() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }

    /// Writes why the replay makes no progress. Only the instance that may run it does so.
    pub(super) async fn tell(&self, replay: &Replay, error: &BusError) {
        if let Err(error) = self.write_issue(replay, error.to_string()).await {
            tracing::debug!(replay = %replay.id, %error, "replay issue not written");
        }
    }

    async fn write_issue(&self, replay: &Replay, why: String) -> Result<(), BusError> {
        loop {
            let entry = self.bus.replay_progress(replay).await?;
            let revision = entry.as_ref().map_or(0, |entry| entry.revision);
            let mut progress: ReplayProgress = entry.map(|entry| entry.value).unwrap_or_default();
            if progress.issue.as_ref().is_some_and(|it| it.why == why) {
                return Ok(());
            }
            progress.issue = Some(lasting(progress.issue.as_ref(), why.clone()));
            progress.at = Utc::now();
            let writing = self.bus.write_replay_progress(replay, &progress, revision);
            if writing.await?.is_some() {
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_lasting_issue_is_retried_and_logged_ever_less() {
        let mut issue = Issue::default();
        let (mut tries, mut said) = (0, 0);
        let end = Instant::now() + Duration::from_secs(600);
        while Instant::now() < end {
            tries += 1;
            said += usize::from(issue.is_news("denied"));
            let pause = issue.pause();
            // real time: the clock is the test's
            tokio::time::sleep(pause).await;
        }
        assert!((40..50).contains(&tries), "{tries}");
        assert!((5..=7).contains(&said), "{said}");
        tokio::time::sleep(LONGEST_PAUSE).await; // real time: the clock is the test's
        assert!(issue.is_news("another cause"));
    }

    #[test]
    fn a_cause_that_follows_another_keeps_the_start() {
        let first = lasting(None, "denied".to_owned());
        let then = lasting(Some(&first), "no leader".to_owned());
        assert_eq!((&*then.why, then.since), ("no leader", first.since));
    }
}
