//! Whether a stream is still the one that the relay wrote to, and the recorded losses until an operator has settled
//! them. Never restores anything.

use chrono::Utc;

use super::{
    Outbox, OutboxError, Store,
    operate::Operation,
    store::{
        Position, Statements,
        losses::{Loss, Losses, Settled, StoredLoss, StreamState, losses_from, open},
        names::Names,
    },
};
use crate::nats::{At, Bus, BusError, StreamSnapshot};

/// The cure for a loss.
pub(super) const REPAIR: &str = "tidings verify --repair";

/// Compares a stream with a recorded position.
pub(crate) async fn state_of(
    bus: &Bus,
    stream: &str,
    position: &Position,
    state: Option<&StreamSnapshot>,
) -> Result<StreamState, BusError> {
    let Some(state) = state else {
        return Ok(StreamState::Missing);
    };
    if state.incarnation != position.incarnation {
        return Ok(StreamState::Recreated {
            was: position.incarnation.clone(),
            now: state.incarnation.clone(),
        });
    }
    let known = position.known();
    if state.last_sequence < known {
        return Ok(StreamState::Truncated {
            known,
            now: state.last_sequence,
        });
    }
    if let Some(last) = &position.last
        && last.sequence >= state.first_sequence
    {
        let at = bus.event_at(stream, last.sequence).await?;
        // A confirmed event may have been deleted since. A message without an id is another message.
        if at != At::Nothing && at != At::Event(last.event) {
            return Ok(StreamState::Diverged {
                sequence: last.sequence,
                event: last.event,
            });
        }
    }
    Ok(StreamState::Intact)
}

/// Returns the found losses that are new: a settled loss stays settled, and an open one keeps its start.
pub(super) fn noticed(stored: &Losses, noticed: Losses) -> Losses {
    let mut new = Losses::new();
    for (stream, mut loss) in noticed {
        match stored.get(&stream) {
            Some(known) if known.is(&loss) => continue,
            Some(known) if known.is_open() => loss.since = known.since,
            _ => {}
        }
        new.insert(stream, loss);
    }
    new
}

/// Stores the found losses; returns all that are known now.
pub(super) async fn store_new<DB: Statements>(
    connection: &mut DB::Connection,
    names: &Names,
    found: Losses,
) -> Result<Losses, sqlx::Error> {
    let mut stored = losses_from(&DB::losses(connection, names).await?)?;
    let new = noticed(&stored, found);
    if !new.is_empty() {
        write::<DB>(connection, names, &new).await?;
        stored.extend(new);
    }
    Ok(stored)
}

async fn write<DB: Statements>(
    connection: &mut DB::Connection,
    names: &Names,
    losses: &Losses,
) -> Result<(), sqlx::Error> {
    let text = serde_json::to_string(losses).map_err(|error| sqlx::Error::Encode(error.into()))?;
    DB::store_losses(connection, names, &text).await
}

/// The stored losses, for callers that look at streams.
pub(crate) struct KnownLosses(Losses);

impl KnownLosses {
    /// The state of a stream in view of the stored losses: an open loss counts until it is settled, and a settled one
    /// counts no longer, even when no relay has written to the stream since.
    pub(crate) fn judge(
        &self,
        stream: &str,
        found: StreamState,
        was: Option<&Position>,
    ) -> StreamState {
        let Some(known) = self.0.get(stream) else {
            return found;
        };
        let Some(was) = was.filter(|_| found != StreamState::Intact) else {
            return match known.is_open() {
                true => known.state.clone(),
                false => found,
            };
        };
        match !known.is_open() && known.is(&StoredLoss::new(found.clone(), was.clone())) {
            true => StreamState::Intact,
            false => found,
        }
    }
}

impl<DB: Store> Outbox<DB> {
    pub(crate) async fn known_losses(&self) -> Result<KnownLosses, OutboxError> {
        Ok(KnownLosses(self.stored_losses().await?))
    }

    /// Returns the streams that have lost events, as far as a relay or `verify` has noticed and no operator has settled
    /// it.
    ///
    /// # Errors
    /// [`OutboxError::NotMigrated`] without tables, else [`OutboxError::Database`].
    pub async fn losses(&self) -> Result<Vec<Loss>, OutboxError> {
        Ok(open(&self.stored_losses().await?))
    }

