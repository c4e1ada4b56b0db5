//! Answers to the server about deliveries, other than their outcome. Never decides an outcome.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures::future::join_all;

use super::{in_flight_table::InFlightTable, item::Item};
use crate::{executor::Acknowledger, nats::AckHandle, position::Position};

/// The pause before an unconfirmed ack is sent again.
const PAUSE: Duration = Duration::from_secs(5);

/// Sends progress for deliveries in flight. Without it the server would redeliver them to another instance.
pub(super) async fn tell_progress(subscriber: &str, in_flight: &InFlightTable, age: Duration) {
    for ack in in_flight.older_than(age) {
        if let Err(error) = ack.progress().await {
            if let Some(unsaid) = in_flight.unanswered().again(Instant::now()) {
                tracing::warn!(subscriber, %error, unsaid, "progress not sent: the event may be redelivered");
            }
            return;
        }
    }
}

/// Acknowledges an event that was handled before, until the ack is confirmed. Until then it may be redelivered, and
/// must be recognized.
pub(super) async fn acknowledge_again(
    ack: Arc<AckHandle>,
    in_flight: Arc<InFlightTable>,
    at: Position,
) {
    while let Err(error) = ack.ack().await {
        let sequence = at.sequence;
        if let Some(unsaid) = in_flight.ack_pending().again(Instant::now()) {
            tracing::warn!(sequence, %error, unsaid, "handled event not acknowledged");
        }
        tokio::time::sleep(PAUSE).await;
    }
    in_flight.release(at);
}

/// Acknowledges a message that is not an event. If the ack is lost, the message is redelivered and acknowledged again.
pub(super) async fn pass_over(item: &Item) {
    match item.ack.ack_unconfirmed().await {
        Ok(()) => item.in_flight.release(item.delivery.position),
        Err(_) => item.in_flight.let_go(item.delivery.position),
    }
}

/// Hands deliveries back to other instances.
pub(super) async fn hand_back(subscriber: &str, deliveries: impl Iterator<Item = Arc<AckHandle>>) {
    let answers = deliveries.map(|ack| async move { ack.hand_back(Duration::ZERO).await });
    let answered = join_all(answers).await;
    let mut failed = answered.into_iter().filter_map(Result::err);
    if let Some(error) = failed.next() {
        let events = 1 + failed.count();
        tracing::warn!(subscriber, events, %error, "events not handed back: they are redelivered");
    }
}
