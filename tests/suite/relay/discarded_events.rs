//! P2: a discarded event blocks nothing and is reported as discarded; events parked behind another one are reported
//! correctly.

use async_nats::jetstream;
use tidings::{
    Envelope, EventId,
    outbox::{ParkedEvent, ParkedSelection},
    republish::Republish,
    trace::{OutboxTrace, Trace, TraceTarget},
    verify::Verify,
};

use crate::{
    both,
    support::{Database, World, eventually},
};

both!(
    later_events_of_a_key_flow_when_the_parked_one_is_discarded,
    events_parked_behind_a_discarded_one_keep_their_order,
    later_parked_events_are_restored_like_the_first_of_the_key,
    a_discarded_row_is_in_no_ledger_entry_around_it,
);

async fn commit<DB: Database>(world: &World<DB>, name: &str, key: &str, payload: &str) -> EventId {
    let mut tx = world.outbox.begin().await.unwrap();
    let event = Envelope::raw(name, 1, Some(key), payload.to_owned()).unwrap();
    let id = tx.publish(event).unwrap();
    tx.commit().await.unwrap();
    id
}

/// Makes a row unpublishable: it is not a valid event.
async fn spoil<DB: Database>(world: &World<DB>, row: i64) {
    let spoil = format!(
        "update {} set headers = '[]' where id = {row}",
        DB::table("outbox")
    );
    DB::execute(world.outbox.pool(), &spoil).await;
}

async fn parked<DB: Database>(world: &World<DB>) -> Vec<ParkedEvent> {
    let all = ParkedSelection::All;
    let listed = world.outbox.parked_heads(&all, i64::MIN, 100).await;
    listed.unwrap()
}

async fn parks<DB: Database>(world: &World<DB>, rows: &[i64]) {
    eventually("they are parked", || async {
        let ids: Vec<i64> = parked(world).await.iter().map(|row| row.id).collect();
        ids == rows
    })
    .await;
}

async fn payloads<DB: Database>(world: &World<DB>) -> Vec<String> {
    let stored = world.stored().await;
    let payload = |at: usize| String::from_utf8_lossy(&stored.0[at].payload).into_owned();
    (0..stored.len()).map(payload).collect()
}

async fn stores<DB: Database>(world: &World<DB>, expected: &[&str]) {
    eventually("they are stored", || async {
        world.stored().await.len() >= expected.len()
    })
    .await;
    assert_eq!(payloads(world).await, expected);
}

/// The relay is not restarted.
async fn later_events_of_a_key_flow_when_the_parked_one_is_discarded<DB: Database>(
    world: World<DB>,
) {
    commit(&world, "user.created", "k", "1").await;
    spoil(&world, 1).await;
    let relay = world.relay();
    parks(&world, &[1]).await;
    assert_eq!(world.outbox.discard_rows(&[1]).await.unwrap().len(), 1);
    commit(&world, "user.created", "k", "2").await;
    commit(&world, "user.created", "k", "3").await;
    stores(&world, &["2", "3"]).await;
    commit(&world, "user.created", "k", "4").await;
    stores(&world, &["2", "3", "4"]).await;
    eventually("nothing is parked", || async {
        parked(&world).await.is_empty()
    })
    .await;
    relay.stop().await.unwrap();
    let status = world.outbox.status().await.unwrap();
    assert_eq!((status.parked, status.backlog), (0, 0), "{status:?}");
}

async fn events_parked_behind_a_discarded_one_keep_their_order<DB: Database>(world: World<DB>) {
    commit(&world, "user.created", "k", "1").await;
    commit(&world, "user.created", "k", "2").await;
    spoil(&world, 1).await;
    let relay = world.relay();
    parks(&world, &[1, 2]).await;
    assert_eq!(world.outbox.discard_rows(&[1]).await.unwrap().len(), 1);
    // The second row stays parked until it is unparked, and later rows of its key are parked behind it.
    commit(&world, "user.created", "k", "3").await;
    commit(&world, "user.created", "j", "other").await;
    parks(&world, &[2, 3]).await;
    stores(&world, &["other"]).await;
    let of_key = ParkedSelection::Key("k".to_owned());
    assert_eq!(world.outbox.unpark(&of_key).await.unwrap(), 2);
    stores(&world, &["other", "2", "3"]).await;
    relay.stop().await.unwrap();
}

/// Status, list and trace use the same rule.
async fn later_parked_events_are_restored_like_the_first_of_the_key<DB: Database>(
    world: World<DB>,
) {
    commit(&world, "nowhere.at_all", "k", "1").await;
    let second = commit(&world, "user.created", "k", "2").await;
    commit(&world, "user.created", "k", "3").await;
    commit(&world, "user.created", "j", "4").await;
    let fifth = commit(&world, "user.created", "j", "5").await;
    spoil(&world, 4).await;
    let relay = world.relay();
    parks(&world, &[1, 2, 3, 4, 5]).await;
    relay.stop().await.unwrap();
    let status = world.outbox.status().await.unwrap();
    assert_eq!((status.returning, status.undecided), (3, 2), "{status:?}");
    let told: Vec<bool> = parked(&world)
        .await
        .iter()
        .map(|row| row.is_returning)
        .collect();
    assert_eq!(told, [true, true, true, false, false]);
    for (id, expected) in [(second, true), (fifth, false)] {
        let event = world.traced(id).await;
        let OutboxTrace::Parked {
            is_returning,
            blocked_on,
            ..
        } = &event.outbox
        else {
            panic!("{event:?}")
        };
        assert_eq!((*is_returning, blocked_on), (expected, &None), "{event:?}");
    }
    let discarded = world.outbox.discard(&ParkedSelection::All, 10).await;
    assert!(discarded.unwrap().iter().all(|row| !row.is_returning));
}

async fn a_discarded_row_is_in_no_ledger_entry_around_it<DB: Database>(world: World<DB>) {
    commit(&world, "user.created", "a", "1").await;
    let id = commit(&world, "user.created", "k", "2").await;
    commit(&world, "user.created", "b", "3").await;
    spoil(&world, 2).await;
    let relay = world.relay();
    parks(&world, &[2]).await;
    stores(&world, &["1", "3"]).await;
    relay.stop().await.unwrap();
    assert_eq!(world.outbox.discard_rows(&[2]).await.unwrap().len(), 1);
    let client = async_nats::connect(world.nats.url()).await.unwrap();
    let stream = jetstream::new(client).get_stream("EVENTS").await.unwrap();
    for sequence in [1, 2] {
        assert!(stream.delete_message(sequence).await.unwrap());
    }
    let verify = Verify::new(&world.bus, &world.outbox);
    assert_eq!(verify.repair().await.unwrap().events(), 2);
    let trace = Trace::new(&world.bus).outbox(&world.outbox);
    let found = trace.streams(["EVENTS"]).run(&TraceTarget::Event(id)).await;
    let found = found.unwrap();
    let [event] = &found.events[..] else {
        panic!("{found:?}")
    };
    assert!(
        matches!(event.outbox, OutboxTrace::Discarded { row: 2, .. }),
        "{event:?}"
    );
    assert!(
        event.batches.is_empty() && event.stored.is_empty(),
        "{event:?}"
    );
    let unstored = event.unstored.as_deref();
    assert_eq!(
        unstored,
        Some("the event was discarded while it was parked")
    );
    // A discarded event is never republished.
    let again = Republish::new(&world.bus, &world.outbox).run().await;
    assert_eq!(again.unwrap().events(), 0);
}
