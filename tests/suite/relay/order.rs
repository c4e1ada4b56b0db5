//! P3 and P4: events of one key enter the stream in order, and once.

use std::{sync::Arc, time::Duration};

use tidings::outbox::OutboxTransaction;

use crate::{
    both,
    support::{Counted, Database, World, eventually, within},
};

both!(
    writers_on_shared_keys_lose_duplicate_and_reorder_nothing,
    a_long_transaction_that_publishes_late_is_not_lost,
);

const WRITERS: usize = 32;
const TRANSACTIONS: usize = 25;

/// Begins a transaction. SQLite does not queue its writers: one may not get the lock within the time that it waits.
async fn begin<DB: Database>(world: &World<DB>) -> OutboxTransaction<DB> {
    let beginning = async {
        loop {
            match world.outbox.begin().await {
                Err(error) if format!("{error:?}").contains("database is locked") => {}
                begun => return begun.unwrap(),
            }
        }
    };
    within("a writer gets the lock", beginning).await
}

/// Runs one transaction: counts a key up, publishes the event, and commits; every fifth is rolled back.
async fn write<DB: Database>(world: &World<DB>, writer: usize, n: usize) -> bool {
    let key = format!("key-{}", (writer * 7 + n * 3) % 5);
    let mut tx = begin(world).await;
    let count = DB::count_up(&mut tx, &key).await.unwrap();
    tx.publish(&Counted { key, count }).unwrap();
    if (writer + n).is_multiple_of(5) {
        tx.rollback().await.unwrap();
        return false;
    }
    tx.commit().await.unwrap();
    true
}

async fn writers_on_shared_keys_lose_duplicate_and_reorder_nothing<DB: Database>(world: World<DB>) {
    let world = Arc::new(world);
    let relay = world.relay();
    let writers = (0..WRITERS).map(|writer| {
        let world = Arc::clone(&world);
        tokio::spawn(async move {
            let mut committed = 0;
            for n in 0..TRANSACTIONS {
                committed += usize::from(write(&world, writer, n).await);
            }
            committed
        })
    });
    let committed: usize = futures::future::join_all(writers)
        .await
        .into_iter()
        .map(Result::unwrap)
        .sum();
    eventually("the backlog is gone", || async {
        world.outbox.status().await.unwrap().backlog == 0
    })
    .await;
    relay.stop().await.unwrap();
    let stored = world.stored().await;
    assert_eq!(stored.len(), committed);
    assert_eq!((stored.duplicated(), stored.inverted()), (0, 0));
    assert!(committed < WRITERS * TRANSACTIONS);
}

async fn a_long_transaction_that_publishes_late_is_not_lost<DB: Database>(world: World<DB>) {
    // SQLite has one writer: there, the early transaction simply comes first.
    if DB::table("outbox") == "tidings_outbox" {
        return;
    }
    let relay = world.relay();
    let mut early = world.outbox.begin().await.unwrap();
    DB::count_up(&mut early, "early").await.unwrap();
    early
        .publish(&Counted {
            key: "early".into(),
            count: 1,
        })
        .unwrap();
    for count in 1..=10 {
        let mut tx = world.outbox.begin().await.unwrap();
        tx.publish(&Counted {
            key: "late".into(),
            count,
        })
        .unwrap();
        tx.commit().await.unwrap();
        eventually("the open transaction holds nobody up", || async {
            world.stored().await.len() == usize::try_from(count).unwrap()
        })
        .await;
    }
    early.commit().await.unwrap();
    eventually("the early one is stored", || async {
        world.stored().await.len() == 11
    })
    .await;
    relay.stop().await.unwrap();
    assert_eq!(world.stored().await.duplicated(), 0);
    let _ = Duration::ZERO;
}
