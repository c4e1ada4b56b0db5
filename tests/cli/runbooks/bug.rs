//! A handler had a bug: what failed is given back, what went wrong is done again.

use super::{Desk, Runbook, SUBSCRIBER, Service, World, greeter};

both!(what_failed_by_a_bug_is_given_back_by_the_kind_of_error);

async fn what_failed_by_a_bug_is_given_back_by_the_kind_of_error(world: World) {
    let world = world.set_up().await;
    let desk = Desk::default();
    let service = Service::start(&world, &desk, greeter().concurrency(1)).await;
    let relay = world.spawn(&["relay"]);
    desk.breaks(true);
    let names = ["Ada", "Bob", "Eve"];
    for name in names {
        world.rename(name, name).await;
    }
    world.has_letters(3).await;
    service.stop().await;
    let fingerprint = world
        .json(&["dead-letters", "list", "--groups", "--json"])
        .await;
    let fingerprint = fingerprint[0]["fingerprint"].as_str().unwrap().to_owned();

    let mut runbook = Runbook::open("A handler had a bug for two days");
    runbook
        .fill("SUBSCRIBER", SUBSCRIBER)
        .fill("FINGERPRINT", &fingerprint);
    runbook.next(&world).await;
    runbook.done();
    let mut runbook = Runbook::open("It failed");
    runbook
        .fill("SUBSCRIBER", SUBSCRIBER)
        .fill("FINGERPRINT", fingerprint);
    desk.breaks(false);
    let service = Service::start(&world, &desk, greeter().concurrency(1)).await;
    runbook.next(&world).await;
    assert!(desk.greeted().is_empty(), "--dry-run gives nothing back");
    runbook.next(&world).await;
    runbook.next(&world).await;
    runbook.done();
    desk.has_greeted(&names).await;
    assert_eq!(relay.signalled("TERM").await, Some(0));
    service.stop().await;
}
