//! The events in an outbox, typed. Never writes to one.

use tidings_contract::{Envelope, Event};

#[cfg(feature = "outbox")]
use crate::outbox::{Outbox, Store};

/// The events of one kind in an outbox, in its order, whether a relay has published them or not; for tests of code that
/// publishes. Delayed events are in [`Outbox::delayed`].
///
/// ```
/// use serde::{Deserialize, Serialize};
/// use tidings::{Event, Outbox, testing::published};
///
/// #[derive(Serialize, Deserialize, Event)]
/// #[event(name = "user.created", version = 1, key = id)]
/// struct UserCreated {
///     id: u32,
/// }
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let outbox = Outbox::temporary().await?;
/// let mut tx = outbox.begin().await?;
/// tx.publish(&UserCreated { id: 1 })?;
/// tx.commit().await?;
///
/// let created: Vec<UserCreated> = published(&outbox).await;
/// assert_eq!(created[0].id, 1);
/// # Ok(()) }
/// ```
///
/// # Panics
/// When the outbox cannot be read, or an event does not decode.
#[cfg(feature = "outbox")]
pub async fn published<E: Event, DB: Store>(outbox: &Outbox<DB>) -> Vec<E> {
    match outbox.contents().await {
        Ok(envelopes) => typed(&envelopes),
        Err(error) => panic!("the outbox cannot be read: {error}"),
    }
}

/// The events of one kind.
pub(super) fn typed<E: Event>(envelopes: &[Envelope]) -> Vec<E> {
    let is_one = |envelope: &&Envelope| {
        (envelope.name().as_str(), envelope.version()) == (E::NAME, E::VERSION)
    };
    let decoded = envelopes.iter().filter(is_one).map(|envelope| {
        let decoded = envelope.decode();
        decoded.unwrap_or_else(|error| panic!("{} {}: {error}", E::NAME, envelope.id()))
    });
    decoded.collect()
}
