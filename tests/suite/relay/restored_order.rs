//! P2, P3, P4: events that a stream refuses, that are parked and restored later, are neither reordered nor duplicated,
//! however many they are, and even if a relay dies in between.

use std::time::Duration;

use async_nats::jetstream::{
    self,
    stream::{Config, DiscardPolicy},
};
use tidings::{
    Envelope, StreamSpec,
    event::Pattern,
    outbox::ParkedSelection,
    testing::failpoint::{self, Point},
};

use crate::{
    both,
    support::{Journal, Stream, World, events_stream, eventually, within},
};

both!(
    events_parked_by_a_full_stream_keep_their_order,
    many_followers_are_restored_with_their_first_event,
    followers_are_restored_when_the_first_waits_for_a_stream,
    an_unpark_that_is_refused_again_ends_for_all_followers,
    an_event_restored_before_a_crash_is_stored_once,
    an_event_stored_before_a_crash_is_not_parked,
);

const MANY: usize = 5000;
const WINDOW: Duration = Duration::from_millis(100);

async fn publish<DB: Journal>(world: &World<DB>, name: &str, key: &str, payloads: &[String]) {
    let mut tx = world.outbox.begin().await.unwrap();
    for payload in payloads {
        tx.publish(Envelope::raw(name, 1, Some(key), payload.clone()).unwrap())
            .unwrap();
    }
    tx.commit().await.unwrap();
}

fn numbers(count: usize) -> Vec<String> {
    (0..count).map(|n| n.to_string()).collect()
}

fn payloads(stored: &Stream) -> Vec<String> {
    let payloads = stored.0.iter().map(|message| message.payload.to_vec());
    payloads
        .map(|text| String::from_utf8(text).unwrap())
        .collect()
}

async fn nothing_is_parked<DB: Journal>(world: &World<DB>) {
    eventually("nothing is parked", || async { world.parked().await == 0 }).await;
}

/// Creates or updates the stream FULL with room for this many messages.
async fn room_for(jetstream: &jetstream::Context, messages: i64) {
    let config = Config {
        name: "FULL".to_owned(),
        subjects: vec!["full.>".to_owned()],
        max_messages: messages,
        discard: DiscardPolicy::New,
        duplicate_window: WINDOW,
        allow_atomic_publish: true,
        ..Config::default()
    };
    jetstream.update_stream(config).await.unwrap();
}

async fn events_parked_by_a_full_stream_keep_their_order<DB: Journal>(world: World<DB>) {
    let jetstream = world.full_stream().await;
    publish(&world, "full.up", "a", &numbers(60)).await;
    let relay = world.run_relay(world.new_relay().batch(5));
    eventually("it is held up", || async {
        !world.outbox.status().await.unwrap().issues.is_empty()
    })
    .await;
    room_for(&jetstream, 1000).await;
    world.is_settled().await;
    relay.stop().await.unwrap();
    let stored = Stream::read(&world.nats.url(), "FULL").await;
    assert_eq!(payloads(&stored)[1..], numbers(60));
}

/// Publishes a key whose first event no stream takes, and many events that follow it.
async fn many_follow<DB: Journal>(world: &World<DB>) {
    publish(world, "nobody.listens", "a", &numbers(1)).await;
    publish(world, "count.raised", "a", &numbers(MANY)).await;
}

async fn many_followers_are_restored_with_their_first_event<DB: Journal>(world: World<DB>) {
    many_follow(&world).await;
    let relay = world.relay();
    world.is_settled().await;
    let subjects = [Pattern::parse("nobody.>").unwrap()];
    let stream = StreamSpec::new("NOBODY", subjects).unwrap();
    world.bus.apply_stream(&stream).await.unwrap();
    nothing_is_parked(&world).await;
    relay.stop().await.unwrap();
    assert_eq!(payloads(&world.stored().await), numbers(MANY));
}

