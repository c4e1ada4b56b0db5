//! Reads one message of a stream by itself. Never decides what becomes of it.

use serde_json::json;

use crate::nats::{Bus, BusError, protocol::unreadable::Single};

impl Bus {
    /// The first message from a sequence on that matches these subjects, or any message without subjects; requested
    /// from the leader.
    pub(in crate::nats) async fn single_from(
        &self,
        stream: &str,
        subjects: &[String],
        from: u64,
    ) -> Result<Option<Single>, BusError> {
        let any = [">".to_owned()];
        let subjects = match subjects {
            [] => &any,
            subjects => subjects,
        };
        let mut first: Option<Single> = None;
        for subject in subjects {
            let wanted = json!({ "seq": from.max(1), "next_by_subj": subject });
            let Some(raw) = self.raw(stream, &wanted).await? else {
                continue;
            };
            let earlier = first.as_ref().map_or(u64::MAX, |first| first.sequence);
            if raw.sequence < earlier {
                first = Some(Single::new(raw));
            }
        }
        Ok(first)
    }
}
