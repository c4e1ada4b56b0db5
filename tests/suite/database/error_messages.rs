//! Errors of a database are reported with all helpful details, and without the line in the database's own source.

use sqlx::Postgres;
use tidings::{
    Context, EventSubscriber, Failure, Retry, Worker,
    dead_letters::{DeadLetterSelection, DeadLetters},
    error_text::error_texts,
    outbox::OutboxError,
};

use crate::support::{Database, User, World, eventually};

async fn said(world: &World<Postgres>, sql: &'static str) -> sqlx::Error {
    let ran = sqlx::raw_sql(sql).execute(world.outbox.pool()).await;
    ran.unwrap_err()
}

#[tokio::test]
async fn a_postgres_error_has_code_detail_and_hint() {
    let world = World::<Postgres>::start().await;
    for (sql, expected) in [
        (
            "select * from nowhere",
            "relation \"nowhere\" does not exist (42P01)",
        ),
        (
            "insert into counter values ('a', 1), ('a', 2)",
            "duplicate key value violates unique constraint \"counter_pkey\" (23505); detail: Key (key)=(a) already exists.",
        ),
        (
            "select tidings.enqueue('User', 1, null, '{}')",
            "tidings: 'User' is not an event name (22023); hint: Use two or more lower-case words",
        ),
    ] {
        let error = said(&world, sql).await;
        assert!(
            error.to_string().contains(" at line "),
            "the client's own words: {error}"
        );
        let error = OutboxError::Database(error.into());
        let texts = error_texts(&error);
        assert_eq!(texts[0], "the database failed");
        assert!(texts[1].starts_with(expected), "{texts:?}");
        assert_eq!(texts.len(), 2);
        let failure = Failure::retry(error);
        assert!(failure.to_string().contains(expected), "{failure}");
        assert!(!failure.to_string().contains(" at line "), "{failure}");
    }
}

#[tokio::test]
async fn a_dead_letter_has_the_database_error_of_its_handler() {
    async fn fail(_: User, cx: Context<sqlx::PgPool>) -> Result<(), Failure> {
        sqlx::query("select * from nowhere")
            .execute(cx.state())
            .await?;
        Ok(())
    }
    let world = World::<Postgres>::start().await;
    let mail = EventSubscriber::durable("mail")
        .on(fail)
        .retry(Retry::never());
    let pool = world.outbox.pool().clone();
    let running = world.run(Worker::new(world.bus.clone(), pool).subscribe(mail));
    let relay = world.relay();
    Postgres::word(
        world.outbox.pool(),
        "select tidings.enqueue('user.created', 1, 'ada', '{\"id\": \"ada\", \"email\": \"a@x\"}')::text",
    )
    .await;
    eventually("there is a letter", || async {
        world.dead_letters().await.len() == 1
    })
    .await;
    relay.stop().await.unwrap();
    running.stop().await.unwrap();
    let letters = DeadLetters::new(&world.bus);
    let mut letters = letters.read(DeadLetterSelection::default()).await.unwrap();
    let letter = letters.next().await.unwrap().unwrap();
    assert_eq!(letter.error, "relation \"nowhere\" does not exist (42P01)");
}
