//! P7 on the producing side: an event that NATS will never take is parked, and blocks no other key.

use crate::{
    both,
    support::{Counted, Database, World, eventually},
};

both!(
    an_event_without_a_stream_is_parked_and_its_key_waits,
    an_event_above_the_servers_limit_is_parked,
    a_row_that_is_no_event_is_parked,
    a_relay_that_waits_for_a_stream_stops_and_parks_nothing,
);

async fn publish<DB: Database>(world: &World<DB>, name: &str, key: &str, payload: &str) {
    let mut tx = world.outbox.begin().await.unwrap();
    tx.publish(tidings::Envelope::raw(name, 1, Some(key), payload.to_owned()).unwrap())
        .unwrap();
    tx.commit().await.unwrap();
}

async fn an_event_without_a_stream_is_parked_and_its_key_waits<DB: Database>(world: World<DB>) {
    publish(&world, "count.raised", "a", "1").await;
    publish(&world, "nobody.listens", "a", "2").await;
    publish(&world, "count.raised", "a", "3").await;
    publish(&world, "count.raised", "b", "4").await;
    let relay = world.relay();
    world.is_settled().await;
    relay.stop().await.unwrap();
    let payloads = |stored: &crate::support::Stream| {
        stored
            .0
            .iter()
            .map(|m| String::from_utf8(m.payload.clone()).unwrap())
            .collect::<Vec<_>>()
    };
    assert_eq!(payloads(&world.stored().await), ["1", "4"]);
    assert_eq!(world.parked().await, 2);

    // A relay that begins later still knows that the key is parked.
    publish(&world, "count.raised", "a", "5").await;
    publish(&world, "count.raised", "b", "6").await;
    let relay = world.relay();
    world.is_settled().await;
    relay.stop().await.unwrap();
    assert_eq!(payloads(&world.stored().await), ["1", "4", "6"]);
    assert_eq!(world.parked().await, 3);
    let sql = format!(
        "select error from {} order by id limit 1",
        DB::table("parked")
    );
    assert!(
        DB::word(world.outbox.pool(), &sql)
            .await
            .contains("nobody.listens")
    );
}

async fn an_event_above_the_servers_limit_is_parked<DB: Database>(world: World<DB>) {
    let relay = world.relay();
    publish(&world, "count.raised", "a", "1").await;
    world.is_settled().await;
    // A producer with a limit that is higher than the server's.
    let generous = world.outbox.clone().max_payload(usize::MAX);
    let mut tx = generous.begin().await.unwrap();
    let big = Counted {
        key: "x".repeat(200),
        count: 1,
    };
    tx.publish(&big).unwrap();
    let huge = "9".repeat(world.bus.max_payload() + 1);
    tx.publish(tidings::Envelope::raw("count.raised", 1, Some("huge"), huge).unwrap())
        .unwrap();
    tx.commit().await.unwrap();
    world.is_settled().await;
    relay.stop().await.unwrap();
    assert_eq!((world.stored().await.len(), world.parked().await), (2, 1));
    let parked = world
        .outbox
        .parked(&tidings::outbox::ParkedSelection::All, 0, 9);
    let error = parked.await.unwrap().remove(0).error;
    assert!(
        error.contains("the max_payload of the nats-server"),
        "{error}"
    );
    assert!(!error.contains("not an event"), "{error}");
}

async fn a_row_that_is_no_event_is_parked<DB: Database>(world: World<DB>) {
    let table = DB::table("outbox");
    let (uuid, bytes) = if table.contains('.') {
        ("gen_random_uuid()", "'\\x31'")
    } else {
        ("randomblob(16)", "x'31'")
    };
    for (name, headers) in [
        ("Not A Name", "{}"),
        ("count.raised", "[1]"),
        ("count.raised", "{}"),
    ] {
        let sql = format!(
            "insert into {table} (event, name, headers, payload) values ({uuid}, '{name}', '{headers}', {bytes})"
        );
        DB::execute(world.outbox.pool(), &sql).await;
    }
    let relay = world.relay();
    world.is_settled().await;
    relay.stop().await.unwrap();
    assert_eq!((world.stored().await.len(), world.parked().await), (1, 2));
}

async fn a_relay_that_waits_for_a_stream_stops_and_parks_nothing<DB: Database>(world: World<DB>) {
    let jetstream = world.full_stream().await;
    publish(&world, "count.raised", "a", "1").await;
    publish(&world, "full.up", "a", "2").await;
    // With a patience of an hour, the relay would wait for an hour.
    let hour = std::time::Duration::from_secs(3600);
    let relay = world.run_relay(world.new_relay().stall_timeout(hour));
    eventually("the first is stored, the second is tried", || async {
        let issues = world.outbox.status().await.unwrap().issues;
        world.stored().await.len() == 1 && !issues.is_empty()
    })
    .await;
    relay.stop().await.unwrap();
    assert_eq!(world.parked().await, 0);
    let status = world.outbox.status().await.unwrap();
    assert_eq!(status.lease.owner, None, "the lease is released");
    assert_eq!(status.issues.last().unwrap().place, "stream FULL");

    // There is room again, and nothing is lost or duplicated.
    let full = jetstream.get_stream("FULL").await.unwrap();
    full.purge().await.unwrap();
    let relay = world.relay();
    world.is_settled().await;
    relay.stop().await.unwrap();
    assert_eq!((world.stored().await.len(), world.parked().await), (1, 0));
    assert_eq!(world.outbox.status().await.unwrap().issues, []);
}
