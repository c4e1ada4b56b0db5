//! `tidings healthcheck`, and the health endpoints of `tidings relay`.

use std::process::Stdio;

use crate::support::{Running, Store, World, eventually, says};

/// A relay with endpoints on a free port, and their URL.
async fn relay(world: &World) -> (Running, String) {
    let mut command = world.command(&["relay", "--log", "info"]);
    command
        .env("TIDINGS_OPS_LISTEN", "127.0.0.1:0")
        .env("TIDINGS_OPS_STUCK_AFTER", "3s")
        .stderr(Stdio::piped());
    let mut relay = Running::of(command);
    let line = relay.says("health endpoints listening").await;
    let (_, address) = line.split_once("127.0.0.1:").expect(&line);
    let port = address.chars().take_while(char::is_ascii_digit);
    let port: String = port.collect();
    (relay, format!("http://127.0.0.1:{port}"))
}

#[tokio::test]
async fn a_relay_is_checked_until_nats_is_frozen() {
    let world = World::start(Store::Sqlite).await.set_up().await;
    let (relay, url) = relay(&world).await;
    let check = ["healthcheck", "--url", &url];
    eventually("it is ready", || async {
        world.run(&check).await.code == Some(0)
    })
    .await;
    says(
        &world.ok(&check).await,
        &["process: ok", "relay tidings: idle"],
    );
    let alive = ["healthcheck", "--of", "livez", "--url", &url];
    assert_eq!(world.ok(&alive).await, "alive\n");

    // A relay that has nothing to do is ready.
    world.nats.pause().unwrap();
    let event = ["publish", "user.renamed", "--key", "ada"];
    let data = ["--data", r#"{"id":"ada","name":"x"}"#];
    world.ok(&[&event[..], &data[..]].concat()).await;
    eventually("it is not ready", || async {
        world.run(&check).await.code == Some(1)
    })
    .await;
    let ended = world.run(&check).await;
    says(&ended.stdout, &["relay tidings: stuck", "; try: "]);
    assert_eq!(world.ok(&alive).await, "alive\n");
    world.nats.resume().unwrap();
    eventually("it is ready again", || async {
        world.run(&check).await.code == Some(0)
    })
    .await;
    assert_eq!(relay.signalled("TERM").await, Some(0));
    let refused = world.refused(3, &check).await;
    says(&refused, &["does not answer", "try: "]);
}

#[tokio::test]
async fn a_public_address_is_refused_unless_it_is_allowed() {
    let world = World::start(Store::Sqlite).await.set_up().await;
    world.write("tidings.toml", "[ops]\nlisten = \"0.0.0.0:0\"\n");
    let refused = world.refused(2, &["relay"]).await;
    says(
        &refused,
        &[
            "0.0.0.0:0 can be reached from other hosts",
            "[ops] public = true",
        ],
    );
    let refused = world
        .refused(2, &["healthcheck", "--url", "ftp://here"])
        .await;
    says(&refused, &["is not http://HOST:PORT"]);
}
