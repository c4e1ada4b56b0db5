//! The quickstart of README.md: POST /users writes a user and its event, and a subscriber welcomes the user. Needs a
//! nats-server with JetStream and Postgres.

use axum::{Json, Router, extract::State, http::StatusCode, routing::post};
use serde::{Deserialize, Serialize};
use sqlx::{PgPool, Postgres};
use tidings::{
    Bus, Context, Event, EventSubscriber, Failure, Outbox, Relay, StreamSpec, Worker,
    shutdown_signal,
};

type Error = Box<dyn std::error::Error + Send + Sync>;

#[derive(Deserialize)]
struct NewUser {
    email: String,
}

#[derive(Serialize, Deserialize, Event)]
#[event(name = "user.created", version = 1, key = id)]
struct UserCreated {
    id: i64,
    email: String,
}

async fn create_user(
    State(outbox): State<Outbox<Postgres>>,
    Json(NewUser { email }): Json<NewUser>,
) -> Result<Json<UserCreated>, StatusCode> {
    let mut tx = outbox.begin().await.map_err(failed)?;
    let id = sqlx::query_scalar("insert into users (email) values ($1) returning id")
        .bind(&email)
        .fetch_one(&mut *tx)
        .await
        .map_err(failed)?;
    let created = UserCreated { id, email };
    tx.publish(&created).map_err(failed)?;
    tx.commit().await.map_err(failed)?; // the row and the event, or neither
    Ok(Json(created))
}

fn failed(error: impl std::error::Error) -> StatusCode {
    eprintln!("user not created: {error}");
    StatusCode::INTERNAL_SERVER_ERROR
}

async fn send_welcome(event: UserCreated, _cx: Context<()>) -> Result<(), Failure> {
    println!("welcome, {}", event.email);
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Error> {
    let setting = |name: &str, default: &str| std::env::var(name).unwrap_or(default.to_owned());
    let bus = Bus::connect(setting("NATS_URL", "nats://127.0.0.1:4222")).await?;
    bus.setup([StreamSpec::new("EVENTS", ["user.>".parse()?])?])
        .await?;
    let url = setting("DATABASE_URL", "postgres://postgres@127.0.0.1/postgres");
    let pool = PgPool::connect(&url).await?;
    sqlx::query("create table if not exists users (id bigserial primary key, email text not null)")
        .execute(&pool)
        .await?;
    let outbox = Outbox::new(pool);
    outbox.migrate().await?;

    let app = Router::new().route("/users", post(create_user));
    let listener = tokio::net::TcpListener::bind(setting("LISTEN", "127.0.0.1:3000")).await?;
    println!("listening on http://{}", listener.local_addr()?);
    let server = axum::serve(listener, app.with_state(outbox.clone()))
        .with_graceful_shutdown(shutdown_signal());
    let worker = Worker::new(bus, ())
        .subscribe(EventSubscriber::durable("welcome-email").on(send_welcome))
        .with(Relay::new(outbox));
    let serve = async { server.await.map_err(Error::from) };
    let work = async { worker.run(shutdown_signal()).await.map_err(Error::from) };
    tokio::try_join!(serve, work)?; // Ctrl-C ends both, and an error of one ends the program
    Ok(())
}
