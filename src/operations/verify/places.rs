//! Checks the messages at the sequences where rows without a message of their own were confirmed. Never determines
//! those sequences.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    hash::{BuildHasher, RandomState},
};

use futures::{FutureExt, future::try_join_all};

use super::{
    Absence, DifferenceKind, VerifiedStream, Verify, VerifyError,
    compare::{altered, difference},
};
use crate::outbox::{Relayed, Store};

/// How many messages are read concurrently.
const LOOKS: usize = 64;

impl<DB: Store> Verify<DB> {
    /// Checks the messages where rows without one of their own were confirmed. The server took such a row for a
    /// duplicate, by its id: it is the same event, written twice, or another event. The remaining rows stay missing.
    pub(super) async fn look_at(
        &self,
        stream: &mut VerifiedStream,
        missing: &mut BTreeMap<i64, (Relayed, Absence)>,
        places: BTreeMap<i64, u64>,
        hasher: Option<&RandomState>,
    ) -> Result<(), VerifyError> {
        // Payloads that were not read before are compared here: both sides are available, and they are few.
        let own = RandomState::new();
        let seed = hasher.unwrap_or(&own);
        let places: Vec<(i64, u64)> = places.into_iter().collect();
        for places in places.chunks(LOOKS) {
            let name = stream.stream.clone();
            let look =
                |(_, sequence): &(i64, u64)| self.bus.stored_at(&name, *sequence, seed).boxed();
            let found = try_join_all(places.iter().map(look)).await?;
            for ((id, sequence), found) in places.iter().zip(found) {
                let Entry::Occupied(entry) = missing.entry(*id) else {
                    continue;
                };
                let Some(message) = found.filter(|found| found.event == entry.get().0.event) else {
                    continue;
                };
                let (mut row, _) = entry.remove();
                if row.payload.is_none() {
                    let whole = self.outbox.rows_at(&[*id]).await?.rows;
                    row.payload = whole.first().map(|whole| seed.hash_one(&*whole.payload));
                }
                match altered(&row, &message) {
                    None => stream.ok += 1,
                    what => {
                        let kind = DifferenceKind::Modified;
                        stream.tell(difference(kind, row, Some(*sequence), what));
                    }
                }
            }
        }
        Ok(())
    }
}
