//! Which of the deliveries that a source has pulled go to the runner. Never pulls, and never handles an event.

use std::sync::Arc;

use super::item::Item;
use crate::{executor::Ends, replay::tag::Replaying};

/// What a source does with a new delivery.
pub(super) trait Intake: Send + Sync + 'static {
    /// The replay whose consumer it is; `None` for a consumer of live events.
    fn replay(&self) -> Option<&Arc<Replaying>>;

    /// What the ends of its deliveries pass.
    fn ends(&self) -> &Ends;

    /// Returns the delivery if the runner is to receive it. Otherwise it is acknowledged here, and released.
    fn admit(&self, item: Item) -> impl Future<Output = Option<Item>> + Send;
}
