//! Reports to the keeper what a stream has confirmed. Never sends anything.

use super::{Item, RelayLane};
use crate::outbox::{
    relay::{
        fault::Fault,
        progress::{Confirmation, Origin, Report, by_page},
    },
    store::{Cursor, Entry, Last},
};

impl<C: Cursor> RelayLane<C> {
    pub(super) async fn confirm(&self, items: &[Item], entries: Vec<Entry>) -> Result<(), Fault> {
        let last = entries.iter().max_by_key(|entry| entry.last_sequence);
        let last = last.and_then(|entry| {
            let mut items = items.iter();
            let item = items.find(|item| item.row.id == entry.last_id)?;
            Some(Last {
                sequence: entry.last_sequence,
                event: item.row.event,
            })
        });
        let returned = items
            .iter()
            .filter(|item| item.note.origin == Origin::Parked)
            .map(|item| item.row.id)
            .collect();
        self.context
            .report(Report::Confirmed(Confirmation {
                pages: by_page(items.iter().map(|item| item.note.origin)),
                entries,
                last,
                returned,
            }))
            .await
    }
}
