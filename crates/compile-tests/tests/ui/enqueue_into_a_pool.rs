//! Enqueueing outside a transaction: the event would commit without the state change.

use serde::{Deserialize, Serialize};
use tidings::{Event, Outbox, outbox::OutboxError};

#[derive(Serialize, Deserialize, Event)]
#[event(name = "user.created", version = 1, key = id)]
struct UserCreated {
    id: u64,
}

async fn sign_up(outbox: &Outbox<sqlx::Postgres>, pool: sqlx::PgPool) -> Result<(), OutboxError> {
    outbox.enqueue(&pool, &UserCreated { id: 7 }).await?;
    Ok(())
}

fn main() {}
