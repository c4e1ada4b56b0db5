//! P2, P4, P7: an id does not identify an event. A second event with the id of a first one is parked, with the names
//! of both; nothing else is affected, and nothing happens silently.

use std::time::Duration;

use tidings::{
    Envelope, EventId, EventPublisher, StreamSpec,
    event::Pattern,
    nats::PublishError,
    outbox::{OutboxError, ParkedEvent, ParkedSelection},
    testing::failpoint::{self, Point},
};

use crate::{
    both,
    support::{Journal, World, event, events_stream, eventually, within},
};

both!(
    a_different_event_with_a_used_id_is_parked_and_named,
    other_headers_park_a_used_id_and_another_trace_does_not,
    a_used_id_is_parked_from_a_batch_and_another_page,
    a_used_id_in_the_tail_is_parked_beyond_the_window,
    a_used_id_stays_parked_when_relays_find_the_first_again,
    an_id_used_by_another_publisher_is_parked,
    a_delayed_event_with_a_used_id_is_parked,
    an_id_used_by_a_message_without_event_headers_is_parked,
    an_id_of_a_removed_message_stays_parked_within_the_window,
    later_events_wait_until_the_used_id_is_discarded,
    the_same_event_again_is_stored_once_and_nothing_is_parked,
    two_events_of_one_id_in_a_transaction_are_refused_at_commit,
    a_direct_publish_with_a_used_id_is_an_error,
);

const WINDOW: Duration = Duration::from_millis(100);
const AN_HOUR: Duration = Duration::from_secs(3600);

fn others(count: usize) -> impl Iterator<Item = Envelope> {
    (0..count).map(|n| event(EventId::now(), "count.raised", "others", &n.to_string()))
}

async fn relayed<DB: Journal>(world: &World<DB>) {
    let relay = world.relay();
    world.backlog_is_gone().await;
    relay.stop().await.unwrap();
}

async fn parked<DB: Journal>(world: &World<DB>) -> Vec<ParkedEvent> {
    let parked = world.outbox.parked(&ParkedSelection::All, 0, 100).await;
    parked.unwrap()
}

async fn payloads<DB: Journal>(world: &World<DB>) -> Vec<String> {
    let stored = world.stored().await.0;
    let payloads = stored.into_iter().map(|message| message.payload);
    payloads
        .map(|payload| String::from_utf8(payload).unwrap())
        .collect()
}

/// Checks that only this event is parked, for this reason, until an operator decides.
async fn only_parked<DB: Journal>(world: &World<DB>, payload: &str, error: &str) {
    let parked = parked(world).await;
    assert_eq!(parked.len(), 1, "{parked:?}");
    assert_eq!(parked[0].payload, payload.as_bytes());
    assert_eq!((&*parked[0].error, &parked[0].blocked_on), (error, &None));
}

async fn is_forgotten() {
    // real time: until the server has forgotten the ids
    tokio::time::sleep(WINDOW * 2).await;
}

async fn a_different_event_with_a_used_id_is_parked_and_named<DB: Journal>(world: World<DB>) {
    let of_version_2 = |id| {
        let envelope = Envelope::raw("user.created", 2, Some("k1"), "2");
        envelope.unwrap().with_id(id)
    };
    let keyless = |id| {
        Envelope::raw("user.created", 1, None, "2")
            .unwrap()
            .with_id(id)
    };
    for (name, key, why) in [
        ("user.deleted", "k2", "user.created k1"),
        ("user.created", "k2", "user.created k1"),
        (
            "user.created",
            "k1",
            "user.created k1, with another payload",
        ),
    ] {
        let id = EventId::now();
        world
            .commit_all([event(id, "user.created", "k1", "1")])
            .await;
        relayed(&world).await;
        let sequence = world.stored().await.len();
        world.commit_all([event(id, name, key, "2")]).await;
        relayed(&world).await;
        only_parked(
            &world,
            "2",
            &format!("sequence {sequence} of EVENTS has this id: {why}"),
        )
        .await;
        world
            .outbox
            .discard(&ParkedSelection::All, 9)
            .await
            .unwrap();
    }
    let id = EventId::now();
    world
        .commit_all([event(id, "user.created", "k1", "1")])
        .await;
    world.commit_all([of_version_2(id)]).await;
    world.commit_all([keyless(id)]).await;
    relayed(&world).await;
    let errors: Vec<String> = parked(&world)
        .await
        .into_iter()
        .map(|event| event.error)
        .collect();
    let taken = "sequence 4 of EVENTS has this id: user.created k1";
    assert_eq!(errors, [format!("{taken}, of version 1"), taken.to_owned()]);
    assert_eq!(world.stored().await.len(), 4);
}

