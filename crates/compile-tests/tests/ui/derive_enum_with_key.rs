//! An enum has no field of its own.

use serde::{Deserialize, Serialize};
use tidings_contract::Event;

#[derive(Serialize, Deserialize, Event)]
#[event(name = "user.created", version = 1, key = id)]
enum UserCreated {
    ByHand { id: u64 },
    Imported { id: u64 },
}

fn main() {}
