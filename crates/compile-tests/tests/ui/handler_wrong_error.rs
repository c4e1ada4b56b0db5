//! A handler whose error is no verdict. `?` makes one of any error, but only into `Failure`.

use serde::{Deserialize, Serialize};
use tidings::{Context, Event, EventSubscriber};

#[derive(Serialize, Deserialize, Event)]
#[event(name = "user.created", version = 1, key = id)]
struct UserCreated {
    id: u64,
}

struct App;

async fn send_welcome(_: UserCreated, _: Context<App>) -> Result<(), String> {
    Ok(())
}

fn main() {
    let _ = EventSubscriber::<App>::durable("welcome-email").on(send_welcome);
}
