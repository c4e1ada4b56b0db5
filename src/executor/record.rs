//! Tells the observers how the deliveries of a subscriber end. Decides nothing.

use std::sync::Arc;

use super::{AckError, Delivery, Executor};
use crate::{
    observer::{DeliveryEnd, DeliveryFacts, Observation, Observers},
    policy::failure::told,
};

/// What each end of a delivery of one subscriber passes. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Ends {
    pub(super) subscriber: Arc<str>,
    pub(super) observers: Observers,
}

impl Ends {
    pub(crate) fn subscriber(&self) -> &str {
        &self.subscriber
    }

    pub(crate) fn arrived(&self) {
        self.observers.tell(&Observation::Arrived);
    }

    pub(crate) fn tell(&self, delivery: &Delivery, end: DeliveryEnd<'_>) {
        let of = DeliveryFacts {
            subscriber: &self.subscriber,
            event: delivery.event().map(|event| &**event),
            subject: &delivery.subject,
            stream: &delivery.stream,
            sequence: delivery.sequence,
            stored_at: delivery.stored_at,
            redrives: delivery.past.redrives,
            replay: delivery.replay.as_ref().map(|replay| replay.tag.id),
        };
        self.observers.tell(&Observation::Delivery(of, end));
    }
}

impl<S: Send + Sync + 'static> Executor<S> {
    pub(super) fn record(&self, delivery: &Delivery, end: DeliveryEnd<'_>) {
        self.ends.tell(delivery, end);
    }

    pub(super) fn record_unconfirmed(
        &self,
        delivery: &Delivery,
        answer: &str,
        tried: u32,
        error: &AckError,
    ) {
        let error = &*told(error);
        let end = DeliveryEnd::Unconfirmed {
            answer,
            tried,
            error,
        };
        self.record(delivery, end);
    }
}
