//! A slip of the pen is not passed over.

use serde::{Deserialize, Serialize};
use tidings_contract::Event;

#[derive(Serialize, Deserialize, Event)]
#[event(name = "user.created", verison = 1, key = id)]
struct UserCreated {
    id: u64,
}

fn main() {}
