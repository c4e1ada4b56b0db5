//! What was sent to systemd, and what is sent next. Pure: looks and times come in.

use std::time::{Duration, Instant};

/// What a look at the process has shown.
#[derive(Debug, Clone)]
pub(super) struct Look {
    pub(super) is_ready: bool,
    pub(super) is_stopping: bool,
    pub(super) makes_progress: bool,
    pub(super) status: String,
}

/// What systemd knows.
#[derive(Debug, Clone)]
pub(super) struct Sent {
    is_ready: bool,
    is_stopping: bool,
    status: String,
    /// How often `WATCHDOG=1` is sent; `None` without a watchdog.
    interval: Option<Duration>,
    progress_at: Option<Instant>,
}

impl Sent {
    pub(super) fn new(interval: Option<Duration>) -> Self {
        Self {
            is_ready: false,
            is_stopping: false,
            status: String::new(),
            interval,
            progress_at: None,
        }
    }

    /// The message after a look, empty when there is nothing new, and what systemd knows once it has that message.
    pub(super) fn after(&self, look: Look, now: Instant) -> (String, Self) {
        let mut next = self.clone();
        let mut lines = Vec::new();
        if look.is_ready && !self.is_ready && !look.is_stopping {
            next.is_ready = true;
            lines.push("READY=1".to_owned());
        }
        if look.is_stopping && !self.is_stopping {
            next.is_stopping = true;
            lines.push("STOPPING=1".to_owned());
        }
        if look.status != self.status {
            lines.push(format!("STATUS={}", look.status));
            next.status = look.status;
        }
        let is_due = |interval| {
            let passed = self.progress_at.map(|at| now.saturating_duration_since(at));
            passed.is_none_or(|passed| passed >= interval)
        };
        if look.makes_progress && self.interval.is_some_and(is_due) {
            next.progress_at = Some(now);
            lines.push("WATCHDOG=1".to_owned());
        }
        (lines.join("\n"), next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(15);

    fn look(status: &str) -> Look {
        Look {
            is_ready: false,
            is_stopping: false,
            makes_progress: true,
            status: status.to_owned(),
        }
    }

    #[test]
    fn ready_and_stopping_are_sent_once() {
        let (now, sent) = (Instant::now(), Sent::new(None));
        let (text, sent) = sent.after(look("relay: starting"), now);
        assert_eq!(text, "STATUS=relay: starting");
        let ready = Look {
            is_ready: true,
            ..look("relay: ok")
        };
        let (text, sent) = sent.after(ready.clone(), now);
        assert_eq!(text, "READY=1\nSTATUS=relay: ok");
        let (text, sent) = sent.after(ready.clone(), now);
        assert_eq!(text, "");
        // A part that starts again does not make the service start again.
        let (text, sent) = sent.after(look("relay: ok"), now);
        assert_eq!(text, "");
        let stopping = Look {
            is_stopping: true,
            ..ready
        };
        let (text, sent) = sent.after(stopping.clone(), now);
        assert_eq!(text, "STOPPING=1");
        assert_eq!(sent.after(stopping, now).0, "");
    }

    #[test]
    fn a_process_that_stops_before_it_is_ready_was_never_ready() {
        let stopping = Look {
            is_ready: true,
            is_stopping: true,
            ..look("")
        };
        assert_eq!(
            Sent::new(None).after(stopping, Instant::now()).0,
            "STOPPING=1"
        );
    }

    #[test]
    fn progress_is_sent_at_its_interval_and_never_without_it() {
        let (now, sent) = (Instant::now(), Sent::new(Some(INTERVAL)));
        let (text, sent) = sent.after(look(""), now);
        assert_eq!(text, "WATCHDOG=1");
        let (text, sent) = sent.after(look(""), now + INTERVAL / 2);
        assert_eq!(text, "");
        let stuck = Look {
            makes_progress: false,
            ..look("")
        };
        let (text, sent) = sent.after(stuck, now + INTERVAL * 2);
        assert_eq!(text, "");
        assert_eq!(sent.after(look(""), now + INTERVAL * 2).0, "WATCHDOG=1");
    }

    #[test]
    fn what_was_not_delivered_is_sent_again() {
        let (now, sent) = (Instant::now(), Sent::new(Some(INTERVAL)));
        let first = sent.after(look("relay: ok"), now).0;
        assert_eq!(sent.after(look("relay: ok"), now).0, first);
        assert_eq!(first, "STATUS=relay: ok\nWATCHDOG=1");
    }
}
