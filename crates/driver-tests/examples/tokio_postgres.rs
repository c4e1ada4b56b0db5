//! A service on tokio-postgres enqueues an event in its own transaction. Run `tidings migrate` before, and `tidings relay`
//! beside it.

use serde::{Deserialize, Serialize};
use tidings::{Enqueue, Event};
use tokio_postgres::{NoTls, Transaction};

#[derive(Serialize, Deserialize, Event)]
#[event(name = "user.created", version = 1, key = id)]
struct UserCreated {
    id: i64,
    email: String,
}

async fn publish(
    tx: &Transaction<'_>,
    event: &impl Event,
) -> Result<(), Box<dyn std::error::Error>> {
    let insert = Enqueue::postgres().statement(event)?;
    tx.execute(
        &*insert.sql,
        &[
            insert.event.as_uuid(),
            &insert.name,
            &insert.version,
            &insert.key,
            &insert.headers,
            &&insert.payload[..],
        ],
    )
    .await?;
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let url = std::env::var("DATABASE_URL")?;
    let (mut client, connection) = tokio_postgres::connect(&url, NoTls).await?;
    let connection = tokio::spawn(connection);
    client
        .batch_execute(
            "create table if not exists users (id bigint generated always as identity, email text)",
        )
        .await?;

    let tx = client.transaction().await?;
    let email = "ada@example.org";
    let insert = "insert into users (email) values ($1) returning id";
    let id = tx.query_one(insert, &[&email]).await?.get(0);
    let email = email.to_owned();
    publish(&tx, &UserCreated { id, email }).await?;
    tx.commit().await?; // the row and the event, or neither

    drop(client);
    Ok(connection.await??)
}
