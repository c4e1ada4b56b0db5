//! P3, P4: parked events are restored behind the older events of their key, and once, however far the relay that
//! parked them had come.

use std::time::Duration;

use async_nats::jetstream::{
    self,
    stream::{Config, DiscardPolicy},
};
use tidings::{
    Envelope,
    outbox::ParkedSelection,
    testing::failpoint::{self, Point},
};

use crate::{
    both,
    support::{Journal, Stream, World, eventually, within},
};

both!(
    a_restored_event_passes_no_older_event_in_flight,
    an_unparked_event_passes_no_older_event_in_flight,
    later_events_of_a_key_are_restored_behind_the_first,
    a_discarded_event_that_is_still_in_the_log_is_not_published,
    a_restored_event_that_is_still_in_the_log_is_stored_once,
    a_restored_event_is_stored_once_after_two_crashes,
);

const AN_HOUR: Duration = Duration::from_secs(3600);
const WINDOW: Duration = Duration::from_millis(100);

async fn publish<DB: Journal>(world: &World<DB>, events: &[(&str, Option<&str>, &str)]) {
    let mut tx = world.outbox.begin().await.unwrap();
    for (name, key, payload) in events {
        let envelope = Envelope::raw(name, 1, *key, payload.to_string());
        tx.publish(envelope.unwrap()).unwrap();
    }
    tx.commit().await.unwrap();
}

async fn settled<DB: Journal>(world: &World<DB>) {
    eventually("everything is stored, and nothing is parked", || async {
        let status = world.outbox.status().await;
        status.is_ok_and(|status| status.backlog + status.parked == 0)
    })
    .await;
}

/// Makes the stream take these subjects and this many messages; it forgets ids at once.
async fn takes(jetstream: &jetstream::Context, subjects: &[&str], messages: i64) {
    let config = Config {
        name: "FULL".to_owned(),
        subjects: subjects
            .iter()
            .map(|subject| (*subject).to_owned())
            .collect(),
        max_messages: messages,
        discard: DiscardPolicy::New,
        duplicate_window: WINDOW,
        allow_atomic_publish: true,
        ..Config::default()
    };
    jetstream.update_stream(config).await.unwrap();
}

/// The messages of the stream behind the one that filled it.
async fn stored<DB: Journal>(world: &World<DB>) -> Vec<String> {
    let stored = Stream::read(&world.nats.url(), "FULL").await.0;
    let payloads = stored.into_iter().skip(1).map(|message| message.payload);
    payloads
        .map(|payload| String::from_utf8(payload).unwrap())
        .collect()
}

/// A relay has parked events that no stream takes, and has died while earlier events were in flight.
async fn one_is_on_its_way<DB: Journal>(world: &World<DB>, parked: usize) -> jetstream::Context {
    let jetstream = world.full_stream().await;
    let relay = world.run_relay(world.new_relay().stall_timeout(AN_HOUR));
    eventually("they are parked", || async {
        world.parked().await == parked as i64
    })
    .await;
    eventually("the full stream is met", || async {
        !world.outbox.status().await.unwrap().issues.is_empty()
    })
    .await;
    relay.kill().await;
    world.end_the_lease().await;
    assert_eq!(stored(world).await, [""; 0]);
    jetstream
}

const A_AND_B: [(&str, Option<&str>, &str); 2] = [
    ("full.up", Some("k"), "A"),
    ("nobody.listens", Some("k"), "B"),
];

async fn a_restored_event_passes_no_older_event_in_flight<DB: Journal>(world: World<DB>) {
    publish(&world, &A_AND_B).await;
    let jetstream = one_is_on_its_way(&world, 1).await;
    takes(&jetstream, &["full.>", "nobody.>"], 1000).await;
    let relay = world.relay();
    settled(&world).await;
    relay.stop().await.unwrap();
    assert_eq!(stored(&world).await, ["A", "B"]);
}

async fn an_unparked_event_passes_no_older_event_in_flight<DB: Journal>(world: World<DB>) {
    publish(&world, &A_AND_B).await;
    let jetstream = one_is_on_its_way(&world, 1).await;
    // A row that waits for a stream can be unparked only when it does not wait any more.
    let decided = format!("update {} set blocked_on = null", DB::table("parked"));
    DB::execute(world.outbox.pool(), &decided).await;
    takes(&jetstream, &["full.>", "nobody.>"], 1000).await;
    world
        .outbox
        .unpark(&ParkedSelection::Key("k".to_owned()))
        .await
        .unwrap();
    let relay = world.relay();
    settled(&world).await;
    relay.stop().await.unwrap();
    assert_eq!(stored(&world).await, ["A", "B"]);
}

