//! A handler had a bug: its dead letters are redriven, and its wrong effects are replayed.

use tidings::{Bus, Context, EventPublisher, EventSubscriber, Failure};

use super::{Desk, Renamed, Runbook, SUBSCRIBER, Service, World, eventually, greeter};
use crate::support::Store;

both!(dead_letters_of_a_bug_are_redriven_by_the_kind_of_error);

async fn dead_letters_of_a_bug_are_redriven_by_the_kind_of_error(world: World) {
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

/// The number of events that the wrong handler has handled.
const EVENTS: usize = 40;

async fn greet_wrongly(event: Renamed, cx: Context<Desk>) -> Result<(), Failure> {
    let wrong = format!("not {}", event.name);
    cx.state().greeted.lock().unwrap().push(wrong);
    Ok(())
}

#[tokio::test]
async fn wrong_effects_are_replayed() {
    let world = World::start(Store::Sqlite).await.set_up().await;
    let desk = Desk::default();
    let wrong = EventSubscriber::durable(SUBSCRIBER).on(greet_wrongly);
    let service = Service::start(&world, &desk, wrong).await;
    let bus = Bus::connect(world.nats.url()).await.unwrap();
    let publisher = EventPublisher::new(&bus);
    let mut events = Vec::new();
    for n in 0..EVENTS {
        let (id, name) = (n.to_string(), format!("user {n}"));
        events.push(publisher.publish(&Renamed { id, name }).await.unwrap());
    }
    eventually("all are greeted wrongly", || async {
        desk.greeted().len() == EVENTS
    })
    .await;
    service.stop().await;
    desk.greeted.lock().unwrap().clear();

    let service = Service::start(&world, &desk, greeter()).await;
    eventually("an instance answers", || async {
        let listed = world.json(&["subscribers", "list", "--json"]).await;
        !listed[0]["instances"].as_array().unwrap().is_empty()
    })
    .await;
    let mut runbook = Runbook::open("It did the wrong thing");
    runbook.fill("SUBSCRIBER", SUBSCRIBER);
    let rehearsed = runbook.next(&world).await;
    let counted = format!("{EVENTS} events of user.renamed");
    assert!(rehearsed.stdout.contains(&counted), "{rehearsed:?}");
    assert!(desk.greeted().is_empty(), "--dry-run calls nobody");
    let begun = runbook.next(&world).await;
    let id = begun.stdout.split_whitespace().nth(2).unwrap().to_owned();
    runbook
        .fill("REPLAY", id)
        .fill("EVENT", events[0].to_string());
    runbook.next(&world).await;
    let (id, name) = ("live".to_owned(), "Live".to_owned());
    publisher.publish(&Renamed { id, name }).await.unwrap();
    eventually("live events go on", || async {
        desk.greeted().iter().any(|one| one == "Live")
    })
    .await;
    assert!(desk.greeted().len() <= EVENTS, "the replay is paused");
    for _ in 0..4 {
        runbook.next(&world).await;
    }
    runbook.done();
    let mut greeted = desk.greeted();
    greeted.retain(|one| one != "Live");
    greeted.sort();
    let mut expected: Vec<String> = (0..EVENTS).map(|n| format!("user {n}")).collect();
    expected.sort();
    assert_eq!(greeted, expected);
    service.stop().await;
}
