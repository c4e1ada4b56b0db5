//! Handlers that block all threads of the worker: the endpoints go on, and name them.

use std::time::{Duration, Instant};

use tidings::EventPublisher;

use super::{endpoints, handlers::Blocked};
use crate::support::{User, World};

#[tokio::test]
async fn a_runtime_that_is_blocked_is_named_and_then_not_alive() {
    let world = World::<sqlx::Sqlite>::start().await;
    let (ops, endpoints) = endpoints();
    let blocked = Blocked::run(world.nats.url(), ops);
    endpoints
        .says("/readyz", 200, "subscriber blocks: idle")
        .await;
    let began = Instant::now();
    EventPublisher::new(&world.bus)
        .publish(&User::new("ada"))
        .await
        .unwrap();
    blocked.noted.reach(1).await;

    let ready = endpoints.says("/readyz", 503, "blocks: user.created").await;
    let took = began.elapsed();
    assert!(took < Duration::from_secs(15), "{took:?}: {ready:?}");
    assert_eq!(endpoints.ask("/livez").await.status, 200, "not for 30 s");
    let dead = endpoints.says("/livez", 503, "blocks: user.created").await;
    let took = began.elapsed();
    assert!(took > Duration::from_secs(30), "{took:?}: {dead:?}");
    let verbose: serde_json::Value =
        serde_json::from_str(&endpoints.ask("/livez?verbose").await.text).unwrap();
    assert_eq!(verbose["alive"], false, "{verbose}");
    assert!(verbose["silent_s"].as_u64() > Some(29), "{verbose}");

    blocked.open();
    endpoints
        .says("/readyz", 200, "subscriber blocks: idle")
        .await;
    assert_eq!(endpoints.ask("/livez").await.status, 200);
    blocked.stop().await;
}
