//! `tidings verify`: whether the streams hold what was confirmed.

use crate::support::{World, user};

const ADA: &str = "0190e6e4-7a3e-7c3e-9d3e-3b1f0d8a6a11";

both!(a_stream_that_lost_an_event_is_told_from_one_that_did_not);

async fn a_stream_that_lost_an_event_is_told_from_one_that_did_not(world: World) {
    let world = world.set_up().await;
    let nothing = world.ok(&["verify"]).await;
    assert!(nothing.contains("has not published anything"), "{nothing}");
    let event = user(ADA, "ada@example.org");
    world
        .ok(&["publish", "user.created", "--data", &event])
        .await;
    let relay = world.spawn(&["relay"]);
    world.backlog_is(0).await;
    assert_eq!(relay.signalled("TERM").await, Some(0));

    let sound = world.json(&["verify", "--json"]).await;
    let stream = &sound[0]["streams"][0];
    assert_eq!(
        (&stream["sound"], &stream["missing"]),
        (&1.into(), &0.into())
    );
    world.ok(&["verify", "--payloads", "--since", "1h"]).await;

    let client = async_nats::connect(world.nats.url()).await.unwrap();
    let context = async_nats::jetstream::new(client);
    let name = stream["stream"].as_str().unwrap();
    let stored = context.get_stream(name).await.unwrap();
    stored.delete_message(1).await.unwrap();
    // A purge of its beginning is what limits do; something behind the event tells a deletion from it.
    let lost = world.run(&["verify"]).await;
    assert_eq!(lost.code, Some(0), "{lost:?}");
    context.delete_stream(name).await.unwrap();
    let gone = world.run(&["verify"]).await;
    assert_eq!(gone.code, Some(1), "{gone:?}");
    for said in ["is gone", "missing", "user.created"] {
        assert!(gone.stdout.contains(said), "{gone:?}");
    }
    assert!(
        gone.stderr.contains("do not hold what was confirmed"),
        "{gone:?}"
    );
}
