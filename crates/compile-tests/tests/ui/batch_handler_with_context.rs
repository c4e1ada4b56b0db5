//! A handler of batches with the context of a single event.

use serde::{Deserialize, Serialize};
use tidings::{Batching, Context, Event, EventSubscriber, Failure, handler::Item, BatchResult};

#[derive(Serialize, Deserialize, Event)]
#[event(name = "user.created", version = 1, key = id)]
struct UserCreated {
    id: u64,
}

struct App;

async fn count(_: Vec<Item<UserCreated>>, _: Context<App>) -> Result<BatchResult, Failure> {
    Ok(BatchResult::done())
}

fn main() {
    let _ = EventSubscriber::<App>::durable("counts").on_batch(Batching::of(100), count);
}
