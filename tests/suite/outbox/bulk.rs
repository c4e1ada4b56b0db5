//! Many events at once: one statement for many of them, in order, all or none.

use tidings::outbox::OutboxError;

use crate::{
    both,
    support::{Database, User, World, eventually},
};

both!(
    events_enqueued_together_are_stored_in_their_order,
    when_one_of_many_is_refused_none_is_written,
);

fn users(count: usize) -> Vec<User> {
    (0..count).map(|n| User::new(&n.to_string())).collect()
}

async fn events_enqueued_together_are_stored_in_their_order<DB: Database>(world: World<DB>) {
    let users = users(2500);
    let mut tx = world.outbox.pool().begin_with(DB::BEGIN).await.unwrap();
    let enqueueing = world.outbox.enqueue_all(&mut tx, &users);
    let mut ids = enqueueing.await.unwrap();
    tx.commit().await.unwrap();
    let mut tx = world.outbox.begin().await.unwrap();
    ids.push(tx.publish(&users[0]).unwrap());
    ids.extend(tx.publish_all(&users).unwrap());
    tx.commit().await.unwrap();
    let relay = world.relay();
    eventually("all are stored", || async {
        world.stored().await.len() >= ids.len()
    })
    .await;
    relay.stop().await.unwrap();
    let ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
    assert_eq!(world.stored().await.ids(), ids);
}

async fn when_one_of_many_is_refused_none_is_written<DB: Database>(world: World<DB>) {
    let users = [User::new("ada"), User::new("")];
    let mut tx = world.outbox.pool().begin_with(DB::BEGIN).await.unwrap();
    let enqueued = world.outbox.enqueue_all(&mut tx, &users).await;
    assert!(matches!(enqueued, Err(OutboxError::Envelope(_))));
    tx.commit().await.unwrap();
    let mut tx = world.outbox.begin().await.unwrap();
    let published = tx.publish_all(&users);
    assert!(matches!(published, Err(OutboxError::Envelope(_))));
    tx.commit().await.unwrap();
    assert_eq!(world.outbox.status().await.unwrap().backlog, 0);
}
