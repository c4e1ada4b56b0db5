//! The last status that a relay writes when it is stopped stays correct until another relay runs.

use tidings::{Envelope, StreamSpec, outbox::ParkedSelection};

use crate::{
    both,
    support::{Database, World, eventually},
};

both!(
    a_row_discarded_before_the_stop_is_no_issue_in_the_status,
    a_row_restored_before_the_stop_is_no_issue_in_the_status,
    a_row_that_still_waits_is_in_the_status,
);

/// Commits an event that no stream takes, and waits until the relay has written the issue.
async fn an_issue_is_written<DB: Database>(world: &World<DB>) {
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

async fn a_row_discarded_before_the_stop_is_no_issue_in_the_status<DB: Database>(world: World<DB>) {
    let relay = world.relay();
    an_issue_is_written(&world).await;
    let all = ParkedSelection::All;
    assert_eq!(world.outbox.discard(&all, 9).await.unwrap().len(), 1);
    relay.stop().await.unwrap();
    assert_eq!(places(&world).await, [""; 0]);
}

async fn a_row_restored_before_the_stop_is_no_issue_in_the_status<DB: Database>(world: World<DB>) {
    let relay = world.relay();
    an_issue_is_written(&world).await;
    let late = StreamSpec::new("LATE", ["nobody.>".parse().unwrap()]).unwrap();
    world.bus.apply_stream(&late).await.unwrap();
    eventually("it went back", || async { world.parked().await == 0 }).await;
    relay.stop().await.unwrap();
    assert_eq!(places(&world).await, [""; 0]);
}

async fn a_row_that_still_waits_is_in_the_status<DB: Database>(world: World<DB>) {
    let relay = world.relay();
    an_issue_is_written(&world).await;
    relay.stop().await.unwrap();
    assert_eq!(places(&world).await, ["subject nobody.listens"]);
}
