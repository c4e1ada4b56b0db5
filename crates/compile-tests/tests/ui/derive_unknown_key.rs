//! A key is a field.

use serde::{Deserialize, Serialize};
use tidings_contract::Event;

#[derive(Serialize, Deserialize, Event)]
#[event(name = "user.created", version = 1, key = user_id)]
struct UserCreated {
    id: u64,
    email: String,
}

#[derive(Serialize, Deserialize, Event)]
#[event(name = "user.created", version = 1, key = id)]
struct Tuple(u64);

fn main() {}
