//! `tidings outbox parked`, `show`, `unpark` and `discard`.

use sqlx::{Connection, PgConnection, SqliteConnection};

use crate::support::{Store, World, eventually};

both!(
    a_parked_event_is_listed_shown_unparked_and_discarded,
    an_unreadable_row_is_reported_and_discarded,
    a_version_that_no_table_holds_is_refused,
);

async fn a_parked_event_is_listed_shown_unparked_and_discarded(world: World) {
    let world = world.set_up().await;
    for (name, key) in [
        ("nobody.listens", "ada"),
        ("user.renamed", "ada"),
        ("nobody.listens", "bob"),
    ] {
        let publish = [
            "publish",
            name,
            "--key",
            key,
            "--data",
            "{\"id\":\"x\",\"email\":\"y\"}",
        ];
        world.ok(&publish).await;
    }
    assert_eq!(world.ok(&["outbox", "parked"]).await, "nothing is parked\n");
    let asked = world.json(&["outbox", "unpark", "--all", "--json"]).await;
    assert_eq!(asked[0]["asked"], 0);
    let relay = world.spawn(&["relay"]);
    eventually("they are parked", || async {
        world.status().await["parked"] == 3
    })
    .await;
    assert_eq!(relay.signalled("TERM").await, Some(0));

    let status = world.run(&["outbox", "status"]).await;
    assert_eq!(status.code, Some(1), "{status:?}");
    let status = status.stdout;
    assert!(status.contains("subject nobody.listens"), "{status}");
    assert!(status.contains("try: tidings streams apply"), "{status}");
    let list = world.ok(&["outbox", "parked", "--key", "ada"]).await;
    assert_eq!(list.lines().count(), 3, "{list}");
    assert!(list.contains("waits for subject nobody.listens"), "{list}");
    let shown = world.json(&["outbox", "show", "1", "--json"]).await;
    assert_eq!(shown[0]["key"], "ada");
    assert_eq!(shown[0]["payload"], "{\"id\":\"x\",\"email\":\"y\"}");

    let asked = world.ok(&["outbox", "unpark", "--key", "ada"]).await;
    assert!(
        asked.starts_with("unpark requested for 2 events"),
        "{asked}"
    );
    let list = world.ok(&["outbox", "parked", "--key", "ada"]).await;
    assert!(list.contains("soon, as requested"), "{list}");
    let asked = world.json(&["outbox", "unpark", "--all", "--json"]).await;
    assert_eq!(asked[0]["asked"], 3);
    let said = world.refused(1, &["outbox", "unpark", "99"]).await;
    assert!(said.contains("row 99 is not parked"), "{said}");
    assert!(said.contains("try: tidings outbox parked"), "{said}");
    world.refused(2, &["outbox", "unpark"]).await;
    world.refused(2, &["outbox", "discard", "--all"]).await;

    let dead_lettered = world.json(&["outbox", "discard", "--all", "--yes"]).await;
    assert_eq!(dead_lettered.len(), 3, "{dead_lettered:?}");
    assert_eq!(world.ok(&["outbox", "parked"]).await, "nothing is parked\n");
}

/// Writes a row without the program; on Postgres as before the tables had constraints.
async fn write(world: &World, postgres: &'static str, sqlite: &'static str) {
    match world.store {
        Store::Postgres => {
            let connection = PgConnection::connect(&world.database_url).await;
            let mut connection = connection.unwrap();
            let done = sqlx::raw_sql(postgres).execute(&mut connection).await;
            done.unwrap();
        }
        Store::Sqlite => {
            let connection = SqliteConnection::connect(&world.database_url).await;
            let mut connection = connection.unwrap();
            let done = sqlx::raw_sql(sqlite).execute(&mut connection).await;
            done.unwrap();
        }
    }
}

async fn an_unreadable_row_is_reported_and_discarded(world: World) {
    let world = world.set_up().await;
    let on_postgres = "drop trigger outbox_is_event on tidings.outbox;
        insert into tidings.outbox (event, name, key, payload, created_at)
            values (gen_random_uuid(), 'user.named', 'ada', '{}', 'infinity')";
    let on_sqlite = "insert into tidings_outbox (event, name, key, payload, created_at)
        values (randomblob(16), 'user.named', 'ada', x'7b7d', 9223372036854775807)";
    write(&world, on_postgres, on_sqlite).await;
    assert_eq!(world.status().await["backlog"], 1);
    let waiting = world.ok(&["trace", "--key", "ada"]).await;
    assert!(waiting.contains("waits for the relay"), "{waiting}");
    let relay = world.spawn(&["relay"]);
    world.backlog_is(0).await;
    assert_eq!(relay.signalled("TERM").await, Some(0));

    let list = world.ok(&["outbox", "parked"]).await;
    assert!(list.contains("its time is not between"), "{list}");
    let shown = world.ok(&["outbox", "show", "1"]).await;
    assert!(shown.contains("user.named, version 1"), "{shown}");
    let parked = world.ok(&["trace", "--key", "ada"]).await;
    assert!(parked.contains("its time is not between"), "{parked}");
    world.ok(&["outbox", "unpark", "1"]).await;
    let dead_lettered = world.json(&["outbox", "discard", "1", "--yes"]).await;
    assert_eq!(dead_lettered[0]["payload"], "{}");
    assert_eq!(dead_lettered[0]["payload_bytes"], 2);
    world.ok(&["verify"]).await;
}

async fn a_version_that_no_table_holds_is_refused(world: World) {
    let world = world.set_up().await;
    let version = [
        "publish",
        "user.noted",
        "--data",
        "1",
        "--version",
        "2147483648",
    ];
    let said = world.refused(2, &version).await;
    assert!(said.contains("use 1 to 2147483647"), "{said}");
    assert_eq!(world.status().await["backlog"], 0);
}
