//! P5: when a worker dies after a batch has committed and before it is acked, each effect happens once.

use std::{sync::Arc, time::Duration};

use serde_json::{Value, json};
use tidings::{
    BatchResult, Batching, Bus, EventPublisher, EventSubscriber, Failure, InboxTransaction, Worker,
    handler::{BatchContext, Item},
};
use tokio::sync::Semaphore;

use crate::{
    both,
    support::{Database, Noted, Proxy, User, World, eventually},
};

const EVENTS: usize = 20;

/// The state of the handlers.
#[derive(Clone, Default)]
struct App {
    /// The number of events in each call.
    calls: Noted,
    /// When set, a handler waits for a permit.
    gate: Option<Arc<Semaphore>>,
}

async fn count<DB: Database>(
    users: Vec<Item<User>>,
    mut tx: InboxTransaction<DB>,
    cx: BatchContext<App>,
) -> Result<BatchResult, Failure> {
    for user in &users {
        DB::count_up(&mut tx, &user.id).await?;
    }
    cx.state().calls.note(users.len().to_string());
    if let Some(gate) = &cx.state().gate {
        gate.acquire().await?.forget();
    }
    Ok(BatchResult::done())
}

fn worker<DB: Database>(world: &World<DB>, bus: &Bus, app: &App) -> Worker<App> {
    let batching = Batching::of(EVENTS).linger(Duration::from_secs(60));
    let subscriber = EventSubscriber::durable("counter").on_batch_transactional(
        &world.outbox,
        batching,
        count::<DB>,
    );
    Worker::new(bus.clone(), app.clone()).subscribe(subscriber)
}

async fn publish<DB: Database>(world: &World<DB>, from: usize) {
    let publisher = EventPublisher::new(&world.bus);
    for n in from..from + EVENTS {
        let user = User::new(&format!("user-{n}"));
        publisher.publish(&user).await.unwrap();
    }
}

/// Makes the server redeliver at once what was in flight in a dead process; otherwise that takes half a minute.
async fn hurry<DB: Database>(world: &World<DB>) {
    let client = async_nats::connect(world.nats.url()).await.unwrap();
    let ask = async |subject: &str, request: Value| {
        let answer = client.request(subject.to_owned(), request.to_string().into());
        serde_json::from_slice::<Value>(&answer.await.unwrap().payload).unwrap()
    };
    let info = "$JS.API.CONSUMER.INFO.EVENTS.counter";
    let mut config = ask(info, json!({})).await["config"].take();
    config["ack_wait"] = json!(100_000_000);
    let request = json!({ "stream_name": "EVENTS", "config": config, "action": "update" });
    let updated = ask(
        "$JS.API.CONSUMER.CREATE.EVENTS.counter.user.created",
        request,
    )
    .await;
    assert_eq!(updated.get("error"), None);
    // real time: work of the server
    tokio::time::sleep(Duration::from_millis(500)).await;
}

both!(a_committed_batch_without_acks_has_its_effects_once);

async fn a_committed_batch_without_acks_has_its_effects_once<DB: Database>(world: World<DB>) {
    let gate = Arc::new(Semaphore::new(0));
    let dying = App {
        gate: Some(Arc::clone(&gate)),
        ..App::default()
    };
    let proxy = Proxy::to(world.nats.port()).await;
    let through = format!("nats://127.0.0.1:{}", proxy.port);
    let through = Bus::connect(through).await.unwrap();
    let first = world.run(worker(&world, &through, &dying));
    publish(&world, 0).await;
    dying.calls.reach(1).await;
    // The commit succeeds, and no ack arrives.
    proxy.cut();
    gate.add_permits(1);
    let all = i64::try_from(EVENTS).unwrap();
    eventually("it has committed", || async {
        world.remembered().await == all
    })
    .await;
    first.kill().await;
    hurry(&world).await;

    let app = App::default();
    let second = world.run(worker(&world, &world.bus, &app));
    publish(&world, EVENTS).await;
    world.is_handled(2 * EVENTS as u64).await;
    eventually("the others have their effect", || async {
        world.remembered().await == 2 * all
    })
    .await;
    second.stop().await.unwrap();
    for n in 0..2 * EVENTS {
        assert_eq!(world.counted(&format!("user-{n}")).await, 1, "user-{n}");
    }
    let handed_over: usize = app
        .calls
        .all()
        .iter()
        .map(|n| n.parse::<usize>().unwrap())
        .sum();
    assert_eq!(handed_over, EVENTS, "only what was not handled before");
    assert_eq!(world.dead_letters().await.len(), 0);
}
