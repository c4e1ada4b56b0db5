//! An event says its version.

use serde::{Deserialize, Serialize};
use tidings_contract::Event;

#[derive(Serialize, Deserialize, Event)]
#[event(name = "user.created", key = id)]
struct UserCreated {
    id: u64,
}

fn main() {}
