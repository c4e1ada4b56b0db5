//! Publishing what has no name.

use tidings::{Outbox, outbox::OutboxError};

struct User {
    id: u64,
}

async fn sign_up(outbox: &Outbox<sqlx::Postgres>) -> Result<(), OutboxError> {
    let mut tx = outbox.begin().await?;
    tx.publish(&User { id: 7 })?;
    tx.commit().await
}

fn main() {}
