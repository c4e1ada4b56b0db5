//! P2, P4, P8: two events with one id at the boundaries of reads and writes: at the end of a page, in two streams, in
//! one transaction, from SQL.

use sqlx::Postgres;
use tidings::{
    Envelope, EventId,
    outbox::{OutboxError, ParkedEvent, ParkedSelection},
    republish::Republish,
    testing::failpoint::{self, Point},
    trace::{Trace, TraceTarget},
    verify::Verify,
};

use crate::{
    both,
    support::{Database, Journal, Stream, World, event, events_stream, within},
};

both!(
    two_events_of_one_id_at_a_page_boundary_are_distinguished,
    two_events_of_one_id_are_distinguished_after_a_resume,
    one_id_in_two_streams_is_two_events,
    a_republication_skips_an_unreadable_discarded_row,
    an_event_enqueued_twice_in_a_transaction_is_stored_once,
    a_transaction_refused_for_an_id_names_both_events,
);

fn others(count: usize) -> impl Iterator<Item = Envelope> {
    (0..count).map(|n| event(EventId::now(), "count.raised", &format!("other-{n}"), "{}"))
}

async fn parked<DB: Database>(world: &World<DB>) -> Vec<ParkedEvent> {
    let parked = world.outbox.parked(&ParkedSelection::All, 0, 100).await;
    parked.unwrap()
}

async fn discard<DB: Database>(world: &World<DB>) -> usize {
    let discarded = world.outbox.discard(&ParkedSelection::All, 100).await;
    discarded.unwrap().len()
}

/// The first event is the last row of a page and the second the first row of the next one, or vice versa.
async fn two_events_of_one_id_at_a_page_boundary_are_distinguished<DB: Journal>(world: World<DB>) {
    // A page has two batches.
    for (batch, page) in [(1, 2), (10, 20), (40, 80)] {
        for first_at in [page - 2, page - 1, page] {
            let before = world.stored().await.len();
            let id = EventId::now();
            world.commit_all(others(first_at)).await;
            world
                .commit_all([event(id, "user.created", "k1", "first")])
                .await;
            world
                .commit_all([event(id, "user.deleted", "k2", "second")])
                .await;
            world.commit_all(others(page)).await;
            let relay = world.run_relay(world.new_relay().batch(batch));
            world.backlog_is_gone().await;
            relay.stop().await.unwrap();
            let what = format!("pages of {page}, the first at {first_at}");
            let listed = parked(&world).await;
            assert_eq!(listed.len(), 1, "{what}: {listed:?}");
            let sequence = before + first_at + 1;
            assert_eq!(
                (&*listed[0].payload, &*listed[0].error),
                (
                    &b"second"[..],
                    &*format!("sequence {sequence} of EVENTS has this id: user.created k1")
                ),
                "{what}"
            );
            let stored = world.stored().await;
            assert_eq!(
                (stored.len() - before, stored.duplicated()),
                (first_at + 1 + page, 0),
                "{what}"
            );
            assert_eq!(discard(&world).await, 1);
        }
    }
    let found = Verify::new(&world.bus, &world.outbox).run().await.unwrap();
    assert!(found.is_ok(), "{found:?}");
}

/// A relay died after the previous page was confirmed: the next relay reads the first event at the end of the stream,
/// and the second one is on the next page. The server has forgotten the id.
async fn two_events_of_one_id_are_distinguished_after_a_resume<DB: Journal>(world: World<DB>) {
    const WINDOW: std::time::Duration = std::time::Duration::from_millis(100);
    let mut stream = events_stream();
    stream.duplicate_window = WINDOW;
    world.bus.apply_stream(&stream).await.unwrap();
    let id = EventId::now();
    world.commit_all(others(19)).await;
    world
        .commit_all([event(id, "user.created", "k1", "first")])
        .await;
    world
        .commit_all([event(id, "user.deleted", "k2", "second")])
        .await;
    world.commit_all(others(19)).await;
    let relay = world.new_relay().batch(10);
    let armed = failpoint::arm(relay.owner(), Point::Answered, 2);
    let relay = world.run_relay(relay);
    within("the first page is answered", armed.reached()).await;
    relay.kill().await;
    // real time: until the server has forgotten the ids
    tokio::time::sleep(WINDOW * 2).await;
    world.end_the_lease().await;
    let relay = world.run_relay(world.new_relay().batch(10));
    world.backlog_is_gone().await;
    relay.stop().await.unwrap();
    let listed = parked(&world).await;
    assert_eq!(listed.len(), 1, "{listed:?}");
    assert_eq!(listed[0].payload, b"second");
    let stored = world.stored().await;
    assert_eq!((stored.len(), stored.duplicated()), (39, 0));
}

