//! The database is restored from a backup: the relay's cursor, and the effects of handlers.

use std::{fs, time::Duration};

use sqlx::{Connection, PgConnection, Postgres, Row, Sqlite, SqliteConnection};
use tidings::{
    Context, EventSubscriber, Failure, InboxTransaction, Outbox, testing::PostgresServer,
};

use super::{Desk, Renamed, Runbook, SUBSCRIBER, Service, World, eventually};
use crate::support::Store;

const TABLE: &str = "create table greeted (name text not null)";
const GREET: &str = "insert into greeted (name) values ($1)";
const GREETED: &str = "select name from greeted order by name";

async fn greet_once_on_postgres(
    event: Renamed,
    mut tx: InboxTransaction<Postgres>,
    _: Context<Desk>,
) -> Result<(), Failure> {
    sqlx::query(GREET)
        .bind(event.name)
        .execute(&mut *tx)
        .await?;
    Ok(())
}

async fn greet_once_on_sqlite(
    event: Renamed,
    mut tx: InboxTransaction<Sqlite>,
    _: Context<Desk>,
) -> Result<(), Failure> {
    sqlx::query(GREET)
        .bind(event.name)
        .execute(&mut *tx)
        .await?;
    Ok(())
}

impl World {
    /// The subscriber whose effect is in the world's database.
    async fn once(&self) -> EventSubscriber<Desk> {
        let subscriber = EventSubscriber::durable(SUBSCRIBER);
        match self.store {
            Store::Postgres => {
                let pool = sqlx::PgPool::connect(&self.database_url).await.unwrap();
                subscriber.on_once(&Outbox::<Postgres>::new(pool), greet_once_on_postgres)
            }
            Store::Sqlite => {
                let outbox = Outbox::<Sqlite>::open(self.path("tidings.db"))
                    .await
                    .unwrap();
                subscriber.on_once(&outbox, greet_once_on_sqlite)
            }
        }
    }

    async fn create_table(&self) {
        match self.store {
            Store::Postgres => {
                let mut connection = PgConnection::connect(&self.database_url).await.unwrap();
                sqlx::raw_sql(TABLE).execute(&mut connection).await.unwrap();
            }
            Store::Sqlite => {
                let mut connection = SqliteConnection::connect(&self.database_url).await.unwrap();
                sqlx::raw_sql(TABLE).execute(&mut connection).await.unwrap();
            }
        }
    }

    async fn greeted(&self) -> Vec<String> {
        match self.store {
            Store::Postgres => {
                let mut connection = PgConnection::connect(&self.database_url).await.unwrap();
                let rows = sqlx::query(GREETED)
                    .fetch_all(&mut connection)
                    .await
                    .unwrap();
                rows.iter().map(|row| row.get(0)).collect()
            }
            Store::Sqlite => {
                let mut connection = SqliteConnection::connect(&self.database_url).await.unwrap();
                let rows = sqlx::query(GREETED)
                    .fetch_all(&mut connection)
                    .await
                    .unwrap();
                rows.iter().map(|row| row.get(0)).collect()
            }
        }
    }

    async fn has_greeted(&self, names: &[&str]) {
        eventually(&format!("{names:?} are greeted"), || async {
            self.greeted().await == names
        })
        .await;
    }
}

/// Commits and handles events of these names with a relay and a worker that run no longer than that.
async fn work(world: &World, names: &[&str], greeted: &[&str]) {
    let service = Service::start(world, &Desk::default(), world.once().await).await;
    let relay = world.spawn(&["relay"]);
    for name in names {
        world.rename(name, name).await;
    }
    world.has_greeted(greeted).await;
    world.backlog_is(0).await;
    assert_eq!(relay.signalled("TERM").await, Some(0));
    service.stop().await;
}

/// What comes after the restore, on both databases.
async fn effects_come_back(world: &World, time: &str) {
    world.has_greeted(&["Ada"]).await;
    let service = Service::start(world, &Desk::default(), world.once().await).await;
    let relay = world.spawn(&["relay"]);
    let mut runbook = Runbook::open("Handlers whose effects were in the database");
    runbook.fill("SUBSCRIBER", SUBSCRIBER).fill("TIME", time);
    runbook.next(world).await;
    assert_eq!(world.greeted().await, ["Ada"], "--dry-run changes nothing");
    runbook.next(world).await;
    runbook.until(world).await;
    // Ada, whose effect and inbox row are in the backup, is greeted once.
    world.has_greeted(&["Ada", "Bob", "Eve"]).await;
    runbook.next(world).await;
    runbook.done();
    world.rename("Kim", "Kim").await;
    world.has_greeted(&["Ada", "Bob", "Eve", "Kim"]).await;
    assert_eq!(relay.signalled("TERM").await, Some(0));
    service.stop().await;
}

/// A time before the backup; what is stored then is told in whole seconds.
fn before_the_backup() -> String {
    let before = chrono::Utc::now() - Duration::from_secs(60);
    before.to_rfc3339_opts(chrono::SecondsFormat::Secs, true)
}

#[tokio::test]
async fn a_postgres_that_was_dumped_and_restored_relays_and_its_effects_come_back() {
    let mut world = World::start(Store::Postgres).await;
    let server = PostgresServer::options()
        .fsync(false)
        .start()
        .await
        .unwrap();
    for name in ["shop", "backup", "restored"] {
        server.create_database(name).await.unwrap();
    }
    world.database_url = server.url_of("shop");
    let mut world = world.set_up().await;
    world.create_table().await;
    let time = before_the_backup();
    work(&world, &["Ada"], &["Ada"]).await;
    server
        .copy_database("shop", &server, "backup")
        .await
        .unwrap();
    work(&world, &["Bob", "Eve"], &["Ada", "Bob", "Eve"]).await;

    server
        .copy_database("backup", &server, "restored")
        .await
        .unwrap();
    world.database_url = server.url_of("restored");
    let refused = world.run(&["relay"]).await;
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(
        refused.stderr.contains("its relay ran in the database"),
        "{refused:?}"
    );
    let mut runbook = Runbook::open("Postgres: the relay's cursor is another server's");
    for _ in 0..3 {
        runbook.next(&world).await;
    }
    let relay = world.spawn(&["relay"]);
    runbook.until(&world).await;
    runbook.done();
    assert_eq!(relay.signalled("TERM").await, Some(0));
    effects_come_back(&world, &time).await;
}

#[tokio::test]
async fn the_effects_of_handlers_come_back_to_a_sqlite_file_that_was_restored() {
    let world = World::start(Store::Sqlite).await.set_up().await;
    world.create_table().await;
    let time = before_the_backup();
    work(&world, &["Ada"], &["Ada"]).await;
    let files = ["tidings.db", "tidings.db-wal", "tidings.db-shm"];
    for file in files.iter().filter(|file| world.has(file)) {
        fs::copy(world.path(file), world.path(&format!("backup-{file}"))).unwrap();
    }
    work(&world, &["Bob", "Eve"], &["Ada", "Bob", "Eve"]).await;
    for file in files {
        let _ = fs::remove_file(world.path(file));
        if world.has(&format!("backup-{file}")) {
            fs::copy(world.path(&format!("backup-{file}")), world.path(file)).unwrap();
        }
    }
    effects_come_back(&world, &time).await;
}
