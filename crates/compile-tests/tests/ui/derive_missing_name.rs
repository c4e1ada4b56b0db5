//! An event says its name.

use serde::{Deserialize, Serialize};
use tidings_contract::Event;

#[derive(Serialize, Deserialize, Event)]
#[event(version = 1, key = id)]
struct UserCreated {
    id: u64,
}

fn main() {}
