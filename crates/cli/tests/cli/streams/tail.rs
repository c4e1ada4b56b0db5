//! `tidings tail`: what it shows, and how it ends.

use crate::support::{Store, World, user};

const USER: &str = "0190e6e4-7a3e-7c3e-9d3e-3b1f0d8a6a11";

async fn world_with_an_event() -> World {
    let world = World::start(Store::Sqlite).await;
    world.ok(&["streams", "apply"]).await;
    let payload = user(USER, "ada@example.org");
    world
        .ok(&[
            "publish",
            "user.created",
            "--key",
            USER,
            "--data",
            &payload,
            "--direct",
        ])
        .await;
    world
}

#[tokio::test]
async fn tail_ends_at_once_and_silently_when_its_reader_is_gone() {
    let world = world_with_an_event().await;
    let mut tail = world.spawn(&["tail", "--since", "1h"]);
    assert!(tail.line().await.is_some());
    // No further event is published: the program notices the closed pipe without one.
    assert_eq!(tail.left().await, Some(0));
}

#[tokio::test]
async fn tail_ends_with_0_at_ctrl_c() {
    let world = world_with_an_event().await;
    let mut tail = world.spawn(&["tail", "--since", "beginning"]);
    assert!(tail.line().await.is_some());
    assert_eq!(tail.signalled("INT").await, Some(0));
}

#[tokio::test]
async fn only_events_that_match_the_pattern_are_shown() {
    let world = world_with_an_event().await;
    world
        .ok(&[
            "publish",
            "payment.noted",
            "--data",
            "\"\\u001b[31m\"",
            "--direct",
        ])
        .await;
    let mut tail = world.spawn(&["tail", "payment.*", "--since", "beginning"]);
    let line = tail.line().await.unwrap();
    assert!(line.contains("  payment.noted  -  "), "{line}");
    let said = world.refused(1, &["tail", "tidings.>"]).await;
    assert!(said.contains("only a queue or a bucket does"), "{said}");
    let mut tail = world.spawn(&["tail", ">", "--since", "beginning"]);
    for name in ["user.created", "payment.noted"] {
        let line = tail.line().await.unwrap();
        assert!(line.contains(name), "{line}");
    }
}

#[tokio::test]
async fn a_foreign_payload_cannot_command_the_terminal() {
    let world = World::start(Store::Sqlite).await;
    world.ok(&["streams", "apply"]).await;
    let client = async_nats::connect(world.nats.url()).await.unwrap();
    client
        .publish("user.noted", "\u{1b}[2J\nnext".into())
        .await
        .unwrap();
    client.flush().await.unwrap();

    let mut text = world.spawn(&["tail", "--since", "beginning"]);
    let mut json = world.spawn(&["tail", "--since", "beginning", "--json"]);

    assert!(text.line().await.unwrap().ends_with("  \u{fffd}[2J next"));
    let line: serde_json::Value = serde_json::from_str(&json.line().await.unwrap()).unwrap();
    assert_eq!(line["payload"], "\u{1b}[2J\nnext");
}

#[tokio::test]
async fn a_pattern_that_no_stream_takes_is_refused_with_a_cure() {
    let world = world_with_an_event().await;
    let said = world.refused(1, &["tail", "order.>"]).await;
    assert!(said.contains("no stream takes order.>"), "{said}");
    assert!(said.contains("try: tidings streams apply"), "{said}");
}

#[tokio::test]
async fn a_missing_stream_is_reported_with_its_cure() {
    let world = World::start(Store::Sqlite).await;
    let said = world.refused(1, &["tail"]).await;
    assert!(said.contains("the stream EVENTS cannot be read"), "{said}");
    assert!(said.contains("try: tidings streams apply"), "{said}");
}

#[tokio::test]
async fn an_invalid_pattern_and_an_invalid_time_are_refused() {
    let world = World::start(Store::Sqlite).await;
    world.refused(2, &["tail", "user..x"]).await;
    world.refused(2, &["tail", "--since", "yesterday"]).await;
}
