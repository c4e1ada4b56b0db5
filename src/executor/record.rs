//! Tells the observers how deliveries end. Decides nothing.

use super::{AckError, Delivery, Executor};
use crate::{
    observer::{DeliveryEnd, DeliveryFacts, Observation},
    policy::failure::told,
};

impl<S: Send + Sync + 'static> Executor<S> {
    pub(super) fn record(&self, delivery: &Delivery, end: DeliveryEnd<'_>) {
        let of = DeliveryFacts {
            subscriber: &self.name,
            event: delivery.event().map(|event| &**event),
            subject: &delivery.subject,
            stream: &delivery.stream,
            sequence: delivery.sequence,
            replay: delivery.replay.as_ref().map(|replay| replay.tag.id),
        };
        self.observers.tell(&Observation::Delivery(of, end));
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
