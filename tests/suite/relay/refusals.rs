//! Refusals of a stream: each kind is recognised, blocks other events only for a short time, is reported, and the
//! events can be restored in the order in which they were written.

use std::sync::Arc;

use async_nats::jetstream;
use tidings::{Bus, Envelope, NatsOptions, StreamSpec, outbox::ParkedSelection};
use tidings_test_servers::NatsServer;

use crate::{
    both,
    support::{Database, Stream, World, eventually},
};

both!(
    a_name_without_a_stream_blocks_no_other_and_resumes_later,
    a_full_stream_blocks_no_other_and_resumes_in_order,
    a_single_full_stream_is_waited_for_and_parks_nothing,
    the_issue_of_a_single_event_ends_with_it,
    a_sealed_stream_is_named_and_its_events_go_to_its_successor,
    a_full_subject_blocks_no_other_subject_of_its_stream,
    unparked_events_are_published_in_order,
    an_event_refused_again_stays_parked_with_its_followers,
    after_a_discard_the_rest_of_the_key_is_published,
    the_relay_adapts_to_a_server_with_smaller_batches,
);

/// Publishes events of one key with the payloads `first..=last`, in a transaction each.
async fn publish<DB: Database>(world: &World<DB>, name: &str, key: &str, first: u32, last: u32) {
    for n in first..=last {
        let mut tx = world.outbox.begin().await.unwrap();
        let envelope = Envelope::raw(name, 1, Some(key), n.to_string()).unwrap();
        tx.publish(envelope).unwrap();
        tx.commit().await.unwrap();
    }
}

async fn nothing_is_parked<DB: Database>(world: &World<DB>) {
    eventually("nothing is parked", || async { world.parked().await == 0 }).await;
}

/// The messages of a key in a stream, in order.
async fn of_key<DB: Database>(world: &World<DB>, stream: &str, key: &str) -> Vec<String> {
    let mut stored = Stream::read(&world.nats.url(), stream).await;
    stored.0.retain(|m| m.header("ce-partitionkey") == key);
    let payloads = stored.0.iter().map(|m| String::from_utf8_lossy(&m.payload));
    payloads.map(String::from).collect()
}

fn numbers(first: u32, last: u32) -> Vec<String> {
    (first..=last).map(|n| n.to_string()).collect()
}

/// The subjects and streams with an issue, without interruptions of the relay itself: its lease is short, and the
/// machine may be busy.
async fn places<DB: Database>(world: &World<DB>) -> Vec<String> {
    let status = world.outbox.status().await.unwrap();
    let places = status.issues.into_iter().map(|issue| issue.place);
    places.filter(|place| place != "relay").collect()
}

async fn apply<DB: Database>(world: &World<DB>, stream: &str, subject: &str) {
    let spec = StreamSpec::new(stream, [subject.parse().unwrap()]).unwrap();
    world.bus.apply_stream(&spec).await.unwrap();
}

async fn a_name_without_a_stream_blocks_no_other_and_resumes_later<DB: Database>(world: World<DB>) {
    let relay = world.relay();
    publish(&world, "nobody.listens", "a", 1, 3).await;
    // Events of the same key are parked behind it. Events of another key are published.
    publish(&world, "count.raised", "a", 4, 5).await;
    publish(&world, "count.raised", "b", 1, 5).await;
    world.is_settled().await;
    assert_eq!(of_key(&world, "EVENTS", "b").await, numbers(1, 5));
    let status = world.outbox.status().await.unwrap();
    assert_eq!((status.parked, status.waiting), (5, 1));
    assert_eq!(places(&world).await, ["subject nobody.listens"]);
    assert!(
        status.issues.last().unwrap().cure.contains("streams apply"),
        "{status:?}"
    );

    apply(&world, "LATE", "nobody.>").await;
    nothing_is_parked(&world).await;
    publish(&world, "nobody.listens", "a", 6, 6).await;
    world.is_settled().await;
    eventually("the issue is over", || async {
        places(&world).await.is_empty()
    })
    .await;
    relay.stop().await.unwrap();
    let mut all = numbers(1, 3);
    all.extend(numbers(6, 6));
    assert_eq!(of_key(&world, "LATE", "a").await, all);
    assert_eq!(of_key(&world, "EVENTS", "a").await, numbers(4, 5));
}