async fn other_headers_park_a_used_id_and_another_trace_does_not<DB: Journal>(world: World<DB>) {
    let id = EventId::now();
    let of = |tenant: &str| {
        let envelope = event(id, "user.created", "k1", "1");
        envelope.header("tenant", tenant).unwrap()
    };
    world.commit_all([of("acme")]).await;
    relayed(&world).await;
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let again = of("acme").traced(trace).unwrap();
    world
        .commit_all([again.with_correlation_id("order-7").unwrap()])
        .await;
    relayed(&world).await;
    assert_eq!((world.stored().await.len(), world.parked().await), (1, 0));
    world.commit_all([of("bolt")]).await;
    relayed(&world).await;
    let why = "sequence 1 of EVENTS has this id: user.created k1, with other headers";
    only_parked(&world, "1", why).await;
    assert_eq!(world.stored().await.len(), 1);
    let mut tx = world.outbox.begin().await.unwrap();
    tx.publish(of("acme")).unwrap();
    tx.publish(of("bolt")).unwrap();
    assert!(matches!(
        tx.commit().await,
        Err(OutboxError::DuplicateId { .. })
    ));
}

/// In one batch, in two batches in flight, and in two pages: no other event is lost or stored twice.
async fn a_used_id_is_parked_from_a_batch_and_another_page<DB: Journal>(world: World<DB>) {
    for (batch, apart) in [(1000, 0), (1000, 100), (20, 19), (20, 200), (1, 0), (1, 7)] {
        let before = world.stored().await.len();
        let id = EventId::now();
        world.commit_all(others(30)).await;
        world
            .commit_all([event(id, "user.created", "k1", "first")])
            .await;
        world.commit_all(others(apart)).await;
        world
            .commit_all([event(id, "user.deleted", "k2", "second")])
            .await;
        world.commit_all(others(30)).await;
        let relay = world.run_relay(world.new_relay().batch(batch));
        world.backlog_is_gone().await;
        relay.stop().await.unwrap();
        let why = format!(
            "sequence {} of EVENTS has this id: user.created k1",
            before + 31
        );
        only_parked(&world, "second", &why).await;
        let stored = world.stored().await;
        assert_eq!(
            (stored.len() - before, stored.duplicated()),
            (61 + apart, 0)
        );
        world
            .outbox
            .discard(&ParkedSelection::All, 9)
            .await
            .unwrap();
    }
}

async fn a_used_id_in_the_tail_is_parked_beyond_the_window<DB: Journal>(world: World<DB>) {
    world.forget_ids_after(WINDOW).await;
    let id = EventId::now();
    world
        .commit_all([event(id, "user.created", "k1", "first")])
        .await;
    let relay = world.new_relay();
    let armed = failpoint::arm(relay.owner(), Point::Answered, 1);
    let relay = world.run_relay(relay);
    within("the stream has answered", armed.reached()).await;
    relay.kill().await;
    world
        .commit_all([event(id, "user.deleted", "k2", "second")])
        .await;
    world
        .commit_all([event(id, "user.created", "k1", "third")])
        .await;
    is_forgotten().await;
    world.end_the_lease().await;
    relayed(&world).await;
    assert_eq!(payloads(&world).await, ["first"]);
    let errors: Vec<String> = parked(&world)
        .await
        .into_iter()
        .map(|event| event.error)
        .collect();
    let taken = "sequence 1 of EVENTS has this id: user.created k1";
    assert_eq!(
        errors,
        [taken.to_owned(), format!("{taken}, with another payload")]
    );
}

