//! One id for each event among those that are written together. Pure.

use std::collections::HashMap;

use tidings_contract::{Envelope, EventId};

use super::{OutboxError, store::delayed::Delayed};
use crate::nats::Identity;

/// Keeps the first of equal events: an event that occurs twice, with the same id, name, version, key, payload and
/// headers, is written once. Two different events with one id are refused, because the stream would take the second for
/// a duplicate of the first. An event that is also delayed, or delayed twice, is refused, too.
pub(super) fn distinct(events: &mut Vec<Envelope>, delayed: &[Delayed]) -> Result<(), OutboxError> {
    if events.len() + delayed.len() < 2 {
        return Ok(());
    }
    let mut firsts: HashMap<EventId, &Envelope> = HashMap::with_capacity(events.len());
    let mut again = Vec::new();
    for (at, event) in events.iter().enumerate() {
        let first = *firsts.entry(event.id()).or_insert(event);
        if std::ptr::eq(first, event) {
            continue;
        }
        if !Identity::from(first).is(&Identity::from(event)) {
            return Err(two(first, event));
        }
        again.push(at);
    }
    for Delayed { envelope, .. } in delayed {
        if let Some(first) = firsts.insert(envelope.id(), envelope) {
            return Err(two(first, envelope));
        }
    }
    let (mut again, mut at) = (again.into_iter().peekable(), 0..);
    events.retain(|_| again.next_if_eq(&at.next().unwrap_or_default()).is_none());
    Ok(())
}

fn two(first: &Envelope, second: &Envelope) -> OutboxError {
    let shown = |envelope: &Envelope| match envelope.key() {
        Some(key) => format!("{} {key}", envelope.name()),
        None => envelope.name().to_string(),
    };
    OutboxError::DuplicateId {
        event: first.id(),
        first: shown(first),
        second: shown(second),
    }
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;

    use super::*;

    fn event(id: u8, name: &str, payload: &'static str) -> Envelope {
        let envelope = Envelope::raw(name, 1, Some("k"), payload).unwrap();
        envelope.with_id(EventId::from(uuid::Uuid::from_bytes([id; 16])))
    }

    fn written(events: &[Envelope], delayed: &[Envelope]) -> Result<Vec<String>, String> {
        let later = |envelope: &Envelope| Delayed::new(envelope.clone(), DateTime::UNIX_EPOCH);
        let delayed: Vec<_> = delayed.iter().map(later).collect();
        let mut events = events.to_vec();
        distinct(&mut events, &delayed).map_err(|error| error.to_string())?;
        Ok(events
            .iter()
            .map(|event| event.name().to_string())
            .collect())
    }

    #[test]
    fn the_same_event_twice_is_written_once_at_its_first_position() {
        let (a, b, c) = (
            event(1, "a.a", "{}"),
            event(2, "b.b", "{}"),
            event(3, "c.c", "{}"),
        );
        let events = [a.clone(), b.clone(), a.clone(), c, b, a];
        assert_eq!(written(&events, &[]).unwrap(), ["a.a", "b.b", "c.c"]);
    }

    #[test]
    fn two_events_with_one_id_are_refused_and_named() {
        let (a, b) = (event(1, "a.a", "{}"), event(1, "b.b", "{}"));
        let refused = written(&[a.clone(), event(2, "c.c", "{}"), b], &[]).unwrap_err();
        assert!(
            refused.contains("a.a k") && refused.contains("b.b k"),
            "{refused}"
        );
        assert!(written(&[a.clone(), event(1, "a.a", "[]")], &[]).is_err());
        let headed = event(1, "a.a", "{}").header("tenant", "acme").unwrap();
        assert!(written(&[a.clone(), headed], &[]).is_err());
        assert!(written(std::slice::from_ref(&a), std::slice::from_ref(&a)).is_err());
        assert!(written(&[], &[a.clone(), a.clone()]).is_err());
        assert!(written(std::slice::from_ref(&a), &[event(2, "a.a", "{}")]).is_ok());
    }
}
