//! P7, P8: of two events with one id, the one that is not stored is reported as missing by trace and verify, even if a
//! relay of an earlier version took it for stored.

use async_nats::jetstream;
use tidings::{
    Envelope, EventId,
    outbox::ParkedSelection,
    republish::Republish,
    trace::{Trace, TraceTarget, Traced, TracedEvent},
    verify::{DifferenceKind, Verification, Verify},
};

use crate::{
    both,
    support::{Journal, World, event, eventually},
};

both!(
    an_event_with_a_used_id_is_reported_and_not_repaired,
    payloads_of_one_size_are_compared,
    an_event_parked_for_its_id_is_not_traced_to_the_other,
    foreign_events_with_one_id_are_not_judged,
);

async fn relayed<DB: Journal>(world: &World<DB>, event: Envelope) {
    let mut tx = world.outbox.begin().await.unwrap();
    tx.publish(event).unwrap();
    tx.commit().await.unwrap();
    let relay = world.relay();
    eventually("it is stored or parked", || async {
        world.outbox.status().await.unwrap().backlog == 0
    })
    .await;
    relay.stop().await.unwrap();
}

/// Changes the database as if a relay had taken the parked event for the first one, which has its id.
async fn is_taken_for_the_first<DB: Journal>(world: &World<DB>) {
    let parked = world.outbox.parked(&ParkedSelection::All, 0, 9).await;
    let id = parked.unwrap()[0].id;
    let (parked, ledger) = (DB::table("parked"), DB::table("ledger"));
    let columns = "events, stream, incarnation, first_sequence, last_sequence, epoch";
    for sql in [
        format!("delete from {parked}"),
        format!(
            "insert into {ledger} (first_id, last_id, {columns})
             select {id}, {id}, {columns} from {ledger} where last_sequence = 1"
        ),
    ] {
        DB::execute(world.outbox.pool(), &sql).await;
    }
}

async fn verified<DB: Journal>(world: &World<DB>) -> Verification {
    Verify::new(&world.bus, &world.outbox).run().await.unwrap()
}

async fn traced<DB: Journal>(world: &World<DB>, sought: TraceTarget) -> Vec<TracedEvent> {
    let trace = Trace::new(&world.bus).outbox(&world.outbox);
    let Traced { events, .. } = trace.run(&sought).await.unwrap();
    events
}

fn named<'a>(events: &'a [TracedEvent], name: &str) -> &'a TracedEvent {
    let mut events = events.iter();
    events.find(|event| event.name == name).unwrap()
}

async fn an_event_with_a_used_id_is_reported_and_not_repaired<DB: Journal>(world: World<DB>) {
    let id = EventId::now();
    relayed(&world, event(id, "user.created", "k1", "{}")).await;
    relayed(&world, event(EventId::now(), "user.created", "k3", "{}")).await;
    relayed(&world, event(id, "user.deleted", "k2", "{}")).await;
    is_taken_for_the_first(&world).await;

    let found = verified(&world).await;
    let stream = &found.streams[0];
    assert_eq!(
        (stream.ok, stream.modified, stream.missing),
        (2, 1, 0),
        "{found:?}"
    );
    let told = &stream.differences[0];
    assert_eq!(told.kind, DifferenceKind::Modified);
    assert_eq!(
        (&*told.name, told.sequence, told.detail),
        ("user.deleted", Some(1), Some("name"))
    );

    let repair = Verify::new(&world.bus, &world.outbox)
        .repair()
        .await
        .unwrap();
    assert_eq!((repair.events(), repair.is_whole()), (0, false));
    let republish = || Republish::new(&world.bus, &world.outbox);
    let done = republish().run().await.unwrap();
    assert_eq!(
        (done.events(), done.stored, done.duplicate_ids),
        (0, 2, 1),
        "{done:?}"
    );
    assert_eq!(world.stored().await.len(), 2);

    for sought in [TraceTarget::Event(id), TraceTarget::Key("k2".to_owned())] {
        let events = traced(&world, sought.clone()).await;
        let second = named(&events, "user.deleted");
        assert!(second.stored.is_empty(), "{second:?}");
        let why = second.unstored.as_deref().unwrap_or_default();
        assert!(
            why.contains("sequence 1 of EVENTS is user.created k1"),
            "{why}"
        );
        if let TraceTarget::Event(_) = sought {
            assert_eq!(named(&events, "user.created").stored[0].sequence, 1);
            assert_eq!(events.len(), 2);
        }
    }
    // With `force`, the event is published.
    let forced = republish()
        .name("user.deleted")
        .force()
        .run()
        .await
        .unwrap();
    assert_eq!(forced.events(), 1);
    let stored = world.stored().await;
    assert_eq!((stored.len(), stored.of("user.deleted").len()), (3, 1));
}

async fn payloads_of_one_size_are_compared<DB: Journal>(world: World<DB>) {
    let id = EventId::now();
    relayed(&world, event(id, "user.created", "k1", "1")).await;
    relayed(&world, event(id, "user.created", "k1", "2")).await;
    is_taken_for_the_first(&world).await;
    let found = verified(&world).await;
    let stream = &found.streams[0];
    assert_eq!(
        (stream.ok, stream.modified, stream.missing),
        (1, 1, 0),
        "{found:?}"
    );
    assert_eq!(stream.differences[0].detail, Some("payload"));
}

async fn an_event_parked_for_its_id_is_not_traced_to_the_other<DB: Journal>(world: World<DB>) {
    let id = EventId::now();
    relayed(&world, event(id, "user.created", "k1", "1")).await;
    relayed(&world, event(id, "user.created", "k1", "2")).await;
    let events = traced(&world, TraceTarget::Event(id)).await;
    let stored: Vec<usize> = events.iter().map(|event| event.stored.len()).collect();
    assert_eq!(stored, [1, 0], "{events:?}");
    assert!(verified(&world).await.is_ok());
}

async fn foreign_events_with_one_id_are_not_judged<DB: Journal>(world: World<DB>) {
    relayed(&world, event(EventId::now(), "user.created", "k1", "{}")).await;
    let client = async_nats::connect(world.nats.url()).await.unwrap();
    let jetstream = jetstream::new(client);
    let own = world.stored().await.ids().remove(0);
    for id in [EventId::now().to_string(), own] {
        for source in ["a", "b"] {
            let mut headers = async_nats::HeaderMap::new();
            for (name, value) in [
                ("ce-id", &*id),
                ("ce-source", source),
                ("ce-type", "user.named.v1"),
            ] {
                headers.insert(name, value);
            }
            let stored = jetstream.publish_with_headers("user.named", headers, "{}".into());
            stored.await.unwrap().await.unwrap();
        }
    }
    let found = verified(&world).await;
    assert!(found.is_ok(), "{found:?}");
    assert_eq!((found.streams[0].ok, found.streams[0].foreign), (1, 4));
}
