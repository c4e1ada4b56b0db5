//! A handler that borrows the event, which is its own.

use serde::{Deserialize, Serialize};
use tidings::{Context, Event, EventSubscriber, Failure};

#[derive(Serialize, Deserialize, Event)]
#[event(name = "user.created", version = 1, key = id)]
struct UserCreated {
    id: u64,
}

struct App;

async fn send_welcome(_: &UserCreated, _: Context<App>) -> Result<(), Failure> {
    Ok(())
}

fn main() {
    let _ = EventSubscriber::<App>::durable("welcome-email").on(send_welcome);
}
