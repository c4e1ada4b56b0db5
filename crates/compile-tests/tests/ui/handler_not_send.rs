//! A handler that holds what must stay on its thread across an await.

use std::rc::Rc;

use serde::{Deserialize, Serialize};
use tidings::{Context, Event, EventSubscriber, Failure};

#[derive(Serialize, Deserialize, Event)]
#[event(name = "user.created", version = 1, key = id)]
struct UserCreated {
    id: u64,
}

struct App;

async fn send_welcome(event: UserCreated, _: Context<App>) -> Result<(), Failure> {
    let id = Rc::new(event.id);
    std::future::ready(()).await;
    drop(id);
    Ok(())
}

fn main() {
    let _ = EventSubscriber::<App>::durable("welcome-email").on(send_welcome);
}
