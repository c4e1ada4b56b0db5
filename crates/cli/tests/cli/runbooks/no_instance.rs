//! A subscriber has no instance any more, and events wait for it.

use tidings::{Bus, EventPublisher};

use super::{Desk, Renamed, Runbook, SUBSCRIBER, Service, World, eventually, greeter};
use crate::support::Store;

#[tokio::test]
async fn an_abandoned_subscriber_is_found_and_removed() {
    let world = World::start(Store::Sqlite).await.set_up().await;
    let desk = Desk::default();
    let service = Service::start(&world, &desk, greeter()).await;
    let bus = Bus::connect(world.nats.url()).await.unwrap();
    let publisher = EventPublisher::new(&bus);
    let renamed = |name: &str| Renamed {
        id: name.to_owned(),
        name: name.to_owned(),
    };
    publisher.publish(&renamed("Ada")).await.unwrap();
    desk.has_greeted(&["Ada"]).await;
    service.stop().await;
    publisher.publish(&renamed("Bob")).await.unwrap();
    eventually("its pulls are over", || async {
        let shown = world
            .run(&["subscribers", "show", SUBSCRIBER, "--json"])
            .await;
        !shown.stdout.contains("of an instance wait at the server")
    })
    .await;

    let mut runbook = Runbook::open("Events wait for a subscriber");
    runbook.fill("SUBSCRIBER", SUBSCRIBER);
    runbook.ends(&world, 1).await;
    runbook.ends(&world, 1).await;
    runbook.next(&world).await;
    runbook.next(&world).await;
    runbook.next(&world).await;
    runbook.done();
    assert_eq!(desk.greeted(), ["Ada"]);
}
