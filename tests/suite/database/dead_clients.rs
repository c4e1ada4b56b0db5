//! P2, P5, P6, P9: locks that a dead client holds in Postgres block other clients only for a short time, even when the
//! server never learns that the connection has ended.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use sqlx::{Postgres, pool::PoolOptions};
use tidings::{
    Bus, Context, EventPublisher, EventSubscriber, Failure, InboxTransaction, Outbox, Relay, Worker,
};
use tokio::sync::Notify;

use crate::support::{Counted, Database, Proxy, World, eventually, within};

/// The delay that a busy machine may add.
const SPARE: Duration = Duration::from_secs(10);
const TIMEOUT: Duration = Duration::from_secs(5);
/// How long a handler's transaction may wait for its client: the timeout of the handler, and five seconds.
const IDLE: Duration = Duration::from_secs(10);
/// When a nats-server redelivers the in-flight events of one worker to another.
const ACK_WAIT: Duration = Duration::from_secs(30);
/// How long a transaction of the outbox itself may wait for its client.
const OWN: Duration = Duration::from_secs(15);

/// The behaviour of the first attempt of all, after its write.
#[derive(Clone)]
struct First {
    is_over: Arc<AtomicBool>,
    has_written: Arc<Notify>,
    goes_on: Arc<Notify>,
    then: &'static str,
}

impl First {
    fn then(then: &'static str) -> Self {
        Self {
            is_over: Arc::default(),
            has_written: Arc::default(),
            goes_on: Arc::default(),
            then,
        }
    }
}

async fn handle(
    counted: Counted,
    mut tx: InboxTransaction<Postgres>,
    cx: Context<First>,
) -> Result<(), Failure> {
    let effect = format!("{} {}", counted.key, counted.count);
    Postgres::count_up(&mut tx, &effect).await?;
    let first = cx.state();
    if !first.is_over.swap(true, Ordering::Relaxed) {
        first.has_written.notify_one();
        first.goes_on.notified().await;
        sqlx::raw_sql(first.then).execute(&mut *tx).await?;
    }
    Ok(())
}

/// An outbox behind a proxy.
async fn behind_proxy(world: &World<Postgres>) -> (Outbox<Postgres>, Proxy) {
    let to = (*world.outbox.pool().connect_options()).clone();
    let proxy = Proxy::to(to.get_port()).await;
    let to = to.host("127.0.0.1").port(proxy.port);
    let pool = PoolOptions::new().max_connections(4).connect_lazy_with(to);
    (Outbox::new(pool), proxy)
}

fn worker(bus: &Bus, outbox: &Outbox<Postgres>, first: &First, is_ordered: bool) -> Worker<First> {
    let subscriber = EventSubscriber::durable("effects").timeout(TIMEOUT);
    let subscriber = match is_ordered {
        true => subscriber.ordered_by_key(),
        false => subscriber,
    };
    Worker::new(bus.clone(), first.clone()).subscribe(subscriber.on_transactional(outbox, handle))
}

async fn publish(world: &World<Postgres>) {
    let publisher = EventPublisher::new(&world.bus);
    for count in 1..=3 {
        let key = "ada".to_owned();
        publisher.publish(&Counted { key, count }).await.unwrap();
    }
}

/// Checks that each event has one effect within this time.
async fn all_have_their_effect(world: &World<Postgres>, since: Instant, bound: Duration) {
    eventually("all have their effect", || async {
        let effects = "select count(*) from counter where count = 1";
        Postgres::number(world.outbox.pool(), effects).await == 3
    })
    .await;
    let took = since.elapsed();
    eprintln!("effects went on after {took:?}, of {bound:?}");
    assert!(took < bound + SPARE, "{took:?}");
    assert_eq!(world.dead_letters().await.len(), 0);
}

/// The network has lost the connections of a worker that is alive: only new connections are answered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn later_events_of_a_key_continue_after_a_dead_link() {
    let world = World::<Postgres>::start().await;
    let (outbox, proxy) = behind_proxy(&world).await;
    let first = First::then("select 1");
    let running = world.run(worker(&world.bus, &outbox, &first, true));
    publish(&world).await;
    within("the first has written", first.has_written.notified()).await;
    proxy.silence();
    let silent = Instant::now();
    first.goes_on.notify_one();
    // The timeout of the handler, and the time until the worker notices that the connection is dead.
    all_have_their_effect(&world, silent, TIMEOUT).await;
    running.stop().await.unwrap();
}

