//! Handlers that block all threads of the worker: the endpoints go on, and name them.

use std::{
    sync::{Arc, Condvar, Mutex},
    time::{Duration, Instant},
};

use tidings::{Bus, Context, EventPublisher, EventSubscriber, Failure, Worker};
use tokio_util::sync::CancellationToken;

use super::endpoints;
use crate::support::{Noted, User, World};

/// Blocks its thread until it is opened.
#[derive(Clone, Default)]
struct Blocks {
    noted: Noted,
    gate: Arc<(Mutex<bool>, Condvar)>,
}

async fn block(user: User, cx: Context<Blocks>) -> Result<(), Failure> {
    cx.state().noted.note(user.id);
    let (is_open, opened) = &*cx.state().gate;
    drop(opened.wait_while(is_open.lock().unwrap(), |is_open| !*is_open));
    Ok(())
}

#[tokio::test]
async fn a_runtime_that_is_blocked_is_named_and_then_not_alive() {
    let world = World::<sqlx::Sqlite>::start().await;
    let (ops, endpoints) = endpoints();
    let (blocks, stop) = (Blocks::default(), CancellationToken::new());
    let (state, stopped, url) = (blocks.clone(), stop.clone(), world.nats.url());
    // A runtime of its own, with one thread: that of the test goes on.
    let service = std::thread::spawn(move || {
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = runtime.worker_threads(1).enable_all().build().unwrap();
        let running = runtime.spawn(async move {
            let bus = Bus::connect(url.as_str()).await.unwrap();
            let worker = Worker::new(bus, state).with(ops);
            let worker = worker.subscribe(EventSubscriber::durable("blocks").on(block));
            worker.run(stopped.cancelled()).await
        });
        runtime.block_on(running).unwrap().unwrap();
    });
    endpoints
        .says("/readyz", 200, "subscriber blocks: idle")
        .await;
    let began = Instant::now();
    EventPublisher::new(&world.bus)
        .publish(&User::new("ada"))
        .await
        .unwrap();
    blocks.noted.reach(1).await;

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

    let (is_open, opened) = &*blocks.gate;
    *is_open.lock().unwrap() = true;
    opened.notify_all();
    endpoints
        .says("/readyz", 200, "subscriber blocks: idle")
        .await;
    assert_eq!(endpoints.ask("/livez").await.status, 200);
    stop.cancel();
    tokio::task::spawn_blocking(move || service.join().unwrap())
        .await
        .unwrap();
}
