//! A key is text: the field is reported at the attribute.

use serde::{Deserialize, Serialize};
use tidings_contract::Event;

#[derive(Serialize, Deserialize, Event)]
#[event(name = "user.created", version = 1, key = id)]
struct UserCreated {
    id: Option<u64>,
}

fn main() {}
