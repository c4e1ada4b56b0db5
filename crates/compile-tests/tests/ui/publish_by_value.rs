//! Publishing an event without the `&`.

use serde::{Deserialize, Serialize};
use tidings::{Event, Outbox, outbox::OutboxError};

#[derive(Serialize, Deserialize, Event)]
#[event(name = "user.created", version = 1, key = id)]
struct UserCreated {
    id: u64,
}

async fn sign_up(outbox: &Outbox<sqlx::Postgres>) -> Result<(), OutboxError> {
    let mut tx = outbox.begin().await?;
    tx.publish(UserCreated { id: 7 })?;
    tx.commit().await
}

fn main() {}