async fn a_used_id_stays_parked_when_relays_find_the_first_again<DB: Journal>(world: World<DB>) {
    // An event that its stream refuses keeps the page open, so that the position does not pass the first one.
    world.full_stream().await;
    let id = EventId::now();
    world.commit_all(others(1)).await;
    relayed(&world).await;
    world
        .commit_all([event(id, "user.created", "k1", "first")])
        .await;
    world
        .commit_all([event(id, "user.deleted", "k2", "second")])
        .await;
    world
        .commit_all([event(EventId::now(), "full.up", "k3", "{}")])
        .await;
    for _ in 0..2 {
        let relay = world.run_relay(world.new_relay().stall_timeout(AN_HOUR));
        eventually("it is parked", || async { world.parked().await == 1 }).await;
        eventually("the full stream is met", || async {
            let status = world.outbox.status().await.unwrap();
            status
                .issues
                .iter()
                .any(|issue| issue.place == "stream FULL")
        })
        .await;
        relay.kill().await;
        world.end_the_lease().await;
    }
    let subjects = [Pattern::parse("full.>").unwrap()];
    let roomy = StreamSpec::new("FULL", subjects).unwrap();
    world.bus.apply_stream(&roomy).await.unwrap();
    async_nats::jetstream::new(async_nats::connect(world.nats.url()).await.unwrap())
        .get_stream("FULL")
        .await
        .unwrap()
        .purge()
        .await
        .unwrap();
    relayed(&world).await;
    let why = "sequence 2 of EVENTS has this id: user.created k1";
    only_parked(&world, "second", why).await;
}

async fn an_id_used_by_another_publisher_is_parked<DB: Journal>(world: World<DB>) {
    let id = EventId::now();
    let publisher = EventPublisher::new(&world.bus);
    let theirs = event(id, "user.created", "\u{1f600}", "theirs");
    publisher.publish(theirs).await.unwrap();
    world
        .commit_all([event(id, "user.created", "k1", "ours")])
        .await;
    world.commit_all(others(1)).await;
    relayed(&world).await;
    assert_eq!(payloads(&world).await, ["theirs", "0"]);
    let why = "sequence 1 of EVENTS has this id: user.created \\u{1f600}";
    only_parked(&world, "ours", why).await;
}

async fn a_delayed_event_with_a_used_id_is_parked<DB: Journal>(world: World<DB>) {
    let id = EventId::now();
    world
        .commit_all([event(id, "user.created", "k1", "first")])
        .await;
    let mut tx = world.outbox.begin().await.unwrap();
    let soon = chrono::Utc::now() + chrono::TimeDelta::milliseconds(300);
    tx.publish_at(event(id, "user.deleted", "k1", "second"), soon)
        .unwrap();
    tx.commit().await.unwrap();
    let relay = world.relay();
    eventually("it is parked", || async { world.parked().await == 1 }).await;
    relay.stop().await.unwrap();
    let why = "sequence 1 of EVENTS has this id: user.created k1";
    only_parked(&world, "second", why).await;
}

async fn an_id_used_by_a_message_without_event_headers_is_parked<DB: Journal>(world: World<DB>) {
    let id = EventId::now();
    let line = format!("Nats-Msg-Id: {id}");
    world.publish_raw(b"user.created", line.as_bytes()).await;
    world
        .publish_raw(b"user.Created\t", b"Nats-Msg-Id: none")
        .await;
    world
        .commit_all([event(id, "user.created", "k1", "ours")])
        .await;
    relayed(&world).await;
    only_parked(
        &world,
        "ours",
        "sequence 1 of EVENTS has this id: user.created",
    )
    .await;
}

async fn an_id_of_a_removed_message_stays_parked_within_the_window<DB: Journal>(world: World<DB>) {
    let mut stream = events_stream();
    stream.duplicate_window = Duration::from_secs(1);
    world.bus.apply_stream(&stream).await.unwrap();
    let id = EventId::now();
    let context = async_nats::jetstream::new(async_nats::connect(world.nats.url()).await.unwrap());
    let relay = world.relay();
    world
        .commit_all([event(id, "user.created", "k1", "first")])
        .await;
    world.backlog_is_gone().await;
    world
        .commit_all([event(id, "user.deleted", "k2", "second")])
        .await;
    world.backlog_is_gone().await;
    relay.stop().await.unwrap();
    // An operator removes the first event.
    context
        .get_stream("EVENTS")
        .await
        .unwrap()
        .purge()
        .await
        .unwrap();
    world.outbox.unpark(&ParkedSelection::All).await.unwrap();
    let relay = world.relay();
    eventually("it is tried again", || async {
        let parked = parked(&world).await;
        parked.is_empty() || parked[0].unpark_requested_at.is_none()
    })
    .await;
    // Until the server has forgotten the id, it does not take the event; afterwards it is unparked once more.
    while world.parked().await > 0 {
        world.outbox.unpark(&ParkedSelection::All).await.unwrap();
        world.backlog_is_gone().await;
        // real time: the server forgets by its clock
        tokio::time::sleep(WINDOW).await;
    }
    relay.stop().await.unwrap();
    assert_eq!(payloads(&world).await, ["second"]);
}

