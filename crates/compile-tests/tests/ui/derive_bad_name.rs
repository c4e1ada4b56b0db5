//! A name that no stream could carry is refused at the literal.

use serde::{Deserialize, Serialize};
use tidings_contract::Event;

#[derive(Serialize, Deserialize, Event)]
#[event(name = "UserCreated", version = 1, key = id)]
struct UpperCase {
    id: u64,
}

#[derive(Serialize, Deserialize, Event)]
#[event(name = "created", version = 1, key = id)]
struct OneWord {
    id: u64,
}

#[derive(Serialize, Deserialize, Event)]
#[event(name = "user.*", version = 1, key = id)]
struct Wildcard {
    id: u64,
}

#[derive(Serialize, Deserialize, Event)]
#[event(name = "tidings.woken", version = 1, key = id)]
struct Reserved {
    id: u64,
}

#[derive(Serialize, Deserialize, Event)]
#[event(name = user.created, version = 1, key = id)]
struct NotALiteral {
    id: u64,
}

fn main() {}
