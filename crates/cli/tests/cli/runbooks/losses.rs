//! NATS loses confirmed events: a stream is deleted, a server comes back empty or with an older copy, or is replaced.

use std::{fs, path::Path};

use tidings_test_servers::NatsServer;

use super::{Desk, Runbook, SUBSCRIBER, Service, World, eventually, greeter};

both!(
    a_replaced_server_is_filled_from_the_outbox,
    a_deleted_stream_is_filled_from_the_outbox,
    an_emptied_server_is_filled_from_the_outbox,
    an_older_copy_is_filled_from_the_outbox,
);

/// Waits until the status reports a loss.
async fn is_lost(world: &World) {
    eventually("the loss is noticed", || async {
        let ended = world.run(&["outbox", "status"]).await;
        ended.code == Some(1) && ended.stdout.contains("lost")
    })
    .await;
}

/// Waits until the subscriber has handled this many events.
async fn has_arrived(world: &World, desk: &Desk, count: usize) {
    eventually(&format!("{count} are greeted"), || async {
        desk.greeted().len() == count
    })
    .await;
    world.backlog_is(0).await;
}

async fn a_deleted_stream_is_filled_from_the_outbox(world: World) {
    let world = world.set_up().await;
    let desk = Desk::default();
    let service = Service::start(&world, &desk, greeter().concurrency(1)).await;
    let relay = world.spawn(&["relay"]);
    for name in ["Ada", "Bob", "Eve"] {
        world.rename(name, name).await;
    }
    has_arrived(&world, &desk, 3).await;
    let client = async_nats::connect(world.nats.url()).await.unwrap();
    let jetstream = async_nats::jetstream::new(client);
    jetstream.delete_stream("EVENTS").await.unwrap();
    world.rename("Zoe", "Zoe").await;
    is_lost(&world).await;

    let mut runbook = Runbook::open("A stream was deleted");
    runbook.ends(&world, 1).await;
    runbook.next(&world).await;
    runbook.ends(&world, 1).await;
    runbook.next(&world).await;
    world.backlog_is(0).await;
    world.is_parked(0).await;
    let repaired = runbook.next(&world).await;
    assert!(repaired.stdout.contains("3 into EVENTS"), "{repaired:?}");
    runbook.next(&world).await;
    runbook.until(&world).await;
    runbook.done();
    // Zoe is handled, and the earlier events once more.
    has_arrived(&world, &desk, 7).await;
    assert_eq!(relay.signalled("TERM").await, Some(0));
    service.stop().await;
}

async fn an_emptied_server_is_filled_from_the_outbox(world: World) {
    came_back(world, |_, _| {}).await;
}

async fn an_older_copy_is_filled_from_the_outbox(world: World) {
    came_back(world, copy).await;
}

/// The disk of the server is lost, and restored as far as `restore` does.
async fn came_back(mut world: World, restore: impl Fn(&Path, &Path)) {
    let (store, backup) = (world.path("store"), world.path("backup"));
    let options = NatsServer::options().store(&store);
    world.nats = options.clone().start().await.unwrap();
    let mut world = world.set_up().await;
    let options = options.port(world.nats.port());
    let desk = Desk::default();
    let relay = world.spawn(&["relay"]);
    let service = Service::start(&world, &desk, greeter()).await;
    for name in ["Ada", "Bob"] {
        world.rename(name, name).await;
    }
    has_arrived(&world, &desk, 2).await;
    service.stop().await;
    world.nats.stop().await.unwrap();
    copy(&store, &backup);
    world.nats.restart().await.unwrap();
    for name in ["Eve", "Kim"] {
        world.rename(name, name).await;
    }
    world.backlog_is(0).await;
    assert_eq!(relay.signalled("TERM").await, Some(0));

    world.nats.stop().await.unwrap();
    fs::remove_dir_all(&store).unwrap();
    restore(&backup, &store);
    world.replace_nats(options).await;
    let relay = world.spawn(&["relay"]);
    is_lost(&world).await;

    let mut runbook = Runbook::open("NATS has lost its data");
    runbook.ends(&world, 1).await;
    runbook.ends(&world, 1).await;
    runbook.next(&world).await;
    runbook.next(&world).await;
    let service = Service::start(&world, &desk, greeter()).await;
    runbook.next(&world).await;
    runbook.until(&world).await;
    runbook.fill("SUBSCRIBER", SUBSCRIBER).until(&world).await;
    runbook.done();
    eventually("nobody is left out", || async {
        let greeted = desk.greeted();
        ["Ada", "Bob", "Eve", "Kim"]
            .iter()
            .all(|name| greeted.iter().any(|one| one == name))
    })
    .await;
    assert_eq!(relay.signalled("TERM").await, Some(0));
    service.stop().await;
}

async fn a_replaced_server_is_filled_from_the_outbox(mut world: World) {
    world = world.set_up().await;
    let relay = world.spawn(&["relay"]);
    for name in ["Ada", "Bob"] {
        world.rename(name, name).await;
    }
    world.backlog_is(0).await;
    assert_eq!(relay.signalled("TERM").await, Some(0));
    // The new server has another port, and with it another name.
    world.nats = NatsServer::start().await.unwrap();
    let refused = world.run(&["relay"]).await;
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.stderr.contains("is not the NATS"), "{refused:?}");
    for command in [
        "verify",
        "verify --repair",
        "outbox republish --from 1h --force",
    ] {
        let command: Vec<&str> = command.split_whitespace().collect();
        let refused = world.run(&command).await;
        assert_eq!(refused.code, Some(1), "{refused:?}");
        assert!(refused.stderr.contains("outbox use-nats"), "{refused:?}");
    }
    let mut runbook = Runbook::open("The NATS was replaced");
    runbook.next(&world).await;
    runbook.next(&world).await;
    runbook.next(&world).await;
    let relay = world.spawn(&["relay"]);
    is_lost(&world).await;
    runbook.next(&world).await;
    runbook.next(&world).await;
    runbook.until(&world).await;
    runbook.done();
    assert_eq!(relay.signalled("TERM").await, Some(0));
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &target),
            false => drop(fs::copy(entry.path(), target).unwrap()),
        }
    }
}
