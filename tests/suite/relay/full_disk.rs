//! P9, P2: the disk of a nats-server is really full. That is reported as one issue with one start time; after its cure
//! was applied, no event is missing or duplicated.

use std::time::Duration;

use tidings::{Envelope, outbox::Status, verify::Verify};
use tidings_test_servers::NatsServer;

use crate::{
    both,
    support::{Database, SmallDisk, World, eventually},
};

both!(a_full_disk_is_reported_until_the_server_writes_again);

const EVENTS: usize = 12_000;

async fn status<DB: Database>(world: &World<DB>) -> Status {
    world.outbox.status().await.unwrap()
}

async fn a_full_disk_is_reported_until_the_server_writes_again<DB: Database>(_: World<DB>) {
    let Some(disk) = SmallDisk::mount(8) else {
        return;
    };
    let nats = NatsServer::options()
        .store(disk.path().join("store"))
        .max_file(10 << 30);
    let world = World::<DB>::with(DB::open().await, nats.start().await.unwrap()).await;
    let payload = format!("\"{}\"", "x".repeat(1000));
    for first in (0..EVENTS).step_by(1000) {
        let mut tx = world.outbox.begin().await.unwrap();
        for n in first..first + 1000 {
            let key = format!("k{n}");
            let event = Envelope::raw("count.raised", 1, Some(&key), payload.clone());
            tx.publish(event.unwrap()).unwrap();
        }
        tx.commit().await.unwrap();
    }
    let relay = world.run_relay(world.new_relay().lease(Duration::from_secs(5)));
    eventually("it is held up", || async {
        !status(&world).await.issues.is_empty()
    })
    .await;
    let began = status(&world).await;
    let told = &began.issues[0];
    assert_eq!(told.place, "stream EVENTS", "{began:?}");
    assert!(
        told.cause.contains("disk") && told.cause.contains("full"),
        "{told:?}"
    );
    assert!(told.cure.contains("restart that nats-server"), "{told:?}");
    // Each lease holder tries again for ten seconds.
    eventually("it has begun again and again", || async {
        let now = status(&world).await;
        assert_eq!(now.issues.len(), 1, "{now:?}");
        assert_eq!(now.issues[0].since, told.since);
        assert!(!now.stuck().is_empty());
        now.lease.epoch > began.lease.epoch + 2
    })
    .await;
    disk.grow(200);
    world.nats.restart().await.unwrap();
    eventually("events flow, and nothing is wrong", || async {
        let now = status(&world).await;
        now.backlog == 0 && now.issues.is_empty()
    })
    .await;
    let found = Verify::new(&world.bus, &world.outbox).run().await.unwrap();
    assert!(found.is_ok(), "{found:?}");
    assert_eq!(world.stored().await.len(), EVENTS);
    relay.stop().await.unwrap();
}
