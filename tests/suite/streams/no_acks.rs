//! A stream that sends no confirmations, or stores messages under other subjects, is reported with its cure; each
//! event still keeps its position.

use std::time::{Duration, Instant};

use serde_json::json;
use tidings::{outbox::Issue, verify::Verify};

use crate::{
    both,
    support::{Database, Tool, User, World, eventually},
};

both!(
    a_stream_with_no_ack_is_named_and_gets_each_event_once,
    a_stream_set_to_no_ack_is_named_and_gets_each_event_once,
    a_stream_with_no_ack_blocks_no_other,
    a_stream_that_transforms_subjects_is_not_ok,
);

async fn no_ack<DB: Database>(world: &World<DB>, is_so: bool) {
    let tool = Tool::at(&world.nats).await;
    tool.change_stream("EVENTS", &json!({ "no_ack": is_so }))
        .await;
}

async fn users<DB: Database>(world: &World<DB>, users: impl IntoIterator<Item = u32>) {
    let mut tx = world.outbox.begin().await.unwrap();
    for user in users {
        tx.publish(&User::new(&user.to_string())).unwrap();
    }
    tx.commit().await.unwrap();
}

async fn issues<DB: Database>(world: &World<DB>) -> Vec<Issue> {
    world.outbox.status().await.unwrap().issues
}

async fn no_ack_is_reported<DB: Database>(world: &World<DB>) {
    eventually("it is told", || async {
        let issues = issues(world).await;
        let mut issues = issues.iter();
        issues.any(|issue| {
            issue.place == "stream EVENTS"
                && issue.cause.contains("no_ack of EVENTS is true")
                && issue.cure.contains("streams apply")
        })
    })
    .await;
}

/// Checks that all events are stored once, in the order in which they were written.
async fn are_stored<DB: Database>(world: &World<DB>, users: impl IntoIterator<Item = u32>) {
    eventually("all is relayed", || async {
        let status = world.outbox.status().await.unwrap();
        status.backlog == 0 && status.parked == 0 && status.issues.is_empty()
    })
    .await;
    let stored = world.stored().await;
    let keys: Vec<&str> = stored
        .0
        .iter()
        .map(|m| m.header("ce-partitionkey"))
        .collect();
    let expected: Vec<String> = users.into_iter().map(|user| user.to_string()).collect();
    assert_eq!(keys, expected);
}

async fn a_stream_with_no_ack_is_named_and_gets_each_event_once<DB: Database>(world: World<DB>) {
    no_ack(&world, true).await;
    users(&world, 1..=40).await;
    let began = Instant::now();
    let relay = world.relay();
    no_ack_is_reported(&world).await;
    let told = began.elapsed();
    assert!(told < Duration::from_secs(8), "it took {told:?}");
    assert_eq!(world.stored().await.len(), 0, "nobody would know");
    no_ack(&world, false).await;
    are_stored(&world, 1..=40).await;
    relay.stop().await.unwrap();
}

async fn a_stream_set_to_no_ack_is_named_and_gets_each_event_once<DB: Database>(world: World<DB>) {
    let relay = world.relay();
    users(&world, 1..=3).await;
    are_stored(&world, 1..=3).await;
    no_ack(&world, true).await;
    users(&world, 4..=40).await;
    let began = Instant::now();
    no_ack_is_reported(&world).await;
    let told = began.elapsed();
    assert!(told < Duration::from_secs(8), "it took {told:?}");
    users(&world, [41]).await;
    no_ack(&world, false).await;
    are_stored(&world, 1..=41).await;
    relay.stop().await.unwrap();
}

async fn a_stream_with_no_ack_blocks_no_other<DB: Database>(world: World<DB>) {
    world.two_streams().await;
    no_ack(&world, true).await;
    let relay = world.relay();
    users(&world, 1..=3).await;
    let count = tidings::Envelope::raw("count.raised", 1, Some("a"), "{}").unwrap();
    let mut tx = world.outbox.begin().await.unwrap();
    tx.publish(count).unwrap();
    tx.commit().await.unwrap();
    eventually("the other one goes", || async {
        let counts = crate::support::Stream::read(&world.nats.url(), "COUNTS").await;
        counts.len() == 1
    })
    .await;
    no_ack_is_reported(&world).await;
    no_ack(&world, false).await;
    are_stored(&world, 1..=3).await;
    relay.stop().await.unwrap();
}

async fn a_stream_that_transforms_subjects_is_not_ok<DB: Database>(world: World<DB>) {
    let tool = Tool::at(&world.nats).await;
    let transform = json!({ "src": "user.>", "dest": "elsewhere.>" });
    let change = json!({ "subject_transform": transform });
    tool.change_stream("EVENTS", &change).await;
    let relay = world.relay();
    users(&world, [1]).await;
    eventually("it is relayed", || async {
        world.outbox.status().await.unwrap().backlog == 0
    })
    .await;
    let verify = Verify::new(&world.bus, &world.outbox);
    let found = verify.run().await.unwrap();
    assert!(!found.is_ok(), "{found:?}");
    let issue = found.streams[0].issue.clone().unwrap();
    assert!(
        issue.contains("subject_transform of EVENTS") && issue.contains("--no-transform"),
        "{issue}"
    );
    let repair = verify.repair().await.unwrap();
    assert!(!repair.is_whole() && repair.events() == 0, "{repair:?}");
    let back = json!({ "subject_transform": null });
    tool.change_stream("EVENTS", &back).await;
    assert!(verify.run().await.unwrap().streams[0].issue.is_none());
    relay.stop().await.unwrap();
}
