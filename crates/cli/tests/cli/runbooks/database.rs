//! The database is restored from a backup: the relay's cursor, and the effects of handlers.

use std::{fs, time::Duration};

use sqlx::{PgPool, Postgres, Sqlite};
use tidings::{Context, EventSubscriber, Failure, InboxTransaction, Outbox};
use tidings_test_servers::PostgresServer;

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

/// The database in which handlers write greetings, until it is closed.
enum Effects {
    Postgres(Outbox<Postgres>),
    Sqlite(Outbox<Sqlite>),
}

impl Effects {
    async fn open(world: &World) -> Self {
        match world.store {
            Store::Postgres => {
                let pool = PgPool::connect(&world.database_url).await.unwrap();
                Self::Postgres(Outbox::<Postgres>::new(pool))
            }
            Store::Sqlite => {
                let outbox = Outbox::<Sqlite>::open(world.path("tidings.db")).await;
                Self::Sqlite(outbox.unwrap())
            }
        }
    }

    async fn create_table(&self) {
        let refused = match self {
            Self::Postgres(outbox) => sqlx::query(TABLE).execute(outbox.pool()).await.err(),
            Self::Sqlite(outbox) => sqlx::query(TABLE).execute(outbox.pool()).await.err(),
        };
        assert!(refused.is_none(), "{refused:?}");
    }

    /// The subscriber that writes greetings.
    fn subscriber(&self) -> EventSubscriber<Desk> {
        let subscriber = EventSubscriber::durable(SUBSCRIBER);
        match self {
            Self::Postgres(outbox) => subscriber.on_transactional(outbox, greet_once_on_postgres),
            Self::Sqlite(outbox) => subscriber.on_transactional(outbox, greet_once_on_sqlite),
        }
    }

    async fn greeted(&self) -> Vec<String> {
        let names = match self {
            Self::Postgres(outbox) => sqlx::query_scalar(GREETED).fetch_all(outbox.pool()).await,
            Self::Sqlite(outbox) => sqlx::query_scalar(GREETED).fetch_all(outbox.pool()).await,
        };
        names.unwrap()
    }

    async fn has_greeted(&self, names: &[&str]) {
        eventually(&format!("{names:?} are greeted"), || async {
            self.greeted().await == names
        })
        .await;
    }

    /// Returns when no connection is open: the file of the database may be copied next.
    async fn close(self) {
        match self {
            Self::Postgres(outbox) => outbox.pool().close().await,
            Self::Sqlite(outbox) => outbox.pool().close().await,
        }
    }
}

/// Commits and handles events of these names with a relay and a worker that stop afterwards.
async fn work(world: &World, names: &[&str], greeted: &[&str]) {
    let effects = Effects::open(world).await;
    let service = Service::start(world, &Desk::default(), effects.subscriber()).await;
    let relay = world.spawn(&["relay"]);
    for name in names {
        world.rename(name, name).await;
    }
    effects.has_greeted(greeted).await;
    world.backlog_is(0).await;
    assert_eq!(relay.signalled("TERM").await, Some(0));
    service.stop().await;
    effects.close().await;
}

/// The steps after the restore, on both databases.
async fn effects_come_back(world: &World, time: &str) {
    let effects = Effects::open(world).await;
    effects.has_greeted(&["Ada"]).await;
    let service = Service::start(world, &Desk::default(), effects.subscriber()).await;
    let relay = world.spawn(&["relay"]);
    let mut runbook = Runbook::open("Handlers whose effects were in the database");
    runbook.fill("SUBSCRIBER", SUBSCRIBER).fill("TIME", time);
    runbook.next(world).await;
    assert_eq!(
        effects.greeted().await,
        ["Ada"],
        "--dry-run changes nothing"
    );
    runbook.next(world).await;
    runbook.until(world).await;
    // The effect and the inbox row of Ada are in the backup: Ada is greeted once.
    effects.has_greeted(&["Ada", "Bob", "Eve"]).await;
    runbook.next(world).await;
    runbook.done();
    world.rename("Kim", "Kim").await;
    effects.has_greeted(&["Ada", "Bob", "Eve", "Kim"]).await;
    assert_eq!(relay.signalled("TERM").await, Some(0));
    service.stop().await;
}

/// A time before the backup, in whole seconds.
fn before_the_backup() -> String {
    let before = chrono::Utc::now() - Duration::from_secs(60);
    before.to_rfc3339_opts(chrono::SecondsFormat::Secs, true)
}

#[tokio::test]
async fn a_restored_postgres_relays_and_its_effects_return() {
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
    let effects = Effects::open(&world).await;
    effects.create_table().await;
    effects.close().await;
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
    runbook.ends(&world, 1).await;
    for _ in 0..2 {
        runbook.next(&world).await;
    }
    let relay = world.spawn(&["relay"]);
    runbook.until(&world).await;
    runbook.done();
    assert_eq!(relay.signalled("TERM").await, Some(0));
    effects_come_back(&world, &time).await;
}

#[tokio::test]
async fn the_effects_of_handlers_return_to_a_restored_sqlite_file() {
    let world = World::start(Store::Sqlite).await.set_up().await;
    let effects = Effects::open(&world).await;
    effects.create_table().await;
    effects.close().await;
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
