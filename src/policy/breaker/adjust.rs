//! A circuit whose policy or load changes while it counts. The time is passed in.

use std::time::Instant;

use super::{Change, Circuit, CircuitBreaker, Load, Slow, State, Window};

impl Circuit {
    pub(crate) fn policy(&self) -> CircuitBreaker {
        self.policy
    }

    /// Changes policy and load. A circuit that is open stays open, but not longer than the new policy says; one that
    /// is switched off closes. What was counted stays, unless the window has another length.
    pub(crate) fn adjust(
        &mut self,
        policy: CircuitBreaker,
        load: Load,
        now: Instant,
    ) -> Option<Change> {
        if policy.window != self.policy.window {
            self.window = Window::new(policy.window);
        }
        let slow = Slow::of(policy, load);
        let spans = |slow: &Slow| (slow.longer_than, slow.length);
        if slow.as_ref().map(spans) != self.slow.as_ref().map(spans) {
            self.slow = slow;
        }
        self.policy = policy;
        let State::Open { until, pause, .. } = &mut self.state else {
            return None;
        };
        if policy.is_off() {
            self.window = Window::new(policy.window);
            self.slow.iter_mut().for_each(Slow::forget);
            self.state = State::Closed;
            return Some(Change::Closed);
        }
        *pause = (*pause).min(policy.longest);
        *until = (*until).min(now + *pause);
        None
    }
}
