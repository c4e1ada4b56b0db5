//! A stream, or the storage of a nats-server, is full.

use tidings_test_servers::NatsServer;

use super::{Runbook, World, eventually};
use tidings_test_support::SmallDisk;

both!(
    a_full_disk_takes_events_again_after_a_restart,
    a_stream_that_has_reached_its_limit_takes_events_again,
    a_nats_server_without_storage_takes_events_again,
);

/// The configuration with a size limit of the stream.
fn limited(max_bytes: &str) -> String {
    format!("[[stream]]\nname = \"EVENTS\"\nsubjects = [\"user.>\"]\nmax_bytes = {max_bytes}\n")
}

/// Commits some kilobytes of events, and waits until the relay is held up.
async fn fill_up(world: &World) {
    for n in 0..6 {
        world
            .rename("ada", &format!("{n}{}", "x".repeat(20_000)))
            .await;
    }
    eventually("the relay is held up", || async {
        world.status().await["issues"]
            .as_array()
            .is_some_and(|all| !all.is_empty())
    })
    .await;
}

async fn a_stream_that_has_reached_its_limit_takes_events_again(world: World) {
    world.write("tidings.toml", &limited("65536"));
    let world = world.set_up().await;
    let relay = world.spawn(&["relay"]);
    fill_up(&world).await;
    let mut first = Runbook::open("A disk is full");
    let seen = first.ends(&world, 1).await;
    assert!(seen.stdout.contains("stream EVENTS"), "{seen:?}");
    first.done();
    let mut runbook = Runbook::open("A stream has reached its limit");
    world.write("tidings.toml", &limited("10485760"));
    runbook.next(&world).await;
    runbook.next(&world).await;
    runbook.until(&world).await;
    runbook.done();
    let status = world.status().await;
    assert_eq!(
        status["issues"].as_array().map(Vec::len),
        Some(0),
        "{status}"
    );
    assert_eq!(relay.signalled("TERM").await, Some(0));
}

async fn a_nats_server_without_storage_takes_events_again(mut world: World) {
    let store = world.path("store");
    let options = NatsServer::options().store(&store);
    world.nats = options.clone().max_file(64 * 1024).start().await.unwrap();
    let mut world = world.set_up().await;
    let relay = world.spawn(&["relay"]);
    fill_up(&world).await;
    let mut first = Runbook::open("A disk is full");
    first.ends(&world, 1).await;
    let mut runbook = Runbook::open("The storage of a nats-server is full");
    let port = world.nats.port();
    world
        .replace_nats(options.port(port).max_file(64 * 1024 * 1024))
        .await;
    runbook.until(&world).await;
    runbook.next(&world).await;
    runbook.done();
    assert_eq!(relay.signalled("TERM").await, Some(0));
}

async fn a_full_disk_takes_events_again_after_a_restart(mut world: World) {
    let Some(disk) = SmallDisk::mount(3) else {
        return;
    };
    let options = NatsServer::options().store(disk.path().join("store"));
    world.nats = options.max_file(10 << 30).start().await.unwrap();
    let world = world.set_up().await;
    let relay = world.spawn(&["relay"]);
    for n in 0..40 {
        world
            .rename("ada", &format!("{n}{}", "x".repeat(100_000)))
            .await;
    }
    eventually("the relay is held up", || async {
        let ended = world.run(&["outbox", "status"]).await;
        ended.code == Some(1) && ended.stdout.contains("disk")
    })
    .await;
    let mut first = Runbook::open("A disk is full");
    first.ends(&world, 1).await;
    let mut runbook = Runbook::open("The disk of a nats-server is full");
    runbook.ends(&world, 1).await;
    disk.grow(200);
    world.nats.restart().await.unwrap();
    runbook.until(&world).await;
    runbook.next(&world).await;
    runbook.done();
    world.ok(&["outbox", "status"]).await;
    assert_eq!(relay.signalled("TERM").await, Some(0));
}
