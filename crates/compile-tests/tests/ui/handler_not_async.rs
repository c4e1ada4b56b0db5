//! A handler that is not `async`.

use serde::{Deserialize, Serialize};
use tidings::{Context, Event, EventSubscriber, Failure};

#[derive(Serialize, Deserialize, Event)]
#[event(name = "user.created", version = 1, key = id)]
struct UserCreated {
    id: u64,
}

struct App;

fn send_welcome(_: UserCreated, _: Context<App>) -> Result<(), Failure> {
    Ok(())
}

fn main() {
    let _ = EventSubscriber::<App>::durable("welcome-email").on(send_welcome);
}