/// Each stream has ids of its own. Neither a relay that takes over nor a comparison mistakes one event for the other.
async fn one_id_in_two_streams_is_two_events<DB: Journal>(world: World<DB>) {
    world.two_streams().await;
    let id = EventId::now();
    let relay = world.new_relay();
    let armed = failpoint::arm(relay.owner(), Point::Answered, 1);
    let relay = world.run_relay(relay);
    world
        .commit_all([event(id, "user.created", "k1", "first")])
        .await;
    within("the first is answered", armed.reached()).await;
    relay.kill().await;
    world
        .commit_all([event(id, "count.raised", "k2", "second")])
        .await;
    world.end_the_lease().await;
    let relay = world.relay();
    world.backlog_is_gone().await;
    relay.stop().await.unwrap();
    assert_eq!(parked(&world).await, []);
    let counts = Stream::read(&world.nats.url(), "COUNTS").await;
    assert_eq!((world.stored().await.len(), counts.len()), (1, 1));

    let verify = Verify::new(&world.bus, &world.outbox);
    let found = verify.run().await.unwrap();
    assert!(found.is_ok(), "{found:?}");
    let sound: u64 = found.streams.iter().map(|stream| stream.ok).sum();
    assert_eq!(sound, 2, "{found:?}");
    let republished = Republish::new(&world.bus, &world.outbox).run().await;
    let republished = republished.unwrap();
    assert_eq!(
        (
            republished.events(),
            republished.stored,
            republished.duplicate_ids
        ),
        (0, 2, 0),
        "{republished:?}"
    );
    let trace = Trace::new(&world.bus).outbox(&world.outbox);
    let trace = trace.streams(["EVENTS", "COUNTS"]);
    let traced = trace.run(&TraceTarget::Event(id)).await.unwrap().events;
    for (name, stream) in [("user.created", "EVENTS"), ("count.raised", "COUNTS")] {
        let mut named = traced.iter().filter(|event| event.name == name);
        let event = named.next().unwrap_or_else(|| panic!("{name}: {traced:?}"));
        let stored: Vec<&str> = event.stored.iter().map(|at| &*at.stream).collect();
        assert_eq!(stored, [stream], "{name}: {traced:?}");
    }
    // The lost event is republished, although the other stream has its id.
    let client = async_nats::connect(world.nats.url()).await.unwrap();
    let context = async_nats::jetstream::new(client);
    let counts = context.get_stream("COUNTS").await.unwrap();
    assert!(counts.delete_message(1).await.unwrap());
    let repaired = verify.repair().await.unwrap();
    assert_eq!(repaired.events(), 1);
    let counts = Stream::read(&world.nats.url(), "COUNTS").await;
    assert_eq!(counts.len(), 1);
    assert_eq!(world.stored().await.len(), 1);
}

/// The discarded row is still in the log, and the republisher reads it there.
async fn a_republication_skips_an_unreadable_discarded_row<DB: Journal>(world: World<DB>) {
    let (before, row) = match DB::KIND {
        "postgres" => (
            "drop trigger outbox_is_event on tidings.outbox",
            "insert into tidings.outbox (event, name, version, payload, created_at)
                values (gen_random_uuid(), 'user.CREATED', -7, '{}', 'infinity'),
                       (gen_random_uuid(), 'user.created', 1, '{}', 'infinity')",
        ),
        _ => (
            "select 1",
            "pragma ignore_check_constraints = on;
             insert into tidings_outbox (event, name, version, payload, created_at)
                values (x'00', cast(x'757365722eff' as text), 'one', 7, 'today'),
                       (randomblob(16), 'user.created', 1, x'7b7d', 'today');
             pragma ignore_check_constraints = off",
        ),
    };
    DB::execute(world.outbox.pool(), before).await;
    world.commit_all(others(3)).await;
    DB::execute(world.outbox.pool(), row).await;
    world.commit_all(others(3)).await;
    let relay = world.relay();
    world.backlog_is_gone().await;
    relay.stop().await.unwrap();
    assert_eq!(discard(&world).await, 2);
    let republish = || Republish::new(&world.bus, &world.outbox);
    let told = republish().dry_run().await.unwrap();
    assert_eq!((told.wanted, told.stored), (0, 6), "{told:?}");
    let client = async_nats::connect(world.nats.url()).await.unwrap();
    let context = async_nats::jetstream::new(client);
    let stream = context.get_stream("EVENTS").await.unwrap();
    for sequence in [3, 4] {
        assert!(stream.delete_message(sequence).await.unwrap());
    }
    let told = republish().run().await.unwrap();
    assert_eq!((told.events(), told.stored), (2, 4), "{told:?}");
    // With `force`, the relayed events are republished, but not a row that is not a valid event.
    let told = republish().force().run().await.unwrap();
    assert_eq!(
        (told.events(), told.unconfirmed, told.gone),
        (6, 1, 1),
        "{told:?}"
    );
    assert_eq!(world.stored().await.len(), 12);
    assert_eq!(parked(&world).await, []);
    let verify = Verify::new(&world.bus, &world.outbox).payloads();
    let found = verify.run().await.unwrap();
    assert_eq!(found.streams[0].missing, 0, "{found:?}");
}

