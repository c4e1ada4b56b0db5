//! A handler of batches that does not say what became of the events.

use serde::{Deserialize, Serialize};
use tidings::{handler::{BatchContext, Item}, Batching, Event, EventSubscriber, Failure};

#[derive(Serialize, Deserialize, Event)]
#[event(name = "user.created", version = 1, key = id)]
struct UserCreated {
    id: u64,
}

struct App;

async fn count(_: Vec<Item<UserCreated>>, _: BatchContext<App>) -> Result<(), Failure> {
    Ok(())
}

fn main() {
    let _ = EventSubscriber::<App>::durable("counts").on_batch(Batching::of(100), count);
}
