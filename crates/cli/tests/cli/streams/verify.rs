//! `tidings verify`: whether the streams hold the confirmed events.

use crate::support::{World, eventually, user};

const ADA: &str = "0190e6e4-7a3e-7c3e-9d3e-3b1f0d8a6a11";

both!(
    a_stream_with_a_lost_event_is_reported_and_others_are_ok,
    lost_events_of_a_stream_are_republished,
    a_loss_can_be_acknowledged,
    a_stream_that_transforms_subjects_is_named_with_the_setting,
);

async fn a_stream_with_a_lost_event_is_reported_and_others_are_ok(world: World) {
    let world = world.set_up().await;
    let nothing = world.ok(&["verify"]).await;
    assert!(nothing.contains("has not published anything"), "{nothing}");
    let event = user(ADA, "ada@example.org");
    world
        .ok(&["publish", "user.created", "--key", ADA, "--data", &event])
        .await;
    let relay = world.spawn(&["relay"]);
    world.backlog_is(0).await;
    assert_eq!(relay.signalled("TERM").await, Some(0));

    let sound = world.json(&["verify", "--json"]).await;
    let stream = &sound[0]["streams"][0];
    assert_eq!((&stream["ok"], &stream["missing"]), (&1.into(), &0.into()));
    world.ok(&["verify", "--payloads", "--since", "1h"]).await;

    let client = async_nats::connect(world.nats.url()).await.unwrap();
    let context = async_nats::jetstream::new(client);
    let name = stream["stream"].as_str().unwrap();
    let stored = context.get_stream(name).await.unwrap();
    stored.delete_message(1).await.unwrap();
    // Its stream has no limit that could have removed the event.
    let lost = world.run(&["verify"]).await;
    assert_eq!(lost.code, Some(1), "{lost:?}");
    assert!(lost.stdout.contains("purged or deleted"), "{lost:?}");
    let mut limited = stored.cached_info().config.clone();
    limited.max_age = std::time::Duration::from_secs(3600);
    context.update_stream(limited).await.unwrap();
    let expired = world.ok(&["verify"]).await;
    assert!(
        expired.contains("a purge of the stream looks the same"),
        "{expired}"
    );
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

/// Three events are relayed, and the relay has stopped; returns the name of their stream.
async fn relayed(world: &World) -> String {
    for n in 1..=3 {
        let event = user(ADA, &format!("ada-{n}@example.org"));
        world
            .ok(&["publish", "user.created", "--key", ADA, "--data", &event])
            .await;
    }
    let relay = world.spawn(&["relay"]);
    world.backlog_is(0).await;
    assert_eq!(relay.signalled("TERM").await, Some(0));
    let sound = world.json(&["verify", "--json"]).await;
    sound[0]["streams"][0]["stream"]
        .as_str()
        .unwrap()
        .to_owned()
}

async fn jetstream(world: &World) -> async_nats::jetstream::Context {
    let client = async_nats::connect(world.nats.url()).await.unwrap();
    async_nats::jetstream::new(client)
}

async fn lost_events_of_a_stream_are_republished(world: World) {
    let world = world.set_up().await;
    let name = relayed(&world).await;
    let jetstream = jetstream(&world).await;
    let stream = jetstream.get_stream(&name).await.unwrap();
    stream.delete_message(2).await.unwrap();

    let found = world.run(&["verify"]).await;
    assert_eq!(found.code, Some(1), "{found:?}");
    assert!(
        found.stderr.contains("try: tidings verify --repair"),
        "{found:?}"
    );
    let dry = world.run(&["verify", "--repair", "--dry-run"]).await;
    assert_eq!((dry.code, &dry.stdout), (Some(1), &found.stdout));
    let planned = [
        "outbox",
        "republish",
        "--from",
        "2h",
        "--missing",
        "--dry-run",
        "--json",
    ];
    let planned = world.json(&planned).await.remove(0);
    assert_eq!(
        (&planned["stored"], &planned["wanted"]),
        (&2.into(), &1.into())
    );

    let repaired = world.ok(&["verify", "--repair"]).await;
    assert!(repaired.contains(&format!("1 into {name}")), "{repaired}");
    assert!(repaired.contains("late"), "{repaired}");
    world.ok(&["verify", "--payloads"]).await;
    let again = world.ok(&["verify", "--repair"]).await;
    assert!(again.contains("nothing was missing"), "{again}");

    stream.delete_message(3).await.unwrap();
    let told = world
        .ok(&[
            "outbox",
            "republish",
            "--from",
            "3",
            "--to",
            "3",
            "--rate",
            "100/s",
        ])
        .await;
    assert!(told.contains(&format!("1 event into {name}")), "{told}");
    world.ok(&["verify"]).await;
    let nowhere = ["outbox", "republish", "--from", "1", "--into", "recovery"];
    let refused = world.refused(1, &nowhere).await;
    for said in [
        "no stream takes recovery.user.created",
        "try: tidings streams apply",
    ] {
        assert!(refused.contains(said), "{refused}");
    }
    for (arguments, said) in [
        ("--from yesterday", "write 2h"),
        ("--from 3 --to 1", "row 3 is after row 1"),
        (
            "--from 2026-01-31T12:00:00Z --to 2026-01-30T12:00:00Z",
            "2026-01-31T12:00:00.000Z is later than 2026-01-30T12:00:00.000Z",
        ),
        (
            "--from 1 --name user.>",
            "--name user.> is not the name of an event",
        ),
        (
            "--from 1 --into a.>",
            "--into a.> cannot be the prefix of a name",
        ),
    ] {
        let arguments = format!("outbox republish {arguments}");
        let arguments: Vec<&str> = arguments.split(' ').collect();
        let refused = world.refused(2, &arguments).await;
        assert!(refused.contains(said), "{refused}");
    }

    jetstream.delete_stream(&name).await.unwrap();
    let refused = world.run(&["verify", "--repair"]).await;
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(
        refused.stderr.contains("no stream takes user.created"),
        "{refused:?}"
    );
    world.ok(&["streams", "apply"]).await;
    let repaired = world.ok(&["verify", "--repair"]).await;
    assert!(repaired.contains(&format!("3 into {name}")), "{repaired}");
    assert!(repaired.contains("was recreated"), "{repaired}");
    world.ok(&["verify"]).await;
    // The relay learns of the repair only now.
    let relay = world.spawn(&["relay"]);
    let event = user(ADA, "ada-4@example.org");
    world
        .ok(&["publish", "user.created", "--key", ADA, "--data", &event])
        .await;
    world.backlog_is(0).await;
    assert_eq!(relay.signalled("TERM").await, Some(0));
    world.ok(&["outbox", "status"]).await;
    let sound = world.json(&["verify", "--json"]).await.remove(0);
    assert_eq!(sound["streams"][0]["ok"], 4);
}

async fn a_loss_can_be_acknowledged(world: World) {
    let world = world.set_up().await;
    let name = relayed(&world).await;
    jetstream(&world).await.delete_stream(&name).await.unwrap();
    let relay = world.spawn(&["relay"]);
    eventually("the status says it", || async {
        world.run(&["outbox", "status"]).await.code == Some(1)
    })
    .await;
    let told = world.run(&["outbox", "status"]).await;
    for said in ["lost", &name, "it is gone", "tidings verify --repair"] {
        assert!(told.stdout.contains(said), "{told:?}");
    }
    assert!(
        told.stderr.contains("try: tidings verify --repair"),
        "{told:?}"
    );
    assert_eq!(relay.signalled("TERM").await, Some(0));
    // The loss is reported without a relay, too.
    let told = world.run(&["outbox", "status", "--json"]).await;
    assert_eq!(told.code, Some(1), "{told:?}");
    let status: serde_json::Value = serde_json::from_str(&told.stdout).unwrap();
    assert_eq!(status["losses"][0]["state"]["is"], "missing");

    let accepted = world
        .json(&["outbox", "acknowledge-loss", &name, "--json"])
        .await;
    assert_eq!(accepted[0]["state"]["is"], "missing");
    world.ok(&["outbox", "status"]).await;
    let refused = world
        .refused(1, &["outbox", "acknowledge-loss", &name])
        .await;
    assert!(refused.contains("no loss of a stream"), "{refused}");
}

/// All events are stored, and no subscriber receives them.
async fn a_stream_that_transforms_subjects_is_named_with_the_setting(world: World) {
    let world = world.set_up().await;
    let client = async_nats::connect(world.nats.url()).await.unwrap();
    let context = async_nats::jetstream::new(client);
    let stream = context.get_stream("EVENTS").await.unwrap();
    let mut config = stream.cached_info().config.clone();
    config.subject_transform = Some(async_nats::jetstream::stream::SubjectTransform {
        source: "user.>".to_owned(),
        destination: "elsewhere.>".to_owned(),
    });
    context.update_stream(config).await.unwrap();
    let publish = ["publish", "user.created", "--data", "{}"];
    world.ok(&publish).await;
    let relay = world.spawn(&["relay"]);
    world.backlog_is(0).await;
    assert_eq!(relay.signalled("TERM").await, Some(0));
    for verify in [&["verify"][..], &["verify", "--repair"]] {
        let ended = world.run(verify).await;
        assert_eq!(ended.code, Some(1), "{ended:?}");
        for said in ["subject_transform of EVENTS", "--no-transform", "republish"] {
            assert!(ended.stderr.contains(said), "{ended:?}");
        }
    }
    world.ok(&["streams", "apply"]).await;
    world.ok(&["verify"]).await;
}
