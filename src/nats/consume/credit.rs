//! The messages and bytes that were requested and have not arrived yet. A plain value; never calls a server.
//!
//! Two things keep the numbers correct: the status that ends a pull states how much of it is left, and no pull outlives
//! its expiry, so that no more can be outstanding than the live pulls have requested.

use std::collections::VecDeque;

use tokio::time::Instant;

/// The bytes of a message in addition to its payload and headers: its subject and its ack subject.
const AROUND: usize = 8 * 1024;
/// The assumed size of a message before the first one arrives, in bytes.
const FIRST_GUESS: usize = 4 * 1024;

/// The pulls that may be alive.
#[derive(Debug)]
pub(in crate::nats) struct Credit {
    pulls: VecDeque<Sent>,
    outstanding: usize,
    /// The bytes that may still arrive.
    bytes: usize,
    /// The typical size of recent messages.
    typical: usize,
    /// The next message did not fit into the bytes of a whole pull: the next pull has no limit of bytes.
    is_unbounded: bool,
    allowed: Allowed,
}

/// The limits of a pull, as far as the server has reported them.
#[derive(Debug, Clone, Copy)]
struct Allowed {
    batch: usize,
    bytes: usize,
    /// The maximum number of concurrent pulls.
    pulls: usize,
}

#[derive(Debug)]
struct Sent {
    expires_at: Instant,
    batch: usize,
    bytes: usize,
}

/// The next pull request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::nats) struct Pull {
    pub(in crate::nats) batch: usize,
    /// `None`: a single message of any size.
    pub(in crate::nats) max_bytes: Option<usize>,
}

/// The room for more messages.
#[derive(Debug, Clone, Copy)]
pub(in crate::nats) struct Room {
    /// The number of free slots, out of `capacity`.
    pub(in crate::nats) free: usize,
    pub(in crate::nats) capacity: usize,
    pub(in crate::nats) bytes: usize,
    /// The largest message that the server accepts.
    pub(in crate::nats) largest: usize,
}

impl Credit {
    pub(in crate::nats) fn new() -> Self {
        Self {
            pulls: VecDeque::new(),
            outstanding: 0,
            bytes: 0,
            typical: FIRST_GUESS,
            is_unbounded: false,
            allowed: Allowed {
                batch: usize::MAX,
                bytes: usize::MAX,
                pulls: usize::MAX,
            },
        }
    }

    /// Sets the maximum number of messages of a pull.
    pub(in crate::nats) fn allow_batch(&mut self, batch: usize) {
        self.allowed.batch = batch.max(1);
    }

    /// Sets the maximum number of bytes of a pull.
    pub(in crate::nats) fn allow_bytes(&mut self, bytes: usize) {
        self.allowed.bytes = bytes;
    }

    /// Allows no more concurrent pulls than now, at least one. False when that limit was known already.
    pub(in crate::nats) fn allow_no_more_pulls(&mut self) -> bool {
        let pulls = self.pulls.len().max(1);
        let is_less = pulls < self.allowed.pulls;
        self.allowed.pulls = self.allowed.pulls.min(pulls);
        is_less
    }

    /// Removes the last pull, because the server has refused it.
    pub(in crate::nats) fn refused(&mut self) {
        if let Some(Sent { batch, bytes, .. }) = self.pulls.pop_back() {
            self.less(batch, bytes);
        }
    }

    pub(in crate::nats) fn is_outstanding(&self) -> bool {
        self.outstanding > 0
    }

    pub(in crate::nats) fn outstanding(&self) -> usize {
        self.outstanding
    }

    /// The next pull, if enough slots are free to be worth a request, and enough bytes for any message: a pull with
    /// fewer bytes might never be answered.
    pub(in crate::nats) fn next(&self, room: Room) -> Option<Pull> {
        let more = room.free.saturating_sub(self.outstanding);
        let is_worth_it = more > 0 && (self.outstanding == 0 || more >= room.capacity / 2);
        if !is_worth_it || self.pulls.len() >= self.allowed.pulls {
            return None;
        }
        let least = room.largest + AROUND;
        // With fewer bytes than that some messages would never come; a pull without a limit is always possible.
        if self.is_unbounded || self.allowed.bytes < least {
            return (self.outstanding == 0).then_some(Pull {
                batch: 1,
                max_bytes: None,
            });
        }
        let more = more.min(self.allowed.batch);
        let free = room.bytes.saturating_sub(self.bytes);
        let is_empty = self.outstanding == 0 && room.free == room.capacity;
        if free < least && !is_empty {
            return None;
        }
        let wanted = more.saturating_mul(self.typical).saturating_mul(2);
        Some(Pull {
            batch: more,
            max_bytes: Some(wanted.min(free).max(least).min(self.allowed.bytes)),
        })
    }

    /// Records a pull that the server forgets at `expires_at`, at the latest.
    pub(in crate::nats) fn sent(&mut self, pull: Pull, expires_at: Instant) {
        self.pulls.push_back(Sent {
            expires_at,
            batch: pull.batch,
            bytes: pull.max_bytes.unwrap_or(0),
        });
        self.outstanding += pull.batch;
        self.bytes += pull.max_bytes.unwrap_or(0);
        self.is_unbounded = false;
    }

    pub(in crate::nats) fn arrived(&mut self, size: usize) {
        self.typical = (self.typical * 7 + size) / 8;
        self.less(1, size);
    }

    /// A pull has ended with this much left.
    pub(in crate::nats) fn ended(&mut self, batch: usize, bytes: usize) {
        self.less(batch, bytes);
    }