/// A host that is gone closes no connection: neither the database nor NATS is notified.
async fn another_worker_continues(is_ordered: bool, bound: Duration) {
    let world = World::<Postgres>::start().await;
    let (outbox, database) = behind_proxy(&world).await;
    let nats = Proxy::to(world.nats.port()).await;
    let url = format!("nats://127.0.0.1:{}", nats.port);
    let bus = Bus::connect(&*url).await.unwrap();
    let first = First::then("select 1");
    let gone = world.run(worker(&bus, &outbox, &first, is_ordered));
    publish(&world).await;
    within("the first has written", first.has_written.notified()).await;
    database.silence();
    nats.silence();
    let silent = Instant::now();
    gone.kill().await;
    let other = world.run(worker(&world.bus, &world.outbox, &first, is_ordered));
    all_have_their_effect(&world, silent, bound).await;
    other.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_worker_takes_over_the_locks_of_a_dead_host() {
    another_worker_continues(false, ACK_WAIT.max(IDLE)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_instance_continues_in_order_after_a_dead_host() {
    another_worker_continues(true, ACK_WAIT.max(IDLE)).await;
}

/// The handler has given up its statement: the server must not continue it and hold the event's locks.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_statement_that_outlasts_its_handler_releases_its_event() {
    let world = World::<Postgres>::start().await;
    let first = First::then("select pg_sleep(50)");
    let running = world.run(worker(&world.bus, &world.outbox, &first, true));
    let began = Instant::now();
    publish(&world).await;
    first.goes_on.notify_one();
    all_have_their_effect(&world, began, TIMEOUT).await;
    running.stop().await.unwrap();
}

/// As after a kill: the connections are closed while the server executes a statement.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_statement_of_a_killed_worker_releases_its_event() {
    let world = World::<Postgres>::start().await;
    let (outbox, proxy) = behind_proxy(&world).await;
    let first = First::then("select pg_sleep(55)");
    let killed = world.run(worker(&world.bus, &outbox, &first, false));
    publish(&world).await;
    first.goes_on.notify_one();
    let asleep = "select count(*) from pg_stat_activity where query like 'select pg_sleep%' and state = 'active'";
    eventually("it sleeps", || async {
        Postgres::number(world.outbox.pool(), asleep).await == 1
    })
    .await;
    proxy.cut();
    killed.kill().await;
    let began = Instant::now();
    eventually("the server has noticed", || async {
        Postgres::number(world.outbox.pool(), asleep).await == 0
    })
    .await;
    assert!(began.elapsed() < SPARE + SPARE, "{:?}", began.elapsed());
}

/// Behind a pooler, each statement of a relay is a transaction, and one of them locks the relay's row when the host is
/// gone. False when the host was lost between two statements.
async fn is_gone_in_a_transaction(world: &World<Postgres>) -> bool {
    let to = (*world.outbox.pool().connect_options()).clone();
    let proxy = Proxy::to(to.get_port()).await;
    let to = to
        .host("127.0.0.1")
        .port(proxy.port)
        .statement_cache_capacity(0);
    let pool = PoolOptions::new().max_connections(4).connect_lazy_with(to);
    let outbox = Outbox::new(pool);
    assert!(outbox.is_pooled());
    let relay = Relay::new(outbox).lease(Duration::from_secs(1));
    // The owner is a value of the statement that locks the row.
    let owner: &'static str = relay.owner().to_owned().leak();
    let gone = world.run_relay(relay);
    eventually("it relays", || async {
        world.outbox.status().await.unwrap().lease.owner.as_deref() == Some(owner)
    })
    .await;
    let fell = proxy.lose_answers_after(owner);
    within("it renews its lease", fell).await;
    proxy.silence();
    gone.kill().await;
    let held = "select count(*) from pg_stat_activity
        where datname = current_database() and state = 'idle in transaction' and query like '%update tidings.relay%'";
    let asked = Instant::now();
    while asked.elapsed() < Duration::from_secs(5) {
        if Postgres::number(world.outbox.pool(), held).await == 1 {
            return true;
        }
        // real time: the server executes the statement
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    false
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_takes_over_from_one_that_died_in_a_transaction() {
    let world = World::<Postgres>::start().await;
    let mut tries = 1..=5;
    while !is_gone_in_a_transaction(&world).await {
        assert!(tries.next().is_some(), "no host was gone in a transaction");
    }
    let began = Instant::now();
    let other = world.relay();
    let mut tx = world.outbox.begin().await.unwrap();
    let key = "ada".to_owned();
    tx.publish(&Counted { key, count: 1 }).unwrap();
    tx.commit().await.unwrap();
    eventually("another relay works", || async {
        world.stored().await.len() == 1
    })
    .await;
    let took = began.elapsed();
    eprintln!("another relay went on after {took:?}, of {OWN:?}");
    assert!(took < OWN + SPARE, "{took:?}");
    other.stop().await.unwrap();
}