/// Several keys in two pages, of each of which the first event is parked or not.
async fn later_events_of_a_key_are_restored_behind_the_first<DB: Journal>(world: World<DB>) {
    publish(&world, &A_AND_B).await;
    publish(
        &world,
        &[
            ("full.up", Some("k"), "C"),
            ("nobody.listens", Some("l"), "D"),
            ("full.up", Some("m"), "E"),
            ("full.up", Some("l"), "F"),
            ("nobody.listens", Some("k"), "G"),
            ("nobody.listens", None, "H"),
        ],
    )
    .await;
    let jetstream = one_is_on_its_way(&world, 6).await;
    takes(&jetstream, &["full.>", "nobody.>"], 1000).await;
    publish(&world, &[("full.up", Some("k"), "I")]).await;
    let relay = world.relay();
    settled(&world).await;
    relay.stop().await.unwrap();
    let stored = stored(&world).await;
    assert_eq!(stored.len(), 9, "{stored:?}");
    let of = |key: &str| {
        let of_key = stored
            .iter()
            .filter(|payload| key.contains(payload.as_str()));
        of_key.map(String::as_str).collect::<String>()
    };
    assert_eq!(
        (of("ABCGI"), of("DF")),
        ("ABCGI".to_owned(), "DF".to_owned())
    );
}

async fn a_discarded_event_that_is_still_in_the_log_is_not_published<DB: Journal>(
    world: World<DB>,
) {
    publish(&world, &A_AND_B).await;
    publish(&world, &[("full.up", Some("k"), "C")]).await;
    let jetstream = one_is_on_its_way(&world, 2).await;
    let parked = world
        .outbox
        .parked(&ParkedSelection::All, 0, 9)
        .await
        .unwrap();
    world
        .outbox
        .discard(&ParkedSelection::Id(parked[0].id), 1)
        .await
        .unwrap();
    takes(&jetstream, &["full.>", "nobody.>"], 1000).await;
    let relay = world.relay();
    eventually("A is stored", || async { stored(&world).await == ["A"] }).await;
    world.outbox.unpark(&ParkedSelection::All).await.unwrap();
    settled(&world).await;
    relay.stop().await.unwrap();
    assert_eq!(stored(&world).await, ["A", "C"]);
}

const MANY: usize = 43;

async fn many_wait<DB: Journal>(world: &World<DB>) -> jetstream::Context {
    let numbers: Vec<String> = (0..MANY).map(|n| n.to_string()).collect();
    let mut events = vec![("full.up", None, "A")];
    events.extend(numbers.iter().map(|n| ("nobody.listens", None, n.as_str())));
    publish(world, &events).await;
    let jetstream = one_is_on_its_way(world, MANY).await;
    takes(&jetstream, &["full.>", "nobody.>"], 1000).await;
    jetstream
}

async fn a_restored_event_that_is_still_in_the_log_is_stored_once<DB: Journal>(world: World<DB>) {
    many_wait(&world).await;
    // When the relay reads its first page, it has restored what it can.
    let relay = world.new_relay().lease(Duration::from_secs(60));
    let armed = failpoint::arm(relay.owner(), Point::Fetched, 1);
    let relay = world.run_relay(relay);
    within("the first page", armed.reached()).await;
    // real time: until the server has forgotten the ids
    tokio::time::sleep(WINDOW * 2).await;
    armed.let_go();
    settled(&world).await;
    relay.stop().await.unwrap();
    let stored = Stream::read(&world.nats.url(), "FULL").await;
    assert_eq!((stored.len() - 1, stored.duplicated()), (MANY + 1, 0));
}

async fn a_restored_event_is_stored_once_after_two_crashes<DB: Journal>(world: World<DB>) {
    many_wait(&world).await;
    for point in Point::ALL {
        let relay = world.new_relay();
        let armed = failpoint::arm(relay.owner(), point, 2);
        let relay = world.run_relay(relay);
        // Not every relay reaches this point twice.
        let _ = tokio::time::timeout(Duration::from_secs(2), armed.reached()).await;
        relay.kill().await;
        // real time: until the server has forgotten the ids
        tokio::time::sleep(WINDOW * 2).await;
        world.end_the_lease().await;
    }
    let relay = world.relay();
    settled(&world).await;
    relay.stop().await.unwrap();
    let stored = Stream::read(&world.nats.url(), "FULL").await;
    assert_eq!((stored.len() - 1, stored.duplicated()), (MANY + 1, 0));
}