async fn followers_are_restored_when_the_first_waits_for_a_stream<DB: Journal>(world: World<DB>) {
    let jetstream = world.full_stream().await;
    many_follow(&world).await;
    let relay = world.relay();
    world.is_settled().await;
    // A stream for the name is created, and takes nothing.
    let config = Config {
        name: "FULL".to_owned(),
        subjects: vec!["full.>".to_owned(), "nobody.>".to_owned()],
        max_messages: 1,
        discard: DiscardPolicy::New,
        allow_atomic_publish: true,
        ..Config::default()
    };
    jetstream.update_stream(config).await.unwrap();
    eventually("only the first one is parked", || async {
        world.parked().await == 1
    })
    .await;
    relay.stop().await.unwrap();
    assert_eq!(payloads(&world.stored().await), numbers(MANY));
}

async fn an_unpark_that_is_refused_again_ends_for_all_followers<DB: Journal>(world: World<DB>) {
    many_follow(&world).await;
    let relay = world.relay();
    world.is_settled().await;
    world.outbox.unpark(&ParkedSelection::All).await.unwrap();
    let asked = format!(
        "select count(*) from {} where unpark_requested_at is not null",
        DB::table("parked")
    );
    eventually("nothing is asked for any more", || async {
        DB::number(world.outbox.pool(), &asked).await == 0
    })
    .await;
    // From here on, the lease does not change hands.
    publish(&world, "count.raised", "b", &numbers(1)).await;
    world.is_settled().await;
    let epoch = world.outbox.status().await.unwrap().lease.epoch;
    for _ in 0..5 {
        publish(&world, "count.raised", "b", &numbers(1)).await;
        world.is_settled().await;
    }
    assert_eq!(world.outbox.status().await.unwrap().lease.epoch, epoch);
    relay.stop().await.unwrap();
    assert_eq!(world.parked().await, 1 + MANY as i64);
}

async fn an_event_restored_before_a_crash_is_stored_once<DB: Journal>(world: World<DB>) {
    let jetstream = world.full_stream().await;
    publish(&world, "count.raised", "a", &numbers(1)).await;
    publish(&world, "full.up", "a", &numbers(1)).await;
    let relay = world.relay();
    world.is_settled().await;
    relay.stop().await.unwrap();
    assert_eq!(world.parked().await, 1);

    // The event is restored, which fills the stream again; the relay dies before it can record that.
    room_for(&jetstream, 2).await;
    let relay = world.new_relay();
    let armed = failpoint::arm(relay.owner(), Point::Answered, 1);
    let relay = world.run_relay(relay);
    within("the stream has answered", armed.reached()).await;
    relay.kill().await;
    // real time: until the server has forgotten the id
    tokio::time::sleep(WINDOW * 2).await;
    world.end_the_lease().await;

    // The next relay continues past it while the stream is full.
    let relay = world.relay();
    publish(&world, "count.raised", "a", &numbers(1)).await;
    world.is_settled().await;
    relay.stop().await.unwrap();
    room_for(&jetstream, 10).await;
    let relay = world.relay();
    nothing_is_parked(&world).await;
    relay.stop().await.unwrap();
    let full = Stream::read(&world.nats.url(), "FULL").await;
    assert_eq!(full.len(), 2);
}

async fn an_event_stored_before_a_crash_is_not_parked<DB: Journal>(world: World<DB>) {
    publish(&world, "count.raised", "a", &numbers(3)).await;
    let relay = world.new_relay();
    let armed = failpoint::arm(relay.owner(), Point::Answered, 1);
    let relay = world.run_relay(relay);
    within("the stream has answered", armed.reached()).await;
    relay.kill().await;
    let stored = world.stored().await.len();
    world.end_the_lease().await;

    // The stream does not take the name any more.
    let mut stream = events_stream();
    stream.subjects = vec![Pattern::parse("user.>").unwrap()];
    world.bus.apply_stream(&stream).await.unwrap();
    let relay = world.relay();
    world.is_settled().await;
    relay.stop().await.unwrap();
    let parked = usize::try_from(world.parked().await).unwrap();
    assert_eq!((world.stored().await.len(), parked), (stored, 3 - stored));
}
