//! The derive alone does not say what the event is.

use serde::{Deserialize, Serialize};
use tidings_contract::Event;

#[derive(Serialize, Deserialize, Event)]
struct UserCreated {
    id: u64,
}

fn main() {}
