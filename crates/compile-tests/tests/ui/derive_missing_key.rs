//! An event has a key, or says that no order is wanted.

use serde::{Deserialize, Serialize};
use tidings_contract::Event;

#[derive(Serialize, Deserialize, Event)]
#[event(name = "user.created", version = 1)]
struct UserCreated {
    id: u64,
}

fn main() {}
