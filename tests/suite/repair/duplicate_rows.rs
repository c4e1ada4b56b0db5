//! P8: an outbox may have one event in several rows; republishing stores it once, in every mode.

use tidings::{
    Envelope, EventId, StreamSpec,
    outbox::ParkedSelection,
    republish::{Republish, Republished},
    trace::{Trace, TraceTarget},
    verify::Verify,
};

use crate::{
    both,
    support::{Database, Stream, World, events_stream, eventually, within},
};

both!(
    an_event_in_two_rows_is_republished_once,
    an_event_in_two_distant_rows_is_republished_once,
    an_event_in_two_rows_is_force_republished_once,
    an_event_in_two_rows_is_copied_once,
    another_event_with_the_same_id_is_force_republished_too,
);

fn event(id: EventId, key: &str, payload: &str) -> Envelope {
    let envelope = Envelope::raw("user.created", 1, Some(key), payload.to_owned());
    envelope.unwrap().with_id(id)
}

async fn relay<DB: Database>(world: &World<DB>) {
    let relay = world.relay();
    eventually("everything is stored or parked", || async {
        let status = world.outbox.status().await;
        status.is_ok_and(|status| status.backlog == 0)
    })
    .await;
    relay.stop().await.unwrap();
}

/// Commits two rows of one event, with this many other rows between them, and another event behind them.
async fn twice<DB: Database>(world: &World<DB>, between: usize) -> EventId {
    let id = EventId::now();
    world.commit_all([event(id, "k", "twice")]).await;
    let mut tx = world.outbox.begin().await.unwrap();
    let others = (0..between).map(|n| event(EventId::now(), &format!("other-{n}"), "{}"));
    tx.publish_all(others).unwrap();
    tx.commit().await.unwrap();
    world.commit_all([event(id, "k", "twice")]).await;
    world.commit_all([event(EventId::now(), "j", "once")]).await;
    relay(world).await;
    assert_eq!(world.stored().await.len(), between + 2);
    id
}

/// Recreates and repairs the stream: afterwards the event of every row is stored.
async fn comes_back_once<DB: Database>(world: &World<DB>, between: usize) {
    let id = twice(world, between).await;
    let jetstream = world.jetstream().await;
    jetstream.delete_stream("EVENTS").await.unwrap();
    world.bus.apply_stream(&events_stream()).await.unwrap();
    let verify = || Verify::new(&world.bus, &world.outbox).payloads();
    let repair = verify();
    let repaired = within("the repair", repair.repair()).await.unwrap();
    assert_eq!(repaired.events(), between as u64 + 2, "{repaired:?}");
    let stored = world.stored().await;
    assert_eq!((stored.len(), stored.duplicated()), (between + 2, 0));
    let found = verify().run().await.unwrap();
    assert!(found.is_ok(), "{found:?}");
    assert_eq!(found.streams[0].ok, between as u64 + 3, "{found:?}");
    // The comparison has left no consumers on the server.
    let mut stream = jetstream.get_stream("EVENTS").await.unwrap();
    let consumers = stream.info().await.unwrap().state.consumer_count;
    assert!(consumers < 20, "{consumers}");
    let trace = Trace::new(&world.bus).outbox(&world.outbox);
    let traced = trace.streams(["EVENTS"]).run(&TraceTarget::Event(id)).await;
    let traced = traced.unwrap().events;
    let places: Vec<u64> = traced
        .iter()
        .flat_map(|event| event.stored.iter().map(|stored| stored.sequence))
        .collect();
    assert_eq!(places, [1], "{traced:?}");
}

async fn an_event_in_two_rows_is_republished_once<DB: Database>(world: World<DB>) {
    comes_back_once(&world, 0).await;
}

/// The second row is in another batch, and the first batch is confirmed while the next one is in flight.
async fn an_event_in_two_distant_rows_is_republished_once<DB: Database>(world: World<DB>) {
    comes_back_once(&world, 2500).await;
}

async fn done<DB: Database>(republish: Republish<DB>) -> Republished {
    let running = republish.run();
    within("what is published again", running).await.unwrap()
}

/// The event is stored twice then: once by the relay, once by the republisher.
async fn an_event_in_two_rows_is_force_republished_once<DB: Database>(world: World<DB>) {
    twice(&world, 0).await;
    let forced = done(Republish::new(&world.bus, &world.outbox).force()).await;
    assert_eq!((forced.wanted, forced.events()), (3, 2), "{forced:?}");
    let stored = world.stored().await;
    assert_eq!((stored.len(), stored.duplicated()), (4, 2));
}

async fn an_event_in_two_rows_is_copied_once<DB: Database>(world: World<DB>) {
    twice(&world, 0).await;
    let subjects = ["copy.>".parse().unwrap()];
    let spec = StreamSpec::new("COPY", subjects).unwrap();
    world.bus.apply_stream(&spec).await.unwrap();
    let into = || Republish::new(&world.bus, &world.outbox).into_prefix("copy");
    assert_eq!(done(into().missing()).await.events(), 2);
    let more = done(into().missing()).await;
    assert_eq!((more.stored, more.events()), (3, 0), "{more:?}");
    assert_eq!(done(into()).await.events(), 2);
    let copies = Stream::read(&world.nats.url(), "COPY").await;
    assert_eq!(copies.len(), 4);
}

/// One of the two rows was parked because the other one has its id, and then discarded.
async fn another_event_with_the_same_id_is_force_republished_too<DB: Database>(world: World<DB>) {
    let id = EventId::now();
    world.commit_all([event(id, "k1", "one")]).await;
    relay(&world).await;
    let other = Envelope::raw("count.raised", 1, Some("k3"), "2").unwrap();
    let taken = format!(
        "insert into {} (event, name, version, key, headers, payload)
            select event, 'user.created', 1, 'k2', headers, payload from {} where id = 1",
        DB::table("outbox"),
        DB::table("outbox")
    );
    DB::execute(world.outbox.pool(), &taken).await;
    world.commit_all([other]).await;
    relay(&world).await;
    let all = ParkedSelection::All;
    let discarded = world.outbox.discard(&all, 10).await.unwrap();
    assert_eq!(discarded.len(), 1, "{discarded:?}");
    assert_eq!(world.stored().await.len(), 2);
    let forced = done(Republish::new(&world.bus, &world.outbox).force()).await;
    assert_eq!(forced.events(), 3, "{forced:?}");
    let stored = world.stored().await;
    let keys: Vec<&str> = stored.0[2..]
        .iter()
        .map(|message| message.header("ce-partitionkey"))
        .collect();
    assert_eq!(keys, ["k1", "k2", "k3"]);
    let ids: Vec<&str> = stored.0[2..]
        .iter()
        .map(|message| message.header("ce-id"))
        .collect();
    assert_eq!((ids[0], ids[1]), (&*id.to_string(), &*id.to_string()));
}
