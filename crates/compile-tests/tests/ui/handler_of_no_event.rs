//! A handler of a type without the derive.

use tidings::{Context, EventSubscriber, Failure};

struct UserCreated;

struct App;

async fn send_welcome(_: UserCreated, _: Context<App>) -> Result<(), Failure> {
    Ok(())
}

fn main() {
    let _ = EventSubscriber::<App>::durable("welcome-email").on(send_welcome);
}
