//! The JSON of an event is a contract, so it has no parameters.

use serde::{Deserialize, Serialize};
use tidings_contract::Event;

#[derive(Serialize, Deserialize, Event)]
#[event(name = "thing.changed", version = 1, keyless)]
struct Changed<T> {
    to: T,
}

fn main() {}
