//! P2, P3, P4: when a relay dies at any point, and the next one begins after the stream has forgotten the ids, no
//! event is lost, duplicated or reordered.

use std::time::Duration;

use tidings::{
    Envelope,
    outbox::ParkedSelection,
    testing::failpoint::{self, Point},
};

use crate::{
    both,
    support::{Journal, World, eventually, within},
};

both!(
    a_relay_may_die_at_any_point_before_a_late_successor,
    the_next_relay_continues_a_page_that_was_begun,
    an_event_parked_before_a_crash_is_published_once,
);

/// The stream forgets ids after this time, so that only the check of its end prevents duplicates.
const WINDOW: Duration = Duration::from_millis(100);
const AN_HOUR: Duration = Duration::from_secs(3600);

/// Kills a relay with small batches when it reaches a point for the n-th time; afterwards the server has forgotten its
/// ids and its lease has expired.
async fn dies<DB: Journal>(world: &World<DB>, batch: usize, point: Point, nth: usize) {
    let relay = world.new_relay().batch(batch).stall_timeout(AN_HOUR);
    let armed = failpoint::arm(relay.owner(), point, nth);
    let relay = world.run_relay(relay);
    within(&format!("{point:?} {nth}"), armed.reached()).await;
    relay.kill().await;
    world.is_taken().await;
    // real time: until the server has forgotten the ids
    tokio::time::sleep(WINDOW + Duration::from_millis(50)).await;
    world.end_the_lease().await;
}

async fn the_rest_is_relayed<DB: Journal>(world: &World<DB>) {
    let relay = world.relay();
    eventually("the backlog is gone", || async {
        let status = world.outbox.status().await;
        status.is_ok_and(|status| status.backlog == 0)
    })
    .await;
    relay.stop().await.unwrap();
}

async fn a_relay_may_die_at_any_point_before_a_late_successor<DB: Journal>(world: World<DB>) {
    world.keep_a_journal().await;
    world.forget_ids_after(WINDOW).await;
    for nth in 1..=4 {
        for point in Point::ALL {
            // Few keys make batches; many keys are published in parallel.
            for keys in [3, 30] {
                let keys = (0..30).map(|n| format!("key-{}", n % keys));
                world.commit_each(keys).await;
            }
            dies(&world, 5, point, nth).await;
        }
    }
    the_rest_is_relayed(&world).await;
    let verdict = world.verdict().await;
    assert_eq!(verdict, verdict.flawless());
    assert_eq!(verdict.events, 4 * Point::ALL.len() * (60 + 1));
}

async fn the_next_relay_continues_a_page_that_was_begun<DB: Journal>(world: World<DB>) {
    // SQLite has one writer and needs no page: its cursor is an id.
    let has_snapshots = !DB::ONE_WRITER;
    world.keep_a_journal().await;
    world.forget_ids_after(WINDOW).await;
    let jetstream = world.full_stream().await;
    let full = jetstream.get_stream("FULL").await.unwrap();
    let mut begun = 0;
    for (round, point) in [Point::Checkpoint, Point::Checkpointed]
        .repeat(2)
        .iter()
        .enumerate()
    {
        let early = async || {
            let mut tx = world.outbox.pool().begin().await.unwrap();
            let key = format!("early-{round}");
            let envelope = Envelope::raw("count.raised", 1, Some(&key), r#"{"count":1}"#).unwrap();
            let id = world.outbox.enqueue(&mut tx, envelope).await.unwrap();
            DB::note(&mut tx, id).await.unwrap();
            tx
        };
        // This transaction has its id before the page begins, and commits when the page is half done.
        let waits = if has_snapshots {
            Some(early().await)
        } else {
            None
        };
        // Many pages of six in one transaction, with an event in the middle that its stream has no room for.
        let mut tx = world.outbox.begin().await.unwrap();
        for n in 0..60 {
            world
                .count(&mut tx, &format!("key-{}", n % 7))
                .await
                .unwrap();
            if n == 30 {
                tx.publish(Envelope::raw("full.up", 1, None, "{}").unwrap())
                    .unwrap();
            }
        }
        tx.commit().await.unwrap();

        dies(&world, 3, *point, 4).await;
        if has_snapshots {
            // How many rows a checkpoint covers depends on the time: now and then the fourth one ends a page.
            let open = "select count(*) from tidings.relay where page_id is not null";
            begun += DB::number(world.outbox.pool(), open).await;
        }
        if let Some(early) = waits {
            early.commit().await.unwrap();
        }
        world.commit_each((0..5).map(|n| format!("key-{n}"))).await;
        full.purge().await.unwrap();
    }
    assert_eq!(begun > 0, has_snapshots, "no relay died within a page");
    let relay = world.relay();
    // A relay may have died before it had restored what waited for room, and there is room for one event at a time.
    eventually("the backlog is gone", || async {
        full.purge().await.unwrap();
        let status = world.outbox.status().await;
        status.is_ok_and(|status| status.backlog == 0)
    })
    .await;
    relay.stop().await.unwrap();
    let verdict = world.verdict().await;
    assert_eq!(verdict, verdict.flawless());
    assert_eq!(verdict.events, 4 * if has_snapshots { 67 } else { 66 });
    let full = full.get_info().await.unwrap();
    assert_eq!(full.state.last_sequence, 1 + 4);
}

async fn an_event_parked_before_a_crash_is_published_once<DB: Journal>(world: World<DB>) {
    world.keep_a_journal().await;
    world.forget_ids_after(WINDOW).await;
    let large = format!("\"{}\"", "x".repeat(2048));
    let publish = async || {
        let mut tx = world.outbox.begin().await.unwrap();
        for key in [Some("key"), Some("key"), None] {
            tx.publish(Envelope::raw("count.raised", 1, key, large.clone()).unwrap())
                .unwrap();
        }
        // An event that its stream has no room for: the cursor does not move past the page.
        tx.publish(Envelope::raw("full.up", 1, None, "{}").unwrap())
            .unwrap();
        tx.commit().await.unwrap();
    };
    let full = world.full_stream().await.get_stream("FULL").await.unwrap();
    world.nats.reload("max_payload: 1024").unwrap();
    world.nats.restart().await.unwrap();
    eventually("the limit is known", || async {
        world.bus.max_payload() == 1024
    })
    .await;
    publish().await;
    let relay = world.run_relay(world.new_relay().stall_timeout(AN_HOUR));
    eventually("they are parked", || async { world.parked().await == 3 }).await;
    relay.kill().await;
    world.end_the_lease().await;
    assert_eq!(world.outbox.status().await.unwrap().backlog, 4);
    full.purge().await.unwrap();

    world.nats.reload("max_payload: 1048576").unwrap();
    world.nats.restart().await.unwrap();
    eventually("the limit is known", || async {
        world.bus.max_payload() == 1_048_576
    })
    .await;
    let relay = world.relay();
    eventually("the cursor has passed them", || async {
        world
            .outbox
            .status()
            .await
            .is_ok_and(|status| status.backlog == 0)
    })
    .await;
    assert_eq!((world.parked().await, world.stored().await.0.len()), (3, 0));
    // real time: until the server would have forgotten the ids
    tokio::time::sleep(WINDOW + Duration::from_millis(50)).await;
    world.outbox.unpark(&ParkedSelection::All).await.unwrap();
    eventually("they are published", || async { world.parked().await == 0 }).await;
    relay.stop().await.unwrap();
    assert_eq!(world.stored().await.0.len(), 3);
}
