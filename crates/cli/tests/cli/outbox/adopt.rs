//! `tidings outbox adopt`, and what else the program reports about a copied outbox.

use sqlx::{Connection, PgConnection};

use crate::support::{Store, World, user};

const ADA: &str = "0190e6e4-7a3e-7c3e-9d3e-3b1f0d8a6a11";

/// A world whose outbox holds one event and is marked as a copy of another outbox.
async fn copied() -> World {
    let world = World::start(Store::Postgres).await.set_up().await;
    let event = user(ADA, "ada@example.org");
    world
        .ok(&["publish", "user.created", "--key", ADA, "--data", &event])
        .await;
    let mut connection = PgConnection::connect(&world.database_url).await.unwrap();
    sqlx::query("update tidings.relay set system = '4711/1'")
        .execute(&mut connection)
        .await
        .unwrap();
    world
}

#[tokio::test]
async fn a_copied_outbox_is_not_relayed_until_it_is_adopted() {
    let world = copied().await;
    let refused = world.run(&["relay"]).await;
    assert_eq!(refused.code, Some(1), "{refused:?}");
    for said in [
        "its relay ran in the database 4711/1",
        "tidings outbox adopt",
    ] {
        assert!(refused.stderr.contains(said), "{refused:?}");
    }
    let status = world.run(&["outbox", "status"]).await;
    assert_eq!(status.code, Some(1), "{status:?}");
    let status = status.stdout;
    assert!(status.contains("refuses"), "{status}");
    assert!(status.contains("tidings outbox adopt"), "{status}");

    let planned = world
        .json(&["outbox", "adopt", "--dry-run", "--json"])
        .await;
    let planned = &planned[0];
    assert_eq!(planned["needed"], true);
    assert_eq!(planned["to_publish"], 1);
    assert_eq!(planned["oldest"]["name"], "user.created");
    assert!(world.status().await["refuses"].is_string());
    let done = world.ok(&["outbox", "adopt"]).await;
    assert!(done.contains("to publish  1 event\n"), "{done}");
    assert!(done.contains("start the relay"), "{done}");
    assert!(world.status().await["refuses"].is_null());

    let again = world.ok(&["outbox", "adopt"]).await;
    assert!(again.starts_with("nothing to do"), "{again}");
    let again = world.json(&["outbox", "adopt", "--json"]).await;
    assert_eq!(again[0]["needed"], false);
    let relay = world.spawn(&["relay"]);
    world.backlog_is(0).await;
    assert_eq!(relay.signalled("TERM").await, Some(0));
}

#[tokio::test]
async fn an_outbox_on_sqlite_needs_no_adoption() {
    let world = World::start(Store::Sqlite).await.set_up().await;
    let said = world.refused(2, &["outbox", "adopt"]).await;
    assert!(said.contains("SQLite needs no adopt"), "{said}");
}
