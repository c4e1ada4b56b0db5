//! What the doctor finds of an outbox: its relay, its parked events, its tables, and the streams that it feeds.

use async_nats::jetstream;

use super::has;
use crate::support::{EVENTS, Store, World};

both!(
    what_is_idle_is_well,
    what_waits_without_a_relay_becomes_stuck,
    what_waits_for_a_decision_is_degraded,
    tables_of_a_newer_version_are_refused,
);

async fn what_is_idle_is_well(world: World) {
    let world = world.set_up().await;
    let relay = world.spawn(&["relay"]);
    world.commits("user.renamed", "x").await;
    let said = world
        .says("that all is well", |said| {
            said.code == Some(0) && said.verdict["status"] == "ok"
        })
        .await;
    assert_eq!(said.verdict["findings"], serde_json::json!([]));
    let screen = world.ok(&["doctor"]).await;
    assert!(screen.contains("well      outbox: lease of "), "{screen}");
    assert!(screen.ends_with("exit code 0: ok\n"), "{screen}");
    world.ok(&["doctor", "outbox"]).await;
    world.ok(&["doctor", "subscribers"]).await;
    let mistyped = world.refused(1, &["doctor", "welcom-email"]).await;
    assert!(mistyped.contains("there is no subscriber welcom-email"));
    assert_eq!(relay.signalled("TERM").await, Some(0));
    // Nothing waits for a relay.
    let finding = world.finds("relay/no-relay/tidings", "notice", 0).await;
    has(&finding, "cure", "start a relay");
    let notice = world.run(&["doctor", "--fail-on", "notice"]).await;
    assert_eq!(notice.code, Some(1), "{notice:?}");
}

async fn what_waits_without_a_relay_becomes_stuck(world: World) {
    let world = world.set_up().await;
    world.commits("user.renamed", "x").await;
    let id = "relay/no-relay/tidings";
    world.finds(id, "degraded", 1).await;
    let finding = world.finds(id, "stuck", 2).await;
    has(&finding, "cause", "no relay has the lease, and 1 event");
    has(&finding, "cure", "start a relay");
    assert_eq!(finding["command"], "tidings relay");
    assert_eq!(finding["facts"]["backlog"], 1);
    assert!(finding["for_s"].as_i64().unwrap() >= 10, "{finding}");
    let screen = world.run(&["doctor"]).await;
    assert_eq!((screen.code, &*screen.stderr), (Some(2), ""));
    for part in [
        "STUCK     relay tidings",
        "because  ",
        "do       ",
        "exit code 2: stuck",
    ] {
        assert!(
            screen.stdout.contains(part),
            "{part:?} is not in {screen:?}"
        );
    }
}

async fn what_waits_for_a_decision_is_degraded(world: World) {
    let world = world.set_up().await;
    let relay = world.spawn(&["relay"]);
    world.inserts_what_is_no_event().await;
    let finding = world
        .finds("outbox/event-parked/tidings", "degraded", 1)
        .await;
    has(&finding, "cause", "wait for the operator's decision");
    has(&finding, "cure", "tidings outbox parked");
    assert_eq!(relay.signalled("TERM").await, Some(0));
}

async fn tables_of_a_newer_version_are_refused(world: World) {
    let world = world.set_up().await;
    let newer = "insert into tidings_migration (version, name) values (99, 'later')";
    world.execute(newer).await;
    let finding = world
        .finds("outbox/schema-newer/tidings", "refused", 2)
        .await;
    has(&finding, "cause", "version 99");
    has(&finding, "cure", "newest Tidings version");
}

#[tokio::test]
async fn without_tables_the_outbox_is_refused() {
    let world = World::start(Store::Postgres).await;
    let finding = world
        .finds("outbox/not-migrated/tidings", "refused", 2)
        .await;
    assert_eq!(finding["command"], "tidings migrate");
}

#[tokio::test]
async fn a_stream_that_was_deleted_is_lost() {
    let world = World::start(Store::Sqlite).await.set_up().await;
    let relay = world.spawn(&["relay"]);
    world.commits("user.renamed", "x").await;
    world.backlog_is(0).await;
    let client = async_nats::connect(world.nats.url()).await.unwrap();
    let context = jetstream::new(client);
    context.delete_stream("EVENTS").await.unwrap();
    world.commits("user.renamed", "y").await;
    let id = "relay/stream-gone/EVENTS";
    let said = world
        .says(id, |said| {
            said.finding(id)
                .is_some_and(|it| it["status"] == "degraded")
        })
        .await;
    let finding = said.finding(id).unwrap();
    has(finding, "cause", "is gone");
    has(finding, "cure", "tidings verify --repair");
    assert_eq!(finding["runbook"], "stream-deleted.md");
    assert_ne!(said.code, Some(0));
    assert_eq!(relay.signalled("TERM").await, Some(0));
}

#[tokio::test]
async fn a_name_that_no_stream_takes_is_stuck() {
    let world = World::start(Store::Sqlite).await.set_up().await;
    let relay = world.spawn(&["relay"]);
    world.commits("order.created", "x").await;
    let finding = world
        .finds("relay/no-stream/order.created", "stuck", 2)
        .await;
    has(&finding, "cause", "no stream takes order.created");
    has(&finding, "cure", "tidings streams apply");
    assert_eq!(relay.signalled("TERM").await, Some(0));
}

#[tokio::test]
async fn a_full_stream_is_stuck() {
    let world = World::start(Store::Sqlite).await;
    world.write("tidings.toml", &format!("{EVENTS}max_bytes = 65536\n"));
    let world = world.set_up().await;
    let relay = world.spawn(&["relay"]);
    for _ in 0..6 {
        let long = "x".repeat(20_000);
        world.commits("user.renamed", &long).await;
    }
    let finding = world.finds("relay/stream-full/EVENTS", "stuck", 2).await;
    has(&finding, "cause", "maximum bytes exceeded");
    has(&finding, "cure", "raise the limits");
    assert_eq!(finding["runbook"], "disk-full.md");
    assert_eq!(relay.signalled("TERM").await, Some(0));
}
