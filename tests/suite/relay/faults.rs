//! P2, P3, P4 under faults: relays that die, two relays, servers that restart.

use std::{sync::Arc, time::Duration};

use tidings::{Context, EventSubscriber, Failure, Retry, Worker};

use crate::{
    both,
    support::{Counted, Database, Noted, World, eventually},
};

both!(
    a_relay_that_dies_often_duplicates_nothing,
    one_of_two_relays_is_active_and_the_other_takes_over,
    after_a_clean_stop_the_standby_takes_over_at_once,
    a_restarted_nats_server_costs_no_event,
    a_worker_survives_the_restart_of_its_server,
);

async fn commit<DB: Database>(world: &World<DB>, key: &str) {
    let mut tx = world.outbox.begin().await.unwrap();
    let count = DB::count_up(&mut tx, key).await.unwrap();
    tx.publish(&Counted {
        key: key.to_owned(),
        count,
    })
    .unwrap();
    tx.commit().await.unwrap();
}

async fn a_relay_that_dies_often_duplicates_nothing<DB: Database>(world: World<DB>) {
    world.forget_ids_after(Duration::from_millis(100)).await;
    let mut committed = 0;
    for round in 0..8 {
        for n in 0..40 {
            commit(&world, &format!("key-{}", n % 4)).await;
            committed += 1;
        }
        // Small batches: the relay also dies between the batches of a page.
        let relay = world.run_relay(world.new_relay().batch(7));
        // The relay dies when the stream has this many events of the round, in most rounds before its checkpoint.
        let enough = committed - 40 + 1 + round * 3;
        eventually("some are stored", || async {
            world.stored().await.len() >= enough
        })
        .await;
        relay.kill().await;
        // real time: until the server has forgotten the ids
        tokio::time::sleep(Duration::from_millis(150)).await;
    }
    let relay = world.relay();
    world.backlog_is_gone().await;
    relay.stop().await.unwrap();
    let stored = world.stored().await;
    assert_eq!(
        (stored.len(), stored.duplicated(), stored.inverted()),
        (committed, 0, 0)
    );
}

async fn one_of_two_relays_is_active_and_the_other_takes_over<DB: Database>(world: World<DB>) {
    let first = world.relay();
    eventually("the first has the lease", || async {
        world.outbox.status().await.unwrap().lease.epoch == 1
    })
    .await;
    let second = world.relay();
    commit(&world, "a").await;
    world.backlog_is_gone().await;
    assert_eq!(world.outbox.status().await.unwrap().lease.epoch, 1);
    first.kill().await;
    commit(&world, "a").await;
    world.backlog_is_gone().await;
    assert_eq!(world.outbox.status().await.unwrap().lease.epoch, 2);
    second.stop().await.unwrap();
    let stored = world.stored().await;
    assert_eq!(
        (stored.len(), stored.duplicated(), stored.inverted()),
        (2, 0, 0)
    );
}

async fn after_a_clean_stop_the_standby_takes_over_at_once<DB: Database>(world: World<DB>) {
    // The lease lasts an hour: the second relay can take over only when the first one releases it.
    let first = world.run_relay(world.new_relay().lease(Duration::from_secs(3600)));
    commit(&world, "a").await;
    world.backlog_is_gone().await;
    first.stop().await.unwrap();
    let second = world.relay();
    commit(&world, "a").await;
    world.backlog_is_gone().await;
    second.stop().await.unwrap();
    assert_eq!(world.outbox.status().await.unwrap().lease.epoch, 2);
    assert_eq!(world.stored().await.duplicated(), 0);
}

async fn a_restarted_nats_server_costs_no_event<DB: Database>(world: World<DB>) {
    let world = Arc::new(world);
    let relay = world.relay();
    let writer = tokio::spawn({
        let world = Arc::clone(&world);
        async move {
            for n in 0..400 {
                commit(&world, &format!("key-{}", n % 4)).await;
            }
        }
    });
    for _ in 0..3 {
        let before = world.stored().await.len();
        eventually("more is stored", || async {
            world.stored().await.len() > before || writer.is_finished()
        })
        .await;
        world.nats.kill().unwrap();
        world.nats.restart().await.unwrap();
    }
    writer.await.unwrap();
    world.backlog_is_gone().await;
    relay.stop().await.unwrap();
    let stored = world.stored().await;
    assert_eq!(
        (stored.len(), stored.duplicated(), stored.inverted()),
        (400, 0, 0)
    );
}

async fn a_worker_survives_the_restart_of_its_server<DB: Database>(world: World<DB>) {
    async fn note(event: Counted, cx: Context<Noted>) -> Result<(), Failure> {
        cx.state().note(format!("{} {}", event.key, event.count));
        Ok(())
    }
    let noted = Noted::default();
    let subscriber = EventSubscriber::durable("counter")
        .on(note)
        .retry(Retry::exponential(
            Duration::from_millis(10),
            Duration::from_millis(10),
        ))
        .ordered_by_key();
    let worker = Worker::new(world.bus.clone(), noted.clone())
        .subscribe(subscriber)
        .with(world.new_relay());
    let running = world.run(worker);
    for round in 1..=3 {
        for _ in 0..50 {
            commit(&world, "a").await;
        }
        noted.reach(50 * round).await;
        world.nats.kill().unwrap();
        world.nats.restart().await.unwrap();
    }
    commit(&world, "a").await;
    eventually("the last one is handled", || async {
        noted.all().iter().any(|note| note == "a 151")
    })
    .await;
    running.stop().await.unwrap();
    assert_eq!(world.stored().await.len(), 151);
}
