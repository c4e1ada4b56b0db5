//! One key is blocked, in the outbox or at a subscriber.

use tidings_test_servers::NatsServer;

use super::{Desk, Retry, Runbook, SUBSCRIBER, Service, greeter, ordered_greeter};
use crate::support::World;

both!(
    a_key_parked_in_the_outbox_continues,
    a_key_parked_by_its_subscriber_continues,
    a_key_behind_a_failing_event_continues,
);

async fn a_key_parked_in_the_outbox_continues(mut world: World) {
    world.nats = NatsServer::options()
        .config("max_payload: 2048")
        .start()
        .await
        .unwrap();
    let world = world.set_up().await;
    let desk = Desk::default();
    let service = Service::start(&world, &desk, greeter()).await;
    let relay = world.spawn(&["relay"]);
    for key in ["ada", "bob"] {
        world.rename(key, &"long".repeat(1000)).await;
        world.rename(key, &format!("{key} is next")).await;
    }
    world.is_parked(4).await;
    world.backlog_is(0).await;

    let mut first = Runbook::open("One key is stuck");
    let seen = first.fill("KEY", "ada").next(&world).await;
    assert!(seen.stdout.contains("parked: "), "{seen:?}");
    first.done();
    let mut runbook = Runbook::open("A key is parked in the outbox");
    runbook.fill("KEY", "ada").fill("ROW", "1");
    runbook.next(&world).await;
    runbook.next(&world).await;
    world.nats.reload("max_payload: 1048576").unwrap();
    world.nats.restart().await.unwrap();
    runbook.next(&world).await;
    runbook.until(&world).await;
    desk.has_greeted(&[&"long".repeat(1000), "ada is next"])
        .await;
    // The first row of bob is discarded.
    runbook.fill("KEY", "bob").fill("ROW", "3");
    let dead_lettered = runbook.next(&world).await;
    assert!(
        dead_lettered.stdout.contains("longlong"),
        "it is printed, to be kept"
    );
    runbook.next(&world).await;
    desk.has_greeted(&[&"long".repeat(1000), "ada is next", "bob is next"])
        .await;
    runbook.done();
    assert_eq!(relay.signalled("TERM").await, Some(0));
    service.stop().await;
}

async fn a_key_parked_by_its_subscriber_continues(world: World) {
    let world = world.set_up().await;
    let desk = Desk::default();
    let service = Service::start(&world, &desk, ordered_greeter()).await;
    let relay = world.spawn(&["relay"]);
    desk.breaks(true);
    world.rename("ada", "Ada").await;
    world.has_letters(1).await;
    desk.breaks(false);
    for name in ["Ada L.", "Ada Lovelace"] {
        world.rename("ada", name).await;
    }
    world.rename("bob", "Bob").await;
    desk.has_greeted(&["Bob"]).await;
    world.has_letters(3).await;

    let mut first = Runbook::open("One key is stuck");
    let seen = first.fill("KEY", "ada").next(&world).await;
    assert!(
        seen.stdout.contains("dead-lettered: parked-key"),
        "{seen:?}"
    );
    let mut runbook = Runbook::open("A key is parked by its subscriber");
    runbook
        .fill("KEY", "ada")
        .fill("SUBSCRIBER", SUBSCRIBER)
        .fill("SEQUENCE", "1");
    for _ in 0..3 {
        runbook.next(&world).await;
    }
    runbook.until(&world).await;
    runbook.done();
    desk.has_greeted(&["Bob", "Ada", "Ada L.", "Ada Lovelace"])
        .await;
    world.rename("ada", "Ada King").await;
    desk.has_greeted(&["Bob", "Ada", "Ada L.", "Ada Lovelace", "Ada King"])
        .await;
    assert_eq!(relay.signalled("TERM").await, Some(0));
    service.stop().await;
}

async fn a_key_behind_a_failing_event_continues(world: World) {
    let world = world.set_up().await;
    let desk = Desk::default();
    let pause = std::time::Duration::from_millis(100);
    let patient = Retry::exponential(pause, pause).attempts(u32::MAX);
    let subscriber = greeter().ordered_by_key().retry(patient);
    let service = Service::start(&world, &desk, subscriber).await;
    let relay = world.spawn(&["relay"]);
    desk.breaks(true);
    for name in ["Ada", "Ada L."] {
        world.rename("ada", name).await;
    }
    let mut first = Runbook::open("One key is stuck");
    first.fill("KEY", "ada").next(&world).await;
    let mut runbook = Runbook::open("A key is behind an event that fails");
    runbook.fill("KEY", "ada").fill("SUBSCRIBER", SUBSCRIBER);
    runbook.until(&world).await;
    desk.breaks(false);
    runbook.until(&world).await;
    runbook.done();
    desk.has_greeted(&["Ada", "Ada L."]).await;
    assert_eq!(relay.signalled("TERM").await, Some(0));
    service.stop().await;
}
