//! What lies in a stream where rows were confirmed that have no message of their own. Never decides where that is.

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

/// Messages that are looked at side by side.
const LOOKS: usize = 64;

impl<DB: Store> Verify<DB> {
    /// Looks at what lies where rows were confirmed that have no message of their own. Such a row was taken for one that
    /// the stream had, by its id: it is the same event, which was written twice, or another one. Others stay missing.
    pub(super) async fn look_at(
        &self,
        stream: &mut VerifiedStream,
        missing: &mut BTreeMap<i64, (Relayed, Absence)>,
        places: BTreeMap<i64, u64>,
        hasher: Option<&RandomState>,
    ) -> Result<(), VerifyError> {
        // What was read without payloads is compared with them here: both sides are at hand, and they are few.
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
                    None => stream.sound += 1,
                    what => {
                        let kind = DifferenceKind::Altered;
                        stream.tell(difference(kind, row, Some(*sequence), what));
                    }
                }
            }
        }
        Ok(())
    }
}
