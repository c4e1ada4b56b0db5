//! The quickstart of README.md: a user signs up and gets a welcome mail. Needs a nats-server with JetStream.

use serde::{Deserialize, Serialize};
use tidings::{
    Bus, Context, Event, EventSubscriber, Failure, Outbox, Relay, StreamSpec, Worker,
    shutdown_signal,
};

#[derive(Serialize, Deserialize, Event)]
#[event(name = "user.created", version = 1, key = id)]
struct UserCreated {
    id: i64,
    email: String,
}

async fn send_welcome(event: UserCreated, _cx: Context<()>) -> Result<(), Failure> {
    println!("welcome, {}", event.email);
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let bus = Bus::connect("nats://127.0.0.1:4222").await?;
    bus.setup([StreamSpec::new("EVENTS", ["user.>".parse()?])?])
        .await?;
    let outbox = Outbox::open("quickstart.db").await?;
    outbox.migrate().await?;

    let mut tx = outbox.begin().await?;
    sqlx::query("create table if not exists user (id integer primary key, email text)")
        .execute(&mut *tx)
        .await?;
    let id = sqlx::query_scalar("insert into user (email) values ($1) returning id")
        .bind("ada@example.org")
        .fetch_one(&mut *tx)
        .await?;
    tx.publish(&UserCreated {
        id,
        email: "ada@example.org".into(),
    })?;
    tx.commit().await?; // the row and the event, or neither

    Worker::new(bus, ())
        .subscribe(EventSubscriber::durable("welcome-email").on(send_welcome))
        .with(Relay::new(outbox))
        .run(shutdown_signal())
        .await?;
    Ok(())
}
