//! A version is a whole number from 1 to 2147483647.

use serde::{Deserialize, Serialize};
use tidings_contract::Event;

#[derive(Serialize, Deserialize, Event)]
#[event(name = "user.created", version = 0, key = id)]
struct Zero {
    id: u64,
}

#[derive(Serialize, Deserialize, Event)]
#[event(name = "user.created", version = 2147483648, key = id)]
struct TooLarge {
    id: u64,
}

#[derive(Serialize, Deserialize, Event)]
#[event(name = "user.created", version = "1", key = id)]
struct Text {
    id: u64,
}

fn main() {}