async fn a_full_stream_blocks_no_other_and_resumes_in_order<DB: Database>(world: World<DB>) {
    let jetstream = world.full_stream().await;
    let relay = world.relay();
    publish(&world, "count.raised", "a", 1, 1).await;
    publish(&world, "full.up", "a", 1, 40).await;
    publish(&world, "count.raised", "a", 2, 3).await;
    world.is_settled().await;
    // In the other stream the key is not blocked.
    assert_eq!(of_key(&world, "EVENTS", "a").await, numbers(1, 3));
    eventually("the issue is written down", || async {
        places(&world).await == ["stream FULL"]
    })
    .await;
    let status = world.outbox.status().await.unwrap();
    assert_eq!((status.parked, status.waiting), (40, 40));
    assert!(
        status
            .issues
            .last()
            .unwrap()
            .cause
            .contains("maximum messages"),
        "{status:?}"
    );

    let mut config = jetstream
        .get_stream("FULL")
        .await
        .unwrap()
        .get_info()
        .await
        .unwrap()
        .config;
    config.max_messages = -1;
    jetstream.update_stream(config).await.unwrap();
    publish(&world, "full.up", "a", 41, 45).await;
    nothing_is_parked(&world).await;
    world.is_settled().await;
    relay.stop().await.unwrap();
    assert_eq!(of_key(&world, "FULL", "a").await, numbers(1, 45));
    assert_eq!(places(&world).await, [""; 0]);
}

async fn a_single_full_stream_is_waited_for_and_parks_nothing<DB: Database>(world: World<DB>) {
    let jetstream = world.full_stream().await;
    let relay = world.relay();
    publish(&world, "full.up", "a", 1, 30).await;
    eventually("the issue is written down", || async {
        places(&world).await == ["stream FULL"]
    })
    .await;
    // Room for some of them: a whole batch does not fit, but its first events do.
    let full = jetstream.get_stream("FULL").await.unwrap();
    let mut config = full.get_info().await.unwrap().config;
    config.max_messages = 11;
    jetstream.update_stream(config.clone()).await.unwrap();
    eventually("the room is used", || async {
        full.get_info().await.unwrap().state.messages == 11
    })
    .await;
    assert_eq!(world.parked().await, 0);
    config.max_messages = -1;
    jetstream.update_stream(config).await.unwrap();
    world.is_settled().await;
    relay.stop().await.unwrap();
    assert_eq!(world.parked().await, 0);
    assert_eq!(of_key(&world, "FULL", "a").await, numbers(1, 30));
    assert_eq!(places(&world).await, [""; 0]);
}

async fn the_issue_of_a_single_event_ends_with_it<DB: Database>(world: World<DB>) {
    let jetstream = world.full_stream().await;
    let relay = world.run_relay(
        world
            .new_relay()
            .stall_timeout(std::time::Duration::from_secs(3600)),
    );
    publish(&world, "full.up", "a", 1, 1).await;
    eventually("the issue is written down", || async {
        places(&world).await == ["stream FULL"]
    })
    .await;
    let epoch = world.outbox.status().await.unwrap().lease.epoch;
    jetstream
        .get_stream("FULL")
        .await
        .unwrap()
        .purge()
        .await
        .unwrap();
    world.is_settled().await;
    eventually("the issue is over", || async {
        places(&world).await.is_empty() || world.outbox.status().await.unwrap().lease.epoch > epoch
    })
    .await;
    relay.stop().await.unwrap();
    assert_eq!(of_key(&world, "FULL", "a").await, numbers(1, 1));
    assert_eq!(places(&world).await, [""; 0]);
}

async fn a_sealed_stream_is_named_and_its_events_go_to_its_successor<DB: Database>(
    world: World<DB>,
) {
    apply(&world, "SEALED", "sealed.>").await;
    let relay = world.relay();
    publish(&world, "count.raised", "a", 1, 1).await;
    publish(&world, "sealed.now", "a", 1, 2).await;
    world.is_settled().await;
    let jetstream = jetstream::new(async_nats::connect(world.nats.url()).await.unwrap());
    let sealed = jetstream.get_stream("SEALED").await.unwrap();
    let mut config = sealed.get_info().await.unwrap().config;
    config.sealed = true;
    jetstream.update_stream(config).await.unwrap();
    publish(&world, "sealed.now", "a", 3, 6).await;
    publish(&world, "count.raised", "b", 1, 2).await;
    world.is_settled().await;
    assert_eq!(of_key(&world, "EVENTS", "b").await, numbers(1, 2));
    eventually("it is named", || async {
        places(&world).await == ["stream SEALED"]
    })
    .await;
    jetstream.delete_stream("SEALED").await.unwrap();
    apply(&world, "SUCCESSOR", "sealed.>").await;
    nothing_is_parked(&world).await;
    relay.stop().await.unwrap();
    assert_eq!(of_key(&world, "SUCCESSOR", "a").await, numbers(3, 6));
}

