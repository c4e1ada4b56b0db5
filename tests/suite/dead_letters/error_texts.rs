//! P7: an event can be dead-lettered with any error text, of any length and in any script.

use std::fmt;

use sqlx::{Connection, Postgres, Sqlite};
use tidings::{
    Context, EventSubscriber, Failure, InboxTransaction, Outbox, Retry, Worker,
    dead_letters::{DeadLetterSelection, DeadLetters},
    handler::OnExhausted,
};
use tidings_test_servers::{NatsServer, PostgresServer};

use crate::{
    both,
    support::{Database, Noted, User, World, eventually},
};

both!(an_error_that_is_no_valid_database_text_is_stored);

#[derive(Debug)]
struct Odd(&'static str);

impl std::error::Error for Odd {}

impl fmt::Display for Odd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            "panics" => panic!("its text panics"),
            "long" => (0..1_000_000).try_for_each(|_| f.write_str("\u{1f600}\u{200b}")),
            text => f.write_str(text),
        }
    }
}

async fn reject<DB: Database>(
    user: User,
    tx: InboxTransaction<DB>,
    cx: Context<Noted>,
) -> Result<(), Failure> {
    drop(tx);
    cx.state().note(user.id.clone());
    let text = match &*user.id {
        "panics" => "panics",
        "long" => "long",
        _ => "line 1\nline 2 \u{0}\u{1b}[31m \u{1f600} \u{e9} \u{65e5}\u{672c} \u{2028}",
    };
    Err(Failure::reject(Odd(text)))
}

async fn an_error_that_is_no_valid_database_text_is_stored<DB: Database>(world: World<DB>) {
    let noted = Noted::default();
    let subscriber = EventSubscriber::durable("odd")
        .on_transactional(&world.outbox, reject::<DB>)
        .retry(Retry::never());
    let running = world.run(Worker::new(world.bus.clone(), noted.clone()).subscribe(subscriber));
    world
        .publish(&["panics", "long", "odd"].map(User::new))
        .await;
    eventually("the dead letters", || async {
        world.dead_letters().await.len() == 3
    })
    .await;
    let sql = format!(
        "select count(*) from {} where dead_letter is not null",
        DB::table("inbox")
    );
    eventually("the notes", || async {
        DB::number(world.outbox.pool(), &sql).await == 3
    })
    .await;
    running.stop().await.unwrap();
    for letter in world.dead_letters().await.0 {
        let error = letter.header("tidings-dead-error");
        assert!(
            error.len() <= 2_048 && !error.contains(char::is_control),
            "{error}"
        );
        let expected = match letter.json()["id"].as_str().unwrap() {
            "panics" => "panicked",
            "long" => "\u{1f600}\u{200b}\u{1f600}",
            _ => "line 1 line 2",
        };
        assert!(error.contains(expected), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn databases_of_other_encodings_store_dead_letter_errors() {
    let server = PostgresServer::options()
        .fsync(false)
        .start()
        .await
        .unwrap();
    for encoding in ["LATIN1", "SQL_ASCII", "EUC_JP"] {
        let mut connection = sqlx::PgConnection::connect(&server.url_of("postgres"))
            .await
            .unwrap();
        let name = format!("in_{}", encoding.to_lowercase());
        let create = format!(
            "create database {name} encoding '{encoding}' lc_collate 'C' lc_ctype 'C' template template0"
        );
        sqlx::raw_sql(sqlx::AssertSqlSafe(create))
            .execute(&mut connection)
            .await
            .unwrap();
        let pool = sqlx::PgPool::connect(&server.url_of(&name)).await.unwrap();
        let nats = NatsServer::start().await.unwrap();
        let world = World::<Postgres>::with((Outbox::new(pool), ()), nats).await;
        an_error_that_is_no_valid_database_text_is_stored(world).await;
    }
}

/// The error quotes the payload, and escaping makes its text three times as long.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_parked_even_with_a_very_long_error() {
    async fn handle(user: User, cx: Context<Noted>) -> Result<(), Failure> {
        cx.state().note(user.id);
        Ok(())
    }
    let world = World::<Sqlite>::start().await;
    let noted = Noted::default();
    let subscriber = EventSubscriber::durable("strict")
        .on(handle)
        .ordered_by_key()
        .on_exhausted(OnExhausted::ParkKey);
    let running = world.run(Worker::new(world.bus.clone(), noted.clone()).subscribe(subscriber));
    let payload = format!("\"{}\"", "\u{200b}".repeat(349_000));
    let key = b"ce-type: user.created.v1\r\nce-partitionkey: k";
    world
        .publish_raw_with(b"user.created", key, payload.as_bytes())
        .await;
    eventually("the dead letter", || async {
        world.dead_letters().await.len() == 1
    })
    .await;
    let letters = DeadLetters::new(&world.bus);
    let parked = letters
        .parked_keys(&DeadLetterSelection::default())
        .await
        .unwrap();
    assert_eq!(
        parked.iter().map(|parked| &*parked.key).collect::<Vec<_>>(),
        ["k"]
    );
    running.stop().await.unwrap();
    let letter = &world.dead_letters().await.0[0];
    let error = letter.header("tidings-dead-error");
    // Beside the payload there is little room for it.
    assert!(error.len() <= 2_048, "{error:.100}");
    assert_eq!(letter.payload.len(), payload.len());
}

/// The report of a rehearsal quotes errors, too, and is stored as an entry of the bucket.
#[tokio::test(flavor = "multi_thread")]
async fn a_rehearsal_ends_even_with_very_long_errors() {
    async fn handle(user: User, cx: Context<Noted>) -> Result<(), Failure> {
        cx.state().note(user.id);
        Ok(())
    }
    let world = World::<Sqlite>::start().await;
    let payload = format!("\"{}\"", "\u{200b}".repeat(300_000));
    for _ in 0..5 {
        world
            .publish_raw_with(b"user.created", b"x: 1", payload.as_bytes())
            .await;
    }
    let noted = Noted::default();
    let subscriber = EventSubscriber::durable("strict").on(handle);
    let running = world.run(Worker::new(world.bus.clone(), noted).subscribe(subscriber));
    eventually("the dead letters", || async {
        world.dead_letters().await.len() == 5
    })
    .await;
    let status = world
        .replayed("strict", &crate::support::everything().rehearse())
        .await;
    let report = status.progress.unwrap().rehearsal.unwrap();
    assert_eq!(report.errors.len(), 5);
    assert!(report.errors.iter().all(|error| error.error.len() <= 2_048));
    running.stop().await.unwrap();
}
