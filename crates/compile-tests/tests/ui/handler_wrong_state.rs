//! A handler for the state of another worker.

use serde::{Deserialize, Serialize};
use tidings::{Context, Event, EventSubscriber, Failure};

#[derive(Serialize, Deserialize, Event)]
#[event(name = "user.created", version = 1, key = id)]
struct UserCreated {
    id: u64,
}

struct App;

struct OtherApp;

async fn send_welcome(_: UserCreated, _: Context<OtherApp>) -> Result<(), Failure> {
    Ok(())
}

fn main() {
    let _ = EventSubscriber::<App>::durable("welcome-email").on(send_welcome);
}