async fn a_full_subject_blocks_no_other_subject_of_its_stream<DB: Database>(world: World<DB>) {
    let jetstream = jetstream::new(async_nats::connect(world.nats.url()).await.unwrap());
    let mut config = jetstream::stream::Config {
        name: "BOTH".to_owned(),
        subjects: vec!["both.>".to_owned()],
        max_messages_per_subject: 2,
        discard: jetstream::stream::DiscardPolicy::New,
        discard_new_per_subject: true,
        allow_atomic_publish: true,
        ..Default::default()
    };
    jetstream.create_stream(&config).await.unwrap();
    let mut tx = world.outbox.begin().await.unwrap();
    for n in 1..=6 {
        // In one batch: two of each fit.
        for name in ["both.full", "both.free"] {
            let of_free = name == "both.free";
            if n <= 2 || !of_free {
                let envelope = Envelope::raw(name, 1, Some(name), n.to_string()).unwrap();
                tx.publish(envelope).unwrap();
            }
        }
    }
    tx.commit().await.unwrap();
    let relay = world.relay();
    world.is_settled().await;
    assert_eq!(of_key(&world, "BOTH", "both.free").await, numbers(1, 2));
    assert_eq!(of_key(&world, "BOTH", "both.full").await, numbers(1, 2));
    let status = world.outbox.status().await.unwrap();
    assert_eq!((status.parked, status.waiting), (4, 1));
    assert_eq!(places(&world).await, ["subject both.full"]);
    config.max_messages_per_subject = -1;
    config.discard_new_per_subject = false;
    jetstream.update_stream(config).await.unwrap();
    nothing_is_parked(&world).await;
    relay.stop().await.unwrap();
    assert_eq!(of_key(&world, "BOTH", "both.full").await, numbers(1, 6));
}

/// A stream with a small maximum message size, and a key whose second event is larger.
async fn small<DB: Database>(world: &World<DB>) -> (jetstream::Context, jetstream::stream::Config) {
    let jetstream = jetstream::new(async_nats::connect(world.nats.url()).await.unwrap());
    let config = jetstream::stream::Config {
        name: "SMALL".to_owned(),
        subjects: vec!["small.>".to_owned()],
        max_message_size: 2000,
        allow_atomic_publish: true,
        ..Default::default()
    };
    jetstream.create_stream(&config).await.unwrap();
    for payload in [
        "1".to_owned(),
        "2".repeat(3000),
        "3".to_owned(),
        "4".to_owned(),
    ] {
        let mut tx = world.outbox.begin().await.unwrap();
        let envelope = Envelope::raw("small.talk", 1, Some("k"), payload).unwrap();
        tx.publish(envelope).unwrap();
        tx.commit().await.unwrap();
    }
    (jetstream, config)
}

fn heads(payloads: Vec<String>) -> String {
    payloads.iter().map(|payload| &payload[..1]).collect()
}

async fn unparked_events_are_published_in_order<DB: Database>(world: World<DB>) {
    let (jetstream, mut config) = small(&world).await;
    let relay = world.relay();
    world.is_settled().await;
    assert_eq!(world.parked().await, 3);
    let parked = world
        .outbox
        .parked(&ParkedSelection::All, 0, 10)
        .await
        .unwrap();
    assert!(parked[0].error.contains("10054"), "{parked:?}");
    assert!(parked[1].error.contains("follows"), "{parked:?}");
    assert_eq!(heads(of_key(&world, "SMALL", "k").await), "1");

    config.max_message_size = -1;
    jetstream.update_stream(config).await.unwrap();
    // The whole key is unparked, and later events stay behind it.
    let asked = world
        .outbox
        .unpark(&ParkedSelection::Id(parked[2].id))
        .await
        .unwrap();
    assert_eq!(asked, 3);
    publish(&world, "small.talk", "k", 5, 9).await;
    nothing_is_parked(&world).await;
    world.is_settled().await;
    relay.stop().await.unwrap();
    assert_eq!(heads(of_key(&world, "SMALL", "k").await), "123456789");
}

