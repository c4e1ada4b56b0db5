//! What the doctor finds of subscribers whose streams or consumers were deleted or changed, and of a clock that is
//! wrong.

use async_nats::jetstream;
use chrono::{TimeDelta, Utc};
use futures::StreamExt;
use serde_json::{Value, json};
use tidings::{Context, EventSubscriber, Failure};
use tidings_test_support::User;

use super::{Said, has, working::Working};
use crate::support::{Store, World};

async fn take(_: User, _: Context<()>) -> Result<(), Failure> {
    Ok(())
}

fn subscriber() -> EventSubscriber<()> {
    EventSubscriber::durable("mails").on(take)
}

async fn world() -> World {
    World::start(Store::Sqlite).await.set_up().await
}

async fn jetstream(world: &World) -> jetstream::Context {
    jetstream::new(async_nats::connect(world.nats.url()).await.unwrap())
}

#[tokio::test]
async fn the_streams_of_retries_and_dead_letters_are_missed() {
    let world = world().await;
    let working = Working::start(&world, subscriber()).await;
    let context = jetstream(&world).await;
    for (stream, kind) in [
        ("RETRIES", "retries-gone"),
        ("DEAD_LETTERS", "dead-letters-gone"),
    ] {
        context.delete_stream(stream).await.unwrap();
        let id = format!("subscriber/{kind}/mails");
        let finding = world.finds(&id, "stuck", 2).await;
        has(&finding, "cause", &format!("{stream} is gone"));
        has(&finding, "cure", "tidings streams apply, which creates it");
        assert_eq!(finding["command"], "tidings streams apply --dry-run");
        world.ok(&["streams", "apply"]).await;
        world
            .says("that it is there", |said| said.finding(&id).is_none())
            .await;
    }
    working.stop().await;
}

#[tokio::test]
async fn a_consumer_that_was_deleted_or_changed_is_found() {
    let world = world().await;
    let working = Working::start(&world, subscriber()).await;
    let stream = jetstream(&world).await.get_stream("EVENTS").await.unwrap();
    let mut changed = stream.consumer_info("mails").await.unwrap().config;
    changed.max_ack_pending = 7;
    let name = changed.durable_name.clone().unwrap();
    stream.create_consumer(changed).await.unwrap();
    // The instance notices it too, a moment later, and then reports it as its own issue.
    let id = "subscriber/drift/mails";
    let is_drift = |said: &Said| {
        said.finding(id)
            .is_some_and(|one| one["status"] == "notice")
    };
    let said = world.says(id, is_drift).await;
    let finding = said.finding(id).unwrap();
    has(
        finding,
        "cause",
        "the settings of the consumer of EVENTS differ",
    );
    working.stop().await;
    stream.delete_consumer(&name).await.unwrap();
    world.users(&["ada"]).await;
    let finding = world
        .finds("subscriber/no-consumer/mails", "stuck", 2)
        .await;
    has(&finding, "cause", "which events wait there is not known");
    has(&finding, "cure", "tidings subscribers remove mails");
    assert_eq!(finding["runbook"], "events-wait.md");
    // An instance that starts creates it again.
    let working = Working::start(&world, subscriber()).await;
    world
        .says("that all is well", |said| {
            said.verdict["status"] == "notice"
        })
        .await;
    working.stop().await;
}

/// An instance whose clock is an hour ahead: its answers are those of one that runs, with another time.
#[tokio::test]
async fn an_instance_whose_clock_is_ahead_is_a_danger() {
    let world = world().await;
    let working = Working::start(&world, subscriber()).await;
    let shown = world.ok(&["subscribers", "show", "mails", "--json"]).await;
    let shown: Value = serde_json::from_str(shown.lines().next().unwrap()).unwrap();
    let mut answer = shown["instances"][0].clone();
    working.stop().await;
    let client = async_nats::connect(world.nats.url()).await.unwrap();
    let mut asked = client.subscribe("tidings.status.mails").await.unwrap();
    client.flush().await.unwrap();
    tokio::spawn(async move {
        while let Some(question) = asked.next().await {
            answer["clock"] = json!(Utc::now() + TimeDelta::hours(1));
            let answer = answer.to_string().into();
            client
                .publish(question.reply.unwrap(), answer)
                .await
                .unwrap();
        }
    });
    let finding = world.finds("subscriber/clock/mails", "danger", 1).await;
    has(&finding, "cause", "s ahead of that of the nats-server");
    has(
        &finding,
        "cause",
        "its retries are delivered that much too late",
    );
    has(&finding, "cure", "NTP");
}
