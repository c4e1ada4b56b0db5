//! The last status that a relay writes when it is stopped stays correct until another relay runs.

use tidings::{Envelope, StreamSpec, outbox::ParkedSelection};

use crate::{
    both,
    support::{Database, World, eventually},
};

both!(
    what_was_given_up_before_the_stop_hinders_nothing_in_the_status,
    what_went_back_before_the_stop_hinders_nothing_in_the_status,
    what_waits_still_is_in_the_status,
);

/// Runs a relay that is held up by a name that no stream takes.
async fn held_up<DB: Database>(world: &World<DB>) {
    let mut tx = world.outbox.begin().await.unwrap();
    let envelope = Envelope::raw("nobody.listens", 1, Some("ada"), "{}").unwrap();
    tx.publish(envelope).unwrap();
    tx.commit().await.unwrap();
    eventually("the issue is in the status", || async {
        places(world).await == ["subject nobody.listens"]
    })
    .await;
}

async fn places<DB: Database>(world: &World<DB>) -> Vec<String> {
    let status = world.outbox.status().await.unwrap();
    let issues = status.issues.into_iter();
    issues.map(|issue| issue.place).collect()
}

async fn what_was_given_up_before_the_stop_hinders_nothing_in_the_status<DB: Database>(
    world: World<DB>,
) {
    let relay = world.relay();
    held_up(&world).await;
    let all = ParkedSelection::All;
    assert_eq!(world.outbox.discard(&all, 9).await.unwrap().len(), 1);
    relay.stop().await.unwrap();
    assert_eq!(places(&world).await, [""; 0]);
}

async fn what_went_back_before_the_stop_hinders_nothing_in_the_status<DB: Database>(
    world: World<DB>,
) {
    let relay = world.relay();
    held_up(&world).await;
    let late = StreamSpec::new("LATE", ["nobody.>".parse().unwrap()]).unwrap();
    world.bus.apply_stream(&late).await.unwrap();
    eventually("it went back", || async { world.parked().await == 0 }).await;
    relay.stop().await.unwrap();
    assert_eq!(places(&world).await, [""; 0]);
}

async fn what_waits_still_is_in_the_status<DB: Database>(world: World<DB>) {
    let relay = world.relay();
    held_up(&world).await;
    relay.stop().await.unwrap();
    assert_eq!(places(&world).await, ["subject nobody.listens"]);
}
