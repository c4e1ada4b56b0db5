//! A handler of batches that does not take the transaction that it is to work in.

use serde::{Deserialize, Serialize};
use tidings::{handler::{BatchContext, Item}, Batching, Event, EventSubscriber, Failure, Outbox, BatchResult};

#[derive(Serialize, Deserialize, Event)]
#[event(name = "user.created", version = 1, key = id)]
struct UserCreated {
    id: u64,
}

struct App;

async fn count(_: Vec<Item<UserCreated>>, _: BatchContext<App>) -> Result<BatchResult, Failure> {
    Ok(BatchResult::done())
}

fn subscribe(outbox: &Outbox<sqlx::Postgres>) -> EventSubscriber<App> {
    EventSubscriber::durable("counts").on_batch_transactional(outbox, Batching::of(100), count)
}

fn main() {
    let _ = subscribe;
}
