//! A handler of one event where batches are handled.

use serde::{Deserialize, Serialize};
use tidings::{handler::BatchContext, Batching, Event, EventSubscriber, Failure, BatchResult};

#[derive(Serialize, Deserialize, Event)]
#[event(name = "user.created", version = 1, key = id)]
struct UserCreated {
    id: u64,
}

struct App;

async fn count(_: UserCreated, _: BatchContext<App>) -> Result<BatchResult, Failure> {
    Ok(BatchResult::done())
}

fn main() {
    let _ = EventSubscriber::<App>::durable("counts").on_batch(Batching::of(100), count);
}