    /// Accepts what a stream has lost: relay and status no longer report it. Returns the loss; `None` when none is
    /// known for that stream.
    ///
    /// # Errors
    /// [`OutboxError::NotMigrated`] without tables, else [`OutboxError::Database`].
    ///
    /// # Cancel safety
    /// When the future is dropped, all of it has happened, or nothing. [`Outbox::losses`] shows it.
    pub async fn acknowledge_loss(&self, stream: &str) -> Result<Option<Loss>, OutboxError> {
        self.settle(stream, Settled::Accepted).await
    }

    pub(crate) async fn settle(
        &self,
        stream: &str,
        how: Settled,
    ) -> Result<Option<Loss>, OutboxError> {
        let mut losses = self.stored_losses().await?;
        let Some(mut loss) = losses.remove(stream).filter(StoredLoss::is_open) else {
            return Ok(None);
        };
        loss.settled = Some((Utc::now(), how));
        let shown = loss.shown(stream);
        tracing::warn!(stream, ?how, "stream loss settled");
        let settled = Losses::from([(stream.to_owned(), loss)]);
        let names = &self.shared.names;
        self.operate(Operation::One, async |connection| {
            write::<DB>(connection, names, &settled).await
        })
        .await?;
        Ok(Some(shown))
    }

    /// Stores what `verify` has found, which may notice a loss before the relay does.
    pub(crate) async fn notice(
        &self,
        stream: &str,
        state: &StreamState,
        was: &Position,
    ) -> Result<(), OutboxError> {
        let loss = StoredLoss::new(state.clone(), was.clone());
        let found = Losses::from([(stream.to_owned(), loss)]);
        let names = &self.shared.names;
        self.operate(Operation::One, async |connection| {
            store_new::<DB>(connection, names, found).await
        })
        .await
        .map(drop)
    }

    async fn stored_losses(&self) -> Result<Losses, OutboxError> {
        let names = &self.shared.names;
        self.operate(Operation::One, async |connection| {
            losses_from(&DB::losses(connection, names).await?)
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;
    use tidings_contract::EventId;

    use super::*;
    use crate::outbox::store::Last;

    fn loss(state: StreamState, sequence: u64, event: u8) -> Losses {
        let last = Last {
            sequence,
            event: EventId::from(uuid::Uuid::from_bytes([event; 16])),
        };
        let was = Position {
            last: Some(last),
            ..Position::new("then".to_owned(), sequence)
        };
        Losses::from([("A".to_owned(), StoredLoss::new(state, was))])
    }

    fn rolled_back(now: u64) -> StreamState {
        StreamState::Truncated { known: 9, now }
    }

    #[test]
    fn a_settled_loss_stays_settled_until_another_loss() {
        let mut stored = loss(rolled_back(5), 9, 1);
        stored.get_mut("A").unwrap().settled = Some((Utc::now(), Settled::Repaired));
        assert!(noticed(&stored, loss(rolled_back(7), 9, 1)).is_empty());
        // The same figures, and another event: a second loss.
        assert_eq!(noticed(&stored, loss(rolled_back(5), 9, 2)).len(), 1);
        assert_eq!(noticed(&stored, loss(StreamState::Missing, 9, 1)).len(), 1);
    }

    #[test]
    fn an_open_loss_keeps_its_start_when_it_gets_worse() {
        let mut stored = loss(rolled_back(5), 9, 1);
        stored.get_mut("A").unwrap().since = DateTime::UNIX_EPOCH;
        let worse = noticed(&stored, loss(StreamState::Missing, 9, 1));
        assert_eq!(worse["A"].since, DateTime::UNIX_EPOCH);
        assert_eq!(worse["A"].state, StreamState::Missing);
    }

    #[test]
    fn a_settled_loss_is_no_loss_before_the_relay_looks() {
        let mut stored = loss(rolled_back(5), 9, 1);
        let was = stored["A"].was.clone();
        let judge = |stored: &Losses, found: StreamState| {
            KnownLosses(stored.clone()).judge("A", found, Some(&was))
        };
        assert_eq!(judge(&stored, StreamState::Intact), rolled_back(5));
        assert_eq!(judge(&stored, rolled_back(7)), rolled_back(7));
        stored.get_mut("A").unwrap().settled = Some((Utc::now(), Settled::Accepted));
        assert_eq!(judge(&stored, rolled_back(7)), StreamState::Intact);
        assert_eq!(judge(&stored, StreamState::Intact), StreamState::Intact);
        assert_eq!(judge(&stored, StreamState::Missing), StreamState::Missing);
    }

    #[test]
    fn a_position_of_an_earlier_version_is_read() {
        let old: Position =
            serde_json::from_str(r#"{"incarnation": "then", "sequence": 7}"#).unwrap();
        assert_eq!(old, Position::new("then".to_owned(), 7));
    }
}
