//! One attempt at a delivery: what each of its steps needs. Never decides anything.

use tokio_util::sync::CancellationToken;

use super::Delivery;
use crate::policy::breaker::Permit;

/// One attempt at a delivery.
pub(crate) struct Attempt<'a, A> {
    pub(crate) delivery: &'a mut Delivery,
    /// Answers the delivery.
    pub(crate) ack: &'a A,
    /// Cancelled when the worker halts: what still runs is handed back.
    pub(crate) halt: &'a CancellationToken,
    /// Allows the attempt. Each attempt ends its permit once.
    pub(crate) permit: Permit,
}

impl<'a, A> Attempt<'a, A> {
    /// The same attempt, for a step after which more is to be done.
    pub(crate) fn reborrow(&mut self) -> Attempt<'_, A> {
        Attempt {
            delivery: &mut *self.delivery,
            ack: self.ack,
            halt: self.halt,
            permit: self.permit,
        }
    }

    /// The same attempt, answered in another way.
    pub(crate) fn answered_by<B>(self, ack: &'a B) -> Attempt<'a, B> {
        Attempt {
            delivery: self.delivery,
            ack,
            halt: self.halt,
            permit: self.permit,
        }
    }
}
