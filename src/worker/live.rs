//! The intake of a consumer of live events and retries. Never handles an event.

use std::sync::Arc;

use super::{answers::pass_over, intake::Intake, item::Item, replays::ReplayRegistry};
use crate::{executor::Ends, nats::Bus, observer::DeliveryEnd, replay::tag::Replaying};

/// Lets all events pass. What is not an event is acknowledged.
#[derive(Clone)]
pub(super) struct Live {
    pub(super) bus: Bus,
    /// Where the retries of replayed events are counted.
    pub(super) registry: Arc<ReplayRegistry>,
    pub(super) ends: Ends,
}

impl Intake for Live {
    fn replay(&self) -> Option<&Arc<Replaying>> {
        None
    }

    fn ends(&self) -> &Ends {
        &self.ends
    }

    async fn admit(&self, mut item: Item) -> Option<Item> {
        if item.ack.is_marker() {
            self.ends.tell(&item.delivery, DeliveryEnd::Marker);
            pass_over(&item).await;
            return None;
        }
        if let Some(replay) = &mut item.delivery.replay {
            self.registry.join(&self.bus, replay).await;
        }
        Some(item)
    }
}
