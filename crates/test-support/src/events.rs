//! The events of the tests, and a state that records handler calls.

use std::sync::{Arc, Mutex};

use serde::{Deserialize, Serialize};
use tidings::Event;

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
