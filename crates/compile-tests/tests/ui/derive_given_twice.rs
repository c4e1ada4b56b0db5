//! Everything is said once.

use serde::{Deserialize, Serialize};
use tidings_contract::Event;

#[derive(Serialize, Deserialize, Event)]
#[event(name = "user.created", name = "user.made", version = 1, key = id)]
struct Name {
    id: u64,
}

#[derive(Serialize, Deserialize, Event)]
#[event(name = "user.created", version = 1, key = id, keyless)]
struct Key {
    id: u64,
}

#[derive(Serialize, Deserialize, Event)]
#[event(name = "user.created", version = 1, key = id)]
#[event(name = "user.made", version = 2, key = id)]
struct Attribute {
    id: u64,
}

fn main() {}
