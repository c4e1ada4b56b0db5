//! Deleted consumers and streams, and a server that is restarted under two workers on one durable: each recovers
//! within ten seconds.

use std::{sync::Arc, time::Duration};

use crate::{
    effects::Effects,
    handling::Handling,
    support::{World, events_stream, eventually},
    table, trials,
    worker::{DURABLE, Kind},
};

trials!(
    a_consumer_that_is_deleted: in short on sqlite,
    a_consumer_that_is_deleted_after_a_worker_died: in short on sqlite,
    the_consumer_of_retries_is_deleted: in short on sqlite,
    an_ordered_consumer_that_is_deleted: in short on sqlite,
    a_stream_that_is_deleted_and_recreated: in short on sqlite,
    a_server_that_is_restarted: in short on sqlite,
);

const RECOVERS: Duration = Duration::from_secs(10);

async fn delete_the_consumer<DB: Effects>(handling: &mut Handling<DB>, of: &str) -> Duration {
    let stream = handling
        .trial
        .world
        .jetstream()
        .await
        .get_stream(of)
        .await
        .unwrap();
    stream.delete_consumer(DURABLE).await.unwrap();
    handling.recovers().await
}

async fn a_consumer_that_is_deleted<DB: Effects>(world: World<DB>) {
    let fault = "once: consumer deleted, two workers";
    let mut handling = Handling::with(fault, world, Kind::Once, 2).await;
    for _ in 0..table::rounds(8) {
        handling.goes_on().await;
        assert!(delete_the_consumer(&mut handling, "EVENTS").await < RECOVERS);
    }
    handling.judge().await;
}

/// The deliveries in flight in the dead worker hold back the ack floor: every event handled since then is redelivered
/// before any new event, and how long that takes depends on the load.
async fn a_consumer_that_is_deleted_after_a_worker_died<DB: Effects>(world: World<DB>) {
    let fault = "once: worker SIGKILL, then consumer deleted";
    let mut handling = Handling::with(fault, world, Kind::Once, 2).await;
    for round in 0..table::rounds(8) {
        handling.goes_on().await;
        handling.instances[round % 2].signal("KILL").await;
        handling.goes_on().await;
        delete_the_consumer(&mut handling, "EVENTS").await;
    }
    handling.judge().await;
}

/// Events that wait for their next attempt are still in the stream.
async fn the_consumer_of_retries_is_deleted<DB: Effects>(world: World<DB>) {
    let fault = "retries: consumer of RETRIES deleted";
    let mut handling = Handling::with(fault, world, Kind::Failing, 1).await;
    for _ in 0..table::rounds(8) {
        handling.goes_on().await;
        assert!(delete_the_consumer(&mut handling, "RETRIES").await < RECOVERS);
    }
    handling.judge().await;
}

async fn an_ordered_consumer_that_is_deleted<DB: Effects>(world: World<DB>) {
    let fault = "ordered: consumer deleted, three workers";
    let mut handling = Handling::with(fault, world, Kind::Ordered, 3).await;
    for _ in 0..table::rounds(8) {
        handling.goes_on().await;
        assert!(delete_the_consumer(&mut handling, "EVENTS").await < RECOVERS);
    }
    handling.judge().await;
}

/// The events in the stream are lost with it: the operator must restore them, and here all of them are handled before.
async fn a_stream_that_is_deleted_and_recreated<DB: Effects>(world: World<DB>) {
    let fault = "once: stream deleted, then created anew";
    let mut handling = Handling::with(fault, world, Kind::Once, 2).await;
    handling.goes_on().await;
    handling.trial.still().await;
    let pool = handling.trial.world.outbox.pool().clone();
    let noted = DB::noted(&pool).await.len();
    eventually("all is handled", || async {
        handling.effects().await.len() == noted
    })
    .await;
    handling
        .trial
        .world
        .jetstream()
        .await
        .delete_stream("EVENTS")
        .await
        .unwrap();
    DB::execute(&pool, "delete from journal").await;
    DB::execute(&pool, "delete from effect").await;
    handling.trial.write();
    handling.trial.goes_on().await;
    handling
        .trial
        .world
        .bus
        .apply_stream(&events_stream())
        .await
        .unwrap();
    assert!(handling.recovers().await < RECOVERS);
    handling.judge().await;
}

async fn a_server_that_is_restarted<DB: Effects>(world: World<DB>) {
    let fault = "once: nats-server restarted, two workers";
    let mut handling = Handling::with(fault, world, Kind::Once, 2).await;
    let nats = Arc::clone(&handling.trial.world.nats);
    for _ in 0..table::rounds(6) {
        handling.goes_on().await;
        nats.stop().await.unwrap();
        nats.restart().await.unwrap();
        assert!(handling.recovers().await < RECOVERS);
    }
    handling.judge().await;
}
