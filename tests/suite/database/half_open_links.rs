//! P5, P9: after a link to the database has silently lost data, the effects of handlers continue within a few seconds
//! of its recovery.

use std::time::{Duration, Instant};

use sqlx::{PgConnection, Postgres, pool::PoolOptions};
use tidings::{
    BatchResult, Batching, Context, EventPublisher, EventSubscriber, Failure, InboxTransaction,
    Outbox, Worker,
    handler::{BatchContext, Item},
};
use tidings_test_servers::PostgresServer;

use crate::support::{Database, Proxy, User, Way, World, eventually, within};

/// The promised time, and the delay that a busy machine may add.
const SOON: Duration = Duration::from_secs(15);
const PLACES: u32 = 8;
const LATENCY: Duration = Duration::from_millis(150);

async fn effect(connection: &mut PgConnection, user: &User) -> Result<(), Failure> {
    Postgres::count_up(connection, &user.id).await?;
    Ok(())
}

async fn handle(
    user: User,
    mut tx: InboxTransaction<Postgres>,
    _: Context<()>,
) -> Result<(), Failure> {
    effect(&mut tx, &user).await
}

async fn handle_all(
    users: Vec<Item<User>>,
    mut tx: InboxTransaction<Postgres>,
    _: BatchContext<()>,
) -> Result<BatchResult, Failure> {
    for user in &users {
        effect(&mut tx, user).await?;
    }
    Ok(BatchResult::done())
}

async fn effects(world: &World<Postgres>) -> i64 {
    let sum = "select coalesce(sum(count), 0)::bigint from counter";
    Postgres::number(world.outbox.pool(), sum).await
}

/// The kind of handler.
#[derive(Clone, Copy)]
enum By {
    One,
    Batch,
}

/// Checks that effects continue soon after the link has recovered, and that each event has one effect.
async fn effects_go_on(by: By, break_for: impl AsyncFn(&World<Postgres>, &Proxy)) {
    let world = World::<Postgres>::start().await;
    let to = (*world.outbox.pool().connect_options()).clone();
    let proxy = Proxy::to(to.get_port()).await;
    let to = to.host("127.0.0.1").port(proxy.port);
    let pool = PoolOptions::new()
        .max_connections(PLACES)
        .connect_lazy_with(to);
    let outbox = Outbox::new(pool);
    let subscriber = EventSubscriber::durable("effects");
    let subscriber = match by {
        By::One => subscriber.on_transactional(&outbox, handle),
        By::Batch => subscriber.on_batch_transactional(&outbox, Batching::of(4), handle_all),
    };
    let running = world.run(Worker::new(world.bus.clone(), ()).subscribe(subscriber));
    let publisher = EventPublisher::new(&world.bus);
    let mut published = 0;
    let mut publish = async |events: i64| {
        for _ in 0..events {
            let user = User::new(&format!("user-{published}"));
            publisher.publish(&user).await.unwrap();
            published += 1;
        }
    };
    publish(40).await;
    eventually("effects", || async { effects(&world).await >= 8 }).await;
    proxy.slow(LATENCY);
    publish(160).await;
    let before = effects(&world).await;
    eventually("slow effects", || async { effects(&world).await > before }).await;

    break_for(&world, &proxy).await;
    let (well, before) = (Instant::now(), effects(&world).await);
    publish(40).await;
    eventually("effects go on", || async {
        effects(&world).await > before + i64::from(PLACES)
    })
    .await;
    assert!(well.elapsed() < SOON, "{:?}", well.elapsed());
    proxy.slow(Duration::ZERO);
    eventually("all are there", || async {
        Postgres::number(world.outbox.pool(), "select count(*) from counter").await == 240
    })
    .await;
    assert_eq!(effects(&world).await, 240);
    running.stop().await.unwrap();
}

async fn lose_for_a_while(proxy: &Proxy, ways: &[Way]) {
    proxy.lose(ways);
    // real time: how long the link is silent
    tokio::time::sleep(Duration::from_secs(8)).await;
    proxy.lose(&[]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn effects_continue_after_answers_of_the_server_were_lost() {
    effects_go_on(By::One, async |_, proxy| {
        lose_for_a_while(proxy, &[Way::Back]).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn effects_continue_after_requests_of_the_client_were_lost() {
    effects_go_on(By::One, async |_, proxy| {
        lose_for_a_while(proxy, &[Way::There]).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn effects_of_batches_continue_after_silence_in_both_ways() {
    effects_go_on(By::Batch, async |_, proxy| {
        lose_for_a_while(proxy, &[Way::There, Way::Back]).await;
    })
    .await;
}

/// As after a failover: only new connections are answered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn effects_continue_when_every_open_connection_stays_silent() {
    effects_go_on(By::One, async |_, proxy| proxy.silence()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn effects_continue_after_a_cut_link() {
    effects_go_on(By::One, async |_, proxy| {
        proxy.cut();
        // real time: how long the server is unreachable
        tokio::time::sleep(Duration::from_secs(8)).await;
        proxy.mend();
    })
    .await;
}

/// The circuit has opened meanwhile; while the database is unavailable, its open time does not grow.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn effects_continue_after_the_server_was_frozen_for_long() {
    let server = PostgresServer::options().fsync(false);
    let server = server.start().await.unwrap();
    let pool = PoolOptions::new()
        .max_connections(PLACES)
        .connect_lazy_with(server.url().parse().unwrap());
    let world = World::<Postgres>::of(Outbox::new(pool), std::sync::Arc::new(())).await;
    let subscriber = EventSubscriber::durable("effects").on_transactional(&world.outbox, handle);
    let running = world.run(Worker::new(world.bus.clone(), ()).subscribe(subscriber));
    let publisher = EventPublisher::new(&world.bus);
    for number in 0..100 {
        publisher
            .publish(&User::new(&format!("user-{number}")))
            .await
            .unwrap();
    }
    eventually("effects", || async { effects(&world).await >= 100 }).await;
    server.pause().unwrap();
    for number in 100..200 {
        publisher
            .publish(&User::new(&format!("user-{number}")))
            .await
            .unwrap();
    }
    // real time: how long the server is frozen
    tokio::time::sleep(Duration::from_secs(20)).await;
    server.resume().unwrap();
    let well = Instant::now();
    within("effects go on", async {
        eventually("effects go on", || async { effects(&world).await >= 120 }).await;
    })
    .await;
    assert!(well.elapsed() < SOON, "{:?}", well.elapsed());
    running.stop().await.unwrap();
}
