//! Events whose names no handler of this instance takes: the durable delivers more names than it knows. They wait for
//! an instance that takes them, and use no capacity of the events that are handled. Never decides when an event is
//! dead-lettered.

use std::sync::Arc;

use super::Run;
use crate::{
    executor::{Attempt, Disposition},
    policy::breaker::Permit,
    worker::item::Item,
};

impl<S: Send + Sync + 'static> Run<S> {
    /// Whether this instance processes an event, if only to drop it with its replay.
    pub(super) fn is_ours(&self, item: &Item) -> bool {
        self.executor.takes(&item.delivery)
            || item.delivery.replay.is_some()
            || item.ack.question().is_some()
    }

    /// Leaves an event to another instance, beside the events that are handled here: it uses no capacity, and neither
    /// the circuit nor the rate limit applies to it.
    pub(super) fn leave(&mut self, mut item: Item) {
        while self.leaving.try_join_next().is_some() {}
        let (executor, halt) = (Arc::clone(&self.executor), self.halt.clone());
        self.leaving.spawn(async move {
            let attempt = Attempt {
                delivery: &mut item.delivery,
                ack: &*item.ack,
                halt: &halt,
                permit: Permit::default(),
            };
            match executor.leave(attempt).await {
                Disposition::Settled => item.in_flight.release(item.delivery.position),
                Disposition::Abandoned | Disposition::RetryLocally(_) => {
                    item.in_flight.let_go(item.delivery.position);
                }
            }
        });
    }

    /// With order, the event waits here, at the head of its key, and takes no capacity.
    pub(super) fn begin_unhandled_wait(&self, item: &mut Item) {
        if !item.waits_unhandled && !self.is_ours(item) {
            item.waits_unhandled = true;
            item.in_flight.hold_up();
            self.executor
                .tally()
                .unhandled_waits(&item.delivery.subject);
        }
    }

    pub(super) fn end_unhandled_wait(&self, item: &Item) {
        if item.waits_unhandled {
            item.in_flight.go_on();
            self.executor.tally().unhandled_ends(&item.delivery.subject);
        }
    }
}
