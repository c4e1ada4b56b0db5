//! What the doctor finds while a server or the relay does not answer.

use tidings_test_servers::PostgresServer;

use super::has;
use crate::support::{Store, World, signal};

#[tokio::test]
async fn a_relay_that_is_frozen_with_the_lease_is_silent() {
    let world = World::start(Store::Postgres).await.set_up().await;
    let relay = world.spawn(&["relay"]);
    world.commits("user.renamed", "x").await;
    world.backlog_is(0).await;
    signal("STOP", relay.id()).await;
    world.commits("user.renamed", "y").await;
    let finding = world.finds("relay/owner-silent/tidings", "stuck", 2).await;
    has(&finding, "cause", &format!(":{}:", relay.id()));
    has(&finding, "cure", "frozen");
    signal("CONT", relay.id()).await;
    world
        .says("that all is well", |said| said.code == Some(0))
        .await;
    assert_eq!(relay.signalled("TERM").await, Some(0));
}

#[tokio::test]
async fn a_stopped_nats_server_is_the_relays_issue_and_not_seen() {
    let world = World::start(Store::Sqlite).await.set_up().await;
    let relay = world.spawn(&["relay"]);
    world.commits("user.renamed", "x").await;
    world.backlog_is(0).await;
    world.nats.kill().unwrap();
    world.commits("user.renamed", "y").await;
    let id = "relay/nats-unreachable/tidings";
    let finding = world.finds(id, "stuck", 2).await;
    has(&finding, "cure", "start a nats-server at");
    let said = world.doctor().await;
    let unseen = said.unseen("NATS").expect("NATS is not seen");
    assert_eq!(unseen["kind"], "nats-unreachable");
    has(unseen, "cure", "start a nats-server");
    world.nats.restart().await.unwrap();
    world
        .says("that all is well", |said| said.code == Some(0))
        .await;
    assert_eq!(relay.signalled("TERM").await, Some(0));
}

#[tokio::test]
async fn a_stopped_database_is_the_relays_issue_and_not_seen() {
    let server = PostgresServer::options()
        .fsync(false)
        .start()
        .await
        .unwrap();
    let mut world = World::start(Store::Postgres).await;
    world.database_url = server.url();
    let world = world.set_up().await;
    let relay = world.spawn(&["relay"]);
    world.commits("user.renamed", "x").await;
    world.backlog_is(0).await;
    server.kill().unwrap();
    let finding = world
        .finds("relay/database-unreachable/tidings", "stuck", 2)
        .await;
    has(&finding, "cure", "database");
    let said = world.doctor().await;
    let unseen = said.unseen("the outbox").expect("the outbox is not seen");
    assert_eq!(unseen["kind"], "database-unreachable");
    has(unseen, "cure", "start the database");
    server.restart().await.unwrap();
    world
        .says("that all is well", |said| said.code == Some(0))
        .await;
    assert_eq!(relay.signalled("TERM").await, Some(0));
}

#[tokio::test]
async fn when_neither_server_answers_nothing_is_known() {
    let world = World::start(Store::Sqlite).await;
    world.nats.kill().unwrap();
    let said = world
        .says("that nothing is seen", |said| said.code == Some(3))
        .await;
    assert_eq!(said.verdict["status"], "unknown");
    assert!(said.unseen("NATS").is_some() && said.unseen("the outbox").is_some());
    let screen = world.run(&["doctor"]).await;
    assert_eq!(screen.code, Some(3));
    assert!(!screen.stderr.contains("error: "), "{screen:?}");
    for part in [
        "not seen  NATS (nats-unreachable)",
        "not seen  the outbox",
        "exit code 3: unknown",
    ] {
        assert!(
            screen.stdout.contains(part),
            "{part:?} is not in {screen:?}"
        );
    }
}