    /// A pull with this much left has ended because the next message does not fit. If it had delivered nothing yet,
    /// that message is larger than any that the server accepts today.
    pub(in crate::nats) fn does_not_fit(&mut self, batch: usize) {
        self.is_unbounded = self.pulls.iter().any(|pull| pull.batch == batch);
    }

    /// Removes the pulls that have expired by now, whether or not the server has reported their end.
    pub(in crate::nats) fn remove_expired(&mut self, now: Instant) {
        while self.pulls.front().is_some_and(|pull| pull.expires_at < now) {
            self.pulls.pop_front();
        }
        let batch = self.pulls.iter().map(|pull| pull.batch).sum();
        let bytes = self.pulls.iter().map(|pull| pull.bytes).sum();
        let dead = self.outstanding.saturating_sub(batch);
        self.less(dead, self.bytes.saturating_sub(bytes));
    }

    pub(in crate::nats) fn forget(&mut self) {
        self.pulls.clear();
        self.outstanding = 0;
        self.bytes = 0;
    }

    fn less(&mut self, messages: usize, bytes: usize) {
        self.outstanding = self.outstanding.saturating_sub(messages);
        self.bytes = self.bytes.saturating_sub(bytes);
        if self.outstanding == 0 {
            self.forget();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const LARGEST: usize = 1024 * 1024;

    fn room(free: usize, bytes: usize) -> Room {
        Room {
            free,
            capacity: 16,
            bytes,
            largest: LARGEST,
        }
    }

    #[test]
    fn no_more_events_are_requested_than_free_slots() {
        let mut credit = Credit::new();
        let now = Instant::now();
        let first = credit.next(room(16, usize::MAX)).expect("a pull");
        credit.sent(first, now);
        assert_eq!(first.batch, 16);
        assert_eq!(credit.next(room(16, usize::MAX)), None);
        for _ in 0..8 {
            credit.arrived(100);
        }
        assert_eq!(credit.next(room(8, usize::MAX)), None);
        let more = credit.next(room(16, usize::MAX)).expect("a pull");
        assert_eq!(more.batch, 8);
    }

    #[test]
    fn a_pull_has_bytes_for_any_message_or_waits_until_it_has() {
        let mut credit = Credit::new();
        let tight = LARGEST / 2;
        // No message is held: a message that the server accepts must be deliverable.
        let pull = credit.next(room(16, tight)).expect("a pull");
        assert!(pull.max_bytes.expect("a bound") > LARGEST);
        assert_eq!(credit.next(room(15, tight)), None);
        let plenty = credit.next(room(15, 64 * LARGEST)).expect("a pull");
        assert!(plenty.max_bytes.expect("a bound") < 2 * LARGEST);
        for _ in 0..100 {
            credit.arrived(LARGEST);
        }
        let large = credit.next(room(15, 64 * LARGEST)).expect("a pull");
        assert!(large.max_bytes.expect("a bound") > 16 * LARGEST);
    }

    #[test]
    fn an_oversized_message_is_pulled_alone_without_a_bound() {
        let mut credit = Credit::new();
        let pull = credit.next(room(16, usize::MAX)).expect("a pull");
        credit.sent(pull, Instant::now());
        credit.does_not_fit(16);
        credit.ended(16, 0);
        let pull = credit.next(room(16, usize::MAX)).expect("a pull");
        assert_eq!((pull.batch, pull.max_bytes), (1, None));
        credit.sent(pull, Instant::now());
        credit.arrived(2 * LARGEST);
        let next = credit.next(room(15, usize::MAX)).expect("a pull");
        assert_eq!(next.batch, 15);
    }

    #[test]
    fn limits_of_the_server_on_pulls_are_obeyed() {
        let mut credit = Credit::new();
        let now = Instant::now();
        let refused = credit.next(room(16, usize::MAX)).expect("a pull");
        credit.sent(refused, now);
        credit.refused();
        credit.allow_batch(5);
        let pull = credit.next(room(16, usize::MAX)).expect("a pull");
        assert_eq!((pull.batch, credit.outstanding()), (5, 0));
        credit.sent(pull, now);
        credit.refused();
        credit.allow_bytes(2 * LARGEST);
        for _ in 0..100 {
            credit.arrived(LARGEST);
        }
        let pull = credit.next(room(16, usize::MAX)).expect("a pull");
        assert_eq!((pull.batch, pull.max_bytes), (5, Some(2 * LARGEST)));
        credit.allow_bytes(1_000);
        let pull = credit.next(room(16, usize::MAX)).expect("a pull");
        assert_eq!((pull.batch, pull.max_bytes), (1, None));
    }

    #[test]
    fn at_least_one_pull_waits_at_any_limit() {
        let mut credit = Credit::new();
        let now = Instant::now();
        assert!(credit.allow_no_more_pulls());
        assert!(!credit.allow_no_more_pulls());
        let pull = credit.next(room(8, usize::MAX)).expect("a pull");
        credit.sent(pull, now);
        assert_eq!(credit.next(room(16, usize::MAX)), None);
    }

    #[test]
    fn the_rest_of_an_ended_pull_is_not_outstanding() {
        let mut credit = Credit::new();
        let now = Instant::now();
        let pull = credit.next(room(16, usize::MAX)).expect("a pull");
        credit.sent(pull, now);
        credit.arrived(100);
        credit.ended(10, 0);
        assert_eq!(credit.outstanding(), 5);
        credit.remove_expired(now);
        assert_eq!(credit.outstanding(), 5);
        credit.remove_expired(now + Duration::from_millis(1));
        assert!(!credit.is_outstanding());
        assert_eq!(credit.bytes, 0);
    }
}
