//! Several repairs at once.

use sqlx::Postgres;

use super::republishing::{EVENTS, delete, publish, repair};
use crate::support::World;

/// One repair works at a time, and a dead one blocks the others only for a short time.
#[tokio::test(flavor = "multi_thread")]
async fn two_concurrent_repairs_republish_each_event_once() {
    let world = World::<Postgres>::start().await;
    publish(&world, 0).await;
    delete(&world, 2..60).await;
    let (one, other) = tokio::join!(repair(&world), repair(&world));
    assert_eq!(one.events() + other.events(), 58);
    let stored = world.stored().await;
    assert_eq!((stored.len(), stored.duplicated()), (EVENTS as usize, 0));
}