async fn an_event_refused_again_stays_parked_with_its_followers<DB: Database>(world: World<DB>) {
    small(&world).await;
    let relay = world.relay();
    world.is_settled().await;
    world
        .outbox
        .unpark(&ParkedSelection::Key("k".into()))
        .await
        .unwrap();
    let parked = async || {
        world
            .outbox
            .parked(&ParkedSelection::All, 0, 10)
            .await
            .unwrap()
    };
    eventually("nobody is asked for any more", || async {
        parked()
            .await
            .iter()
            .all(|event| event.unpark_requested_at.is_none())
    })
    .await;
    assert_eq!(parked().await.len(), 3);
    publish(&world, "small.talk", "k", 5, 5).await;
    world.is_settled().await;
    relay.stop().await.unwrap();
    assert_eq!(world.parked().await, 4);
    assert_eq!(heads(of_key(&world, "SMALL", "k").await), "1");
}

async fn after_a_discard_the_rest_of_the_key_is_published<DB: Database>(world: World<DB>) {
    small(&world).await;
    let relay = world.relay();
    world.is_settled().await;
    let parked = world
        .outbox
        .parked(&ParkedSelection::All, 0, 10)
        .await
        .unwrap();
    let dead_lettered = world
        .outbox
        .discard(&ParkedSelection::Id(parked[0].id), 10)
        .await
        .unwrap();
    assert_eq!(dead_lettered, parked[..1]);
    world.outbox.unpark(&ParkedSelection::All).await.unwrap();
    nothing_is_parked(&world).await;
    relay.stop().await.unwrap();
    assert_eq!(heads(of_key(&world, "SMALL", "k").await), "134");
}

async fn the_relay_adapts_to_a_server_with_smaller_batches<DB: Database>(world: World<DB>) {
    let nats = NatsServer::options()
        .jetstream("limits {\n  batch {\n    max_msgs: 30\n  }\n}")
        .start()
        .await
        .unwrap();
    drop(world);
    let world = World::with(DB::open().await, nats).await;
    let mut tx = world.outbox.begin().await.unwrap();
    for n in 1..=500 {
        let envelope = Envelope::raw("count.raised", 1, Some("k"), n.to_string()).unwrap();
        tx.publish(envelope).unwrap();
    }
    tx.commit().await.unwrap();
    let relay = world.relay();
    world.is_settled().await;
    relay.stop().await.unwrap();
    assert_eq!(of_key(&world, "EVENTS", "k").await, numbers(1, 500));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_denied_subject_blocks_no_other_and_resumes_when_allowed() {
    let users = |deny: &str| {
        format!(
            "no_auth_user: admin\nauthorization {{\n  users: [\n    {{user: admin, password: admin}}\n    {{user: relay, \
             password: relay, permissions: {{publish: {{allow: [\">\"], deny: [\"{deny}\"]}}}}}}\n  ]\n}}\n"
        )
    };
    let nats = NatsServer::options()
        .config(users("count.lowered"))
        .start()
        .await
        .unwrap();
    let as_user = |user: &str| {
        let url = nats
            .url()
            .replace("nats://", &format!("nats://{user}:{user}@"));
        NatsOptions::from(url)
    };
    let admin = Bus::connect(as_user("admin")).await.unwrap();
    for stream in StreamSpec::internal()
        .into_iter()
        .chain([crate::support::events_stream()])
    {
        admin.apply_stream(&stream).await.unwrap();
    }
    let bus = Bus::connect(as_user("relay")).await.unwrap();
    let (nats, database) = (Arc::new(nats), <sqlx::Postgres as Database>::open().await);
    let world = World::beside(database, Arc::clone(&nats), bus).await;
    let relay = world.relay();
    let mut tx = world.outbox.begin().await.unwrap();
    for n in 1..=40 {
        for (name, key) in [("count.raised", "up"), ("count.lowered", "down")] {
            tx.publish(Envelope::raw(name, 1, Some(key), n.to_string()).unwrap())
                .unwrap();
        }
    }
    tx.commit().await.unwrap();
    world.is_settled().await;
    let stored = async |key: &str| {
        let mut stored = world.stored().await;
        stored.0.retain(|m| m.header("ce-partitionkey") == key);
        let payloads = stored.0.iter().map(|m| String::from_utf8_lossy(&m.payload));
        payloads.map(String::from).collect::<Vec<_>>()
    };
    assert_eq!(stored("up").await, numbers(1, 40));
    assert_eq!(places(&world).await, ["subject count.lowered"]);
    assert_eq!(world.parked().await, 40);

    nats.reload(users("count.denied")).unwrap();
    nothing_is_parked(&world).await;
    relay.stop().await.unwrap();
    assert_eq!(stored("down").await, numbers(1, 40));
    assert_eq!(stored("up").await.len(), 40);
}
