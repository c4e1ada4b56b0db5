//! A handler that takes the event only.

use serde::{Deserialize, Serialize};
use tidings::{Event, EventSubscriber, Failure};

#[derive(Serialize, Deserialize, Event)]
#[event(name = "user.created", version = 1, key = id)]
struct UserCreated {
    id: u64,
}

struct App;

async fn send_welcome(_: UserCreated) -> Result<(), Failure> {
    Ok(())
}

fn main() {
    let _ = EventSubscriber::<App>::durable("welcome-email").on(send_welcome);
}
