//! A bad event was published: redriven with another payload, discarded, or cancelled before it is due.

use super::{Desk, Runbook, SUBSCRIBER, Service, World, greeter};

both!(a_bad_event_is_corrected_or_discarded);

async fn a_bad_event_is_corrected_or_discarded(world: World) {
    let world = world.set_up().await;
    let desk = Desk::default();
    let service = Service::start(&world, &desk, greeter()).await;
    let relay = world.spawn(&["relay"]);
    let bad = world.enqueue("ada", r#"{"id":"ada"}"#, &[]).await;
    world.enqueue("bob", r#"{"id":"bob"}"#, &[]).await;
    let later = world
        .enqueue("eve", r#"{"id":"eve"}"#, &["--in", "1d"])
        .await;
    world.has_letters(2).await;
    let [first, second] = &world.letters().await[..] else {
        panic!("two letters")
    };

    let mut begin = Runbook::open("Where to begin");
    for _ in 0..3 {
        begin.next(&world).await;
    }
    begin.done();
    let mut runbook = Runbook::open("A bad event was published");
    runbook
        .fill("SUBSCRIBER", SUBSCRIBER)
        .fill("SEQUENCE", first)
        .fill("EVENT", &bad);
    for _ in 0..4 {
        runbook.next(&world).await;
    }
    let delayed = runbook.next(&world).await;
    assert!(delayed.stdout.contains(&later), "{delayed:?}");
    runbook.fill("EVENT", &later).next(&world).await;
    world.write("fixed.json", r#"{"id":"ada","name":"Ada"}"#);
    runbook.fill("NAME", "grace").next(&world).await;
    runbook.fill("SEQUENCE", second).next(&world).await;
    assert!(desk.greeted().is_empty(), "the subscriber is paused");
    runbook.next(&world).await;
    runbook.next(&world).await;
    runbook.fill("EVENT", &bad).until(&world).await;
    runbook.done();
    desk.has_greeted(&["Ada"]).await;
    assert_eq!(world.status().await["delayed"], 0);
    assert_eq!(relay.signalled("TERM").await, Some(0));
    service.stop().await;
}