async fn later_events_wait_until_the_used_id_is_discarded<DB: Journal>(world: World<DB>) {
    let id = EventId::now();
    let relay = world.relay();
    world
        .commit_all([event(id, "user.created", "k1", "first")])
        .await;
    world
        .commit_all([event(id, "user.deleted", "k2", "second")])
        .await;
    world
        .commit_all([event(EventId::now(), "user.created", "k2", "third")])
        .await;
    world
        .commit_all([event(EventId::now(), "user.created", "k1", "fourth")])
        .await;
    world.backlog_is_gone().await;
    assert_eq!(payloads(&world).await, ["first", "fourth"]);
    assert_eq!(world.parked().await, 2);
    let second = parked(&world).await[0].id;
    world.outbox.unpark(&ParkedSelection::All).await.unwrap();
    eventually("nothing is asked for any more", || async {
        parked(&world)
            .await
            .iter()
            .all(|event| event.unpark_requested_at.is_none())
    })
    .await;
    assert_eq!(world.parked().await, 2);
    let dead_lettered = world.outbox.discard(&ParkedSelection::Id(second), 1).await;
    assert_eq!(dead_lettered.unwrap()[0].payload, b"second");
    world.outbox.unpark(&ParkedSelection::All).await.unwrap();
    eventually("nothing is parked", || async { world.parked().await == 0 }).await;
    relay.stop().await.unwrap();
    assert_eq!(payloads(&world).await, ["first", "fourth", "third"]);
}

async fn the_same_event_again_is_stored_once_and_nothing_is_parked<DB: Journal>(world: World<DB>) {
    let id = EventId::now();
    let same = || event(id, "user.created", "k1", "same");
    world.commit_all([same(), same()]).await;
    world.commit_all(others(40)).await;
    world.commit_all([same()]).await;
    let relay = world.relay();
    world.backlog_is_gone().await;
    world.commit_all([same()]).await;
    world.backlog_is_gone().await;
    relay.stop().await.unwrap();
    let stored = world.stored().await;
    assert_eq!((stored.len(), stored.duplicated()), (41, 0));
    assert_eq!(world.parked().await, 0);
    let found = tidings::verify::Verify::new(&world.bus, &world.outbox)
        .run()
        .await
        .unwrap();
    assert!(found.is_ok(), "{found:?}");
}

async fn two_events_of_one_id_in_a_transaction_are_refused_at_commit<DB: Journal>(
    world: World<DB>,
) {
    let id = EventId::now();
    let (first, second) = (
        || event(id, "user.created", "k1", "1"),
        || event(id, "user.deleted", "k2", "2"),
    );
    let mut tx = world.outbox.begin().await.unwrap();
    tx.publish(first()).unwrap();
    tx.publish(second()).unwrap();
    let refused = tx.commit().await.unwrap_err();
    assert!(
        matches!(refused, OutboxError::DuplicateId { event, .. } if event == id),
        "{refused}"
    );
    let mut tx = world.outbox.begin().await.unwrap();
    tx.publish(first()).unwrap();
    tx.publish_at(second(), chrono::Utc::now()).unwrap();
    assert!(tx.commit().await.is_err());
    let mut tx = world.outbox.pool().begin().await.unwrap();
    let all = world.outbox.enqueue_all(&mut tx, [first(), second()]).await;
    assert!(matches!(all, Err(OutboxError::DuplicateId { .. })));
    drop(tx);
    assert_eq!(world.outbox.status().await.unwrap().backlog, 0);
}

async fn a_direct_publish_with_a_used_id_is_an_error<DB: Journal>(world: World<DB>) {
    let id = EventId::now();
    let publisher = EventPublisher::new(&world.bus);
    let first = || event(id, "user.created", "k1", "1");
    publisher.publish(first()).await.unwrap();
    publisher.publish(first()).await.unwrap();
    let told = publisher
        .publish(event(id, "user.deleted", "k2", "2"))
        .await;
    let Err(PublishError::DuplicateId { event, holder }) = told else {
        panic!("{told:?}")
    };
    assert_eq!(event, id);
    assert_eq!(holder, "sequence 1 of EVENTS has this id: user.created k1");
}
