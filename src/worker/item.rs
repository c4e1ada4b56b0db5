//! A delivery on its way from its source through the runner. Never answers it.

use std::sync::Arc;

use super::in_flight_table::InFlightTable;
use crate::{executor::Delivery, nats::AckHandle};

/// A delivery, with what its end is reported to.
pub(super) struct Item {
    pub(super) delivery: Delivery,
    pub(super) ack: Arc<AckHandle>,
    /// Holds the delivery until it is settled, or let go.
    pub(super) in_flight: Arc<InFlightTable>,
    /// Whether the event waits for an instance that handles it, and takes no capacity in the meantime.
    pub(super) waits_unhandled: bool,
}
