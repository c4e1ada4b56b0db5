//! The events of the tests, and a state that records handler calls.

use std::sync::{Arc, Mutex};

use serde::{Deserialize, Serialize};
use tidings::{Context, Envelope, Event, EventId, Failure};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Event)]
#[event(name = "user.created", version = 1, key = id)]
pub struct User {
    pub id: String,
    pub email: String,
}

/// The n-th event of a key.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Event)]
#[event(name = "count.raised", version = 1, key = key)]
pub struct Counted {
    pub key: String,
    pub count: i64,
}

impl User {
    pub fn new(id: &str) -> Self {
        Self {
            id: id.to_owned(),
            email: format!("{id}@example.org"),
        }
    }
}

/// An event with an id of the test.
pub fn event(id: EventId, name: &str, key: &str, payload: &str) -> Envelope {
    let envelope = Envelope::raw(name, 1, Some(key), payload.to_owned());
    envelope.expect("an event").with_id(id)
}

/// Records handler calls. Clones share the records.
#[derive(Debug, Clone, Default)]
pub struct Noted(Arc<Mutex<Vec<String>>>);

impl Noted {
    pub fn note(&self, what: impl Into<String>) {
        self.0.lock().expect("no panic").push(what.into());
    }

    pub fn all(&self) -> Vec<String> {
        self.0.lock().expect("no panic").clone()
    }

    pub fn len(&self) -> usize {
        self.0.lock().expect("no panic").len()
    }

    pub async fn reach(&self, count: usize) {
        super::eventually(&format!("{count} notes"), || async { self.len() >= count }).await;
    }
}

/// A handler that records the ids of users.
pub async fn note_id(user: User, cx: Context<Noted>) -> Result<(), Failure> {
    cx.state().note(user.id);
    Ok(())
}

/// A handler that records the ids of users in replays alone.
pub async fn note_replayed_id(user: User, cx: Context<Noted>) -> Result<(), Failure> {
    if cx.is_replay() {
        cx.state().note(user.id);
    }
    Ok(())
}
