//! A type without the derive is told which one is missing.

use tidings_contract::Envelope;

struct UserCreated {
    id: u64,
}

fn main() {
    let _ = Envelope::of(&UserCreated { id: 7 });
}