async fn an_event_enqueued_twice_in_a_transaction_is_stored_once<DB: Journal>(world: World<DB>) {
    let id = EventId::now();
    let same = || event(id, "user.created", "k1", "same");
    let mut tx = world.outbox.pool().begin().await.unwrap();
    world.outbox.enqueue(&mut tx, same()).await.unwrap();
    world.outbox.enqueue(&mut tx, same()).await.unwrap();
    let all = world.outbox.enqueue_all(&mut tx, [same(), same()]).await;
    assert_eq!(all.unwrap(), [id, id]);
    tx.commit().await.unwrap();
    let mut tx = world.outbox.begin().await.unwrap();
    tx.publish_all([same(), same()]).unwrap();
    tx.publish(same()).unwrap();
    tx.commit().await.unwrap();
    let relay = world.relay();
    world.backlog_is_gone().await;
    relay.stop().await.unwrap();
    assert_eq!(world.stored().await.len(), 1);
    assert_eq!(parked(&world).await, []);
}

async fn a_transaction_refused_for_an_id_names_both_events<DB: Journal>(world: World<DB>) {
    let id = EventId::now();
    let first = || event(id, "user.created", "k1", "1");
    let names = |refused: OutboxError, second: &str| {
        let said = refused.to_string();
        assert!(matches!(refused, OutboxError::DuplicateId { event, .. } if event == id));
        for named in [&*id.to_string(), "user.created k1", second] {
            assert!(said.contains(named), "{named}: {said}");
        }
    };
    for (second, named) in [
        (event(id, "user.deleted", "k2", "2"), "user.deleted k2"),
        (event(id, "user.created", "k2", "1"), "user.created k2"),
        (event(id, "user.created", "k1", "2"), "user.created k1"),
        (
            Envelope::raw("user.seen", 1, None, "2")
                .unwrap()
                .with_id(id),
            "user.seen",
        ),
    ] {
        let mut tx = world.outbox.begin().await.unwrap();
        DB::count_up(&mut tx, "refused").await.unwrap();
        tx.publish_all(others(3)).unwrap();
        tx.publish(first()).unwrap();
        tx.publish_all(others(2000)).unwrap();
        tx.publish(second.clone()).unwrap();
        names(tx.commit().await.unwrap_err(), named);
        let mut tx = world.outbox.pool().begin().await.unwrap();
        let all = world.outbox.enqueue_all(&mut tx, [first(), second]).await;
        names(all.unwrap_err(), named);
        // Nothing was written, so the rest of the transaction may be committed.
        tx.commit().await.unwrap();
    }
    assert_eq!(world.outbox.status().await.unwrap().backlog, 0);
    let rows = DB::number(world.outbox.pool(), "select count(*) from counter").await;
    assert_eq!(rows, 0);
}

/// Two statements do not know each other's ids: the transaction is committed, and the relay parks one of the events.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_relay_distinguishes_two_sql_events_of_one_id() {
    let world = World::<Postgres>::start().await;
    let id = EventId::now();
    let enqueue = |name: &str, key: &str, n: u8| {
        format!("select tidings.enqueue('{name}', 1, '{key}', '{n}', event => '{id}')")
    };
    let (first, second) = (
        enqueue("user.created", "k1", 1),
        enqueue("user.deleted", "k2", 2),
    );
    let both = format!("begin; {first}; {first}; {second}; commit");
    Postgres::execute(world.outbox.pool(), &both).await;
    // One by one, where the library has written the first one.
    let later = EventId::now();
    world
        .commit_all([event(later, "user.created", "k3", "3")])
        .await;
    let third = format!("select tidings.enqueue('user.deleted', 1, 'k4', '4', event => '{later}')");
    Postgres::execute(world.outbox.pool(), &third).await;
    let relay = world.relay();
    world.backlog_is_gone().await;
    relay.stop().await.unwrap();
    let errors: Vec<String> = parked(&world)
        .await
        .into_iter()
        .map(|row| row.error)
        .collect();
    assert_eq!(
        errors,
        [
            "sequence 1 of EVENTS has this id: user.created k1",
            "sequence 2 of EVENTS has this id: user.created k3"
        ]
    );
    assert_eq!(world.stored().await.len(), 2);
}
