//! What the doctor finds of subscribers: those without an instance, paused ones, and dead letters.

use serde_json::Value;
use tidings::{Bus, Context, EventPublisher, EventSubscriber, Failure, Worker};
use tidings_test_support::User;
use tokio_util::sync::CancellationToken;

use super::has;
use crate::{
    service::Service,
    support::{Store, World, eventually},
};

#[tokio::test]
async fn a_stopped_worker_is_stuck_and_a_pause_is_a_notice() {
    let world = World::start(Store::Sqlite).await.set_up().await;
    Service::start(&world).await.stop().await;
    publish_directly(&world).await;
    let id = "subscriber/no-instance/welcome-email";
    // Its last pulls wait at the server for a moment.
    let cure = "start or restart its worker";
    let said = world
        .says(id, |said| {
            let finding = said.finding(id);
            finding.is_some_and(|it| it["cure"].as_str().unwrap().contains(cure))
        })
        .await;
    let finding = said.finding(id).unwrap();
    assert_eq!((said.code, &finding["status"]), (Some(2), &"stuck".into()));
    has(finding, "cause", "no instance answers");
    assert_eq!(finding["command"], "tidings subscribers show welcome-email");
    assert_eq!(finding["facts"]["pending"], 1);
    assert_eq!(finding["runbook"], "events-wait.md");
    for name in ["welcome-email", "user-directory"] {
        world.ok(&["subscribers", "pause", name]).await;
    }
    let id = "subscriber/paused/welcome-email";
    let finding = world.finds(id, "notice", 0).await;
    assert_eq!(
        finding["command"],
        "tidings subscribers resume welcome-email"
    );
    assert!(finding["facts"]["until"].is_string(), "{finding}");
    let one = world.run(&["doctor", "welcome-email", "--json"]).await;
    let verdict: Value = serde_json::from_str(&one.stdout).unwrap();
    assert_eq!(verdict["findings"].as_array().map(Vec::len), Some(1));
}

#[tokio::test]
async fn a_dead_letter_is_degraded() {
    let world = World::start(Store::Sqlite).await.set_up().await;
    let bus = Bus::connect(world.nats.url()).await.unwrap();
    let stop = CancellationToken::new();
    let worker = Worker::new(bus, ()).subscribe(EventSubscriber::durable("refuses").on(refuse));
    let task = tokio::spawn(worker.run(stop.clone().cancelled_owned()));
    eventually("it runs", || async {
        let listed = world.run(&["subscribers", "list"]).await;
        listed.stdout.contains("refuses")
    })
    .await;
    publish_directly(&world).await;
    let id = "subscriber/dead-letters/refuses";
    let finding = world.finds(id, "degraded", 1).await;
    has(&finding, "cause", "1 dead letter waits for a decision");
    has(&finding, "cure", "tidings dead-letters redrive");
    assert_eq!(finding["facts"]["dead_letters"], 1);
    stop.cancel();
    task.await.unwrap().unwrap();
}

async fn refuse(_: User, _: Context<()>) -> Result<(), Failure> {
    Err(Failure::reject("it is not valid"))
}

/// Publishes an event that the subscribers of the tests handle, without the outbox.
async fn publish_directly(world: &World) {
    let bus = Bus::connect(world.nats.url()).await.unwrap();
    let publisher = EventPublisher::new(&bus);
    publisher.publish(&User::new("ada")).await.unwrap();
}
