//! `tidings migrate`: it migrates a database, or prints the statements for the tools of the database.

use std::{path::PathBuf, process::Stdio};

use sqlx::{Connection, Row, SqliteConnection, sqlite::SqliteConnectOptions};
use tokio::process::Command;

use crate::support::{Folder, Store, World, ended, ended_after, fresh_database};

both!(a_second_migration_finds_nothing_to_do);

async fn a_second_migration_finds_nothing_to_do(world: World) {
    assert_eq!(world.ok(&["migrate"]).await, "applied 0001_outbox\n");
    assert_eq!(world.ok(&["migrate"]).await, "nothing to do\n");
    let again = world.json(&["migrate", "--json"]).await;
    assert_eq!(again[0]["applied"], serde_json::json!([]));
}

#[tokio::test]
async fn printed_statements_migrate_postgres_as_migrate_does() {
    let world = World::start(Store::Postgres).await;
    let by_hand = fresh_database().await;
    let script = world.ok(&["migrate", "--print", "--schema", "shop"]).await;

    let psql = postgres_tool("psql", &["-X", "-q", "-v", "ON_ERROR_STOP=1", &by_hand]);
    let fed = ended_after(psql, script.as_bytes()).await;
    world.ok(&["migrate", "--schema", "shop"]).await;

    assert_eq!(fed.code, Some(0), "{fed:?}");
    let dumped = dump(&by_hand).await;
    assert!(dumped.contains("shop.outbox_7"), "{dumped}");
    assert_eq!(dumped, dump(&world.database_url).await);
    let again = ["migrate", "--schema", "shop", "--database-url", &by_hand];
    assert_eq!(world.ok(&again).await, "nothing to do\n");
}

#[tokio::test]
async fn printed_statements_migrate_sqlite_as_migrate_does() {
    let world = World::start(Store::Sqlite).await;
    let folder = Folder::new();
    let by_hand = folder.path().join("by-hand.db");
    let script = world.ok(&["migrate", "--print", "--schema", "shop"]).await;
    let options = SqliteConnectOptions::new()
        .filename(&by_hand)
        .create_if_missing(true);
    let mut connection = SqliteConnection::connect_with(&options).await.unwrap();

    sqlx::raw_sql(sqlx::AssertSqlSafe(script))
        .execute(&mut connection)
        .await
        .unwrap();
    world.ok(&["migrate", "--schema", "shop"]).await;

    let url = format!("sqlite:{}", by_hand.display());
    let tables = sqlite_tables(&url).await;
    assert!(tables.contains("shop_outbox"), "{tables}");
    assert_eq!(tables, sqlite_tables(&world.database_url).await);
    let again = ["migrate", "--schema", "shop", "--database-url", &url];
    assert_eq!(world.ok(&again).await, "nothing to do\n");
}

#[tokio::test]
async fn printing_touches_no_database() {
    let folder = Folder::new();
    let printed = ended(crate::support::tidings(&folder, &["migrate", "--print"])).await;
    assert_eq!(printed.code, Some(0), "{printed:?}");
    assert!(
        printed.stdout.starts_with("begin immediate;"),
        "{printed:?}"
    );
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn a_schema_that_is_no_identifier_is_refused() {
    let world = World::start(Store::Sqlite).await;
    for arguments in [
        &["migrate", "--schema", "a;b"][..],
        &["migrate", "--print", "--schema", "a;b"],
    ] {
        let said = world.refused(2, arguments).await;
        assert!(said.contains("is not a schema name"), "{said}");
    }
}

/// A tool of the Postgres installation that the tests run.
fn postgres_tool(name: &str, arguments: &[&str]) -> Command {
    let folder = match std::env::var_os("TIDINGS_POSTGRES_BIN") {
        Some(folder) if !folder.is_empty() => PathBuf::from(folder),
        _ => PathBuf::from(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../.dev/postgres/bin"
        )),
    };
    let mut command = Command::new(folder.join(name));
    command.args(arguments).stdin(Stdio::piped());
    command
}

/// The schema of a database and the records of its migrations, without parts that differ from run to run.
async fn dump(url: &str) -> String {
    let schema = ended(postgres_tool(
        "pg_dump",
        &["--schema-only", "--no-owner", url],
    ))
    .await;
    assert_eq!(schema.code, Some(0), "{schema:?}");
    let records = "select version, name from shop.migration";
    let records = ended(postgres_tool(
        "psql",
        &["-X", "-A", "-t", "-c", records, url],
    ))
    .await;
    assert_eq!(records.stdout, "1|0001_outbox\n", "{records:?}");
    // pg_dump writes a new random key into these lines each time.
    let is_kept =
        |line: &&str| !line.starts_with("\\restrict") && !line.starts_with("\\unrestrict");
    schema
        .stdout
        .lines()
        .filter(is_kept)
        .collect::<Vec<_>>()
        .join("\n")
}

async fn sqlite_tables(url: &str) -> String {
    let mut connection = SqliteConnection::connect(url).await.unwrap();
    let tables = "select sql from sqlite_master where sql is not null
        union all select version || ' ' || name from shop_migration order by 1";
    let rows = sqlx::query(tables)
        .fetch_all(&mut connection)
        .await
        .unwrap();
    let texts = rows.iter().map(|row| row.get::<String, _>(0));
    texts.collect::<Vec<_>>().join("\n")
}
