//! Handlers pass their connections on, and keep none from those who wait for one.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use sqlx::{Connection as _, Pool, pool::PoolOptions};
use tidings::{
    Context, EventPublisher, EventSubscriber, Failure, InboxTransaction, Outbox, Worker,
};

use crate::{
    both,
    support::{Database, Running, User, World, eventually, within},
};

/// A pool of the same database with this many connections, and how often it has given one that was there.
fn pool<DB: Database>(world: &World<DB>, connections: u32) -> (Pool<DB>, Arc<AtomicUsize>) {
    let given = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&given);
    let options = PoolOptions::new()
        .max_connections(connections)
        .before_acquire(move |_, _| {
            counted.fetch_add(1, Ordering::Relaxed);
            Box::pin(std::future::ready(Ok(true)))
        });
    let to = (*world.outbox.pool().connect_options()).clone();
    (options.connect_lazy_with(to), given)
}

async fn handle<DB: Database>(
    user: User,
    mut tx: InboxTransaction<DB>,
    cx: Context<Arc<AtomicUsize>>,
) -> Result<(), Failure> {
    DB::count_up(&mut tx, &user.id).await?;
    if user.id == "failing" && cx.attempt() == 1 {
        return Err(Failure::retry("not yet"));
    }
    cx.state().fetch_add(1, Ordering::Relaxed);
    Ok(())
}

/// A subscriber whose handlers have this pool; and how many events they have handled.
fn run<DB: Database>(
    world: &World<DB>,
    pool: &Pool<DB>,
) -> (Running<tidings::WorkerError>, Arc<AtomicUsize>) {
    let outbox = Outbox::new(pool.clone());
    let handled = Arc::new(AtomicUsize::new(0));
    let subscriber = EventSubscriber::durable("counter").on_once(&outbox, handle::<DB>);
    let worker = Worker::new(world.bus.clone(), Arc::clone(&handled)).subscribe(subscriber);
    (world.run(worker), handled)
}

async fn are_handled(handled: &AtomicUsize, events: usize) {
    eventually("they are handled", || async {
        handled.load(Ordering::Relaxed) >= events
    })
    .await;
}

async fn a_connection_goes_from_handler_to_handler<DB: Database>(world: World<DB>) {
    const EVENTS: usize = 300;
    let publisher = EventPublisher::new(&world.bus);
    for number in 0..EVENTS {
        let user = User::new(&format!("user-{number}"));
        publisher.publish(&user).await.unwrap();
    }
    let (pool, given) = pool(&world, 2);
    let (running, handled) = run(&world, &pool);
    are_handled(&handled, EVENTS).await;
    let given = given.load(Ordering::Relaxed);
    assert!(given < EVENTS, "the pool has given {given} connections");
    // None is kept without work, and each comes back as the pool needs it.
    eventually("the pool has them all", || async {
        pool.num_idle() == usize::try_from(pool.size()).unwrap()
    })
    .await;
    let mut connection = within("one is free", pool.acquire()).await.unwrap();
    let mut tx = connection.begin().await.unwrap();
    DB::count_up(&mut tx, "somebody").await.unwrap();
    tx.commit().await.unwrap();
    drop(connection);
    assert_eq!(world.counted("somebody").await, 1);
    running.stop().await.unwrap();
}

async fn whoever_waits_at_the_pool_gets_a_connection_in_time<DB: Database>(world: World<DB>) {
    let (pool, _) = pool(&world, 1);
    let (running, handled) = run(&world, &pool);
    let is_over = Arc::new(AtomicBool::new(false));
    let publishing = tokio::spawn({
        let (bus, is_over) = (world.bus.clone(), Arc::clone(&is_over));
        async move {
            let publisher = EventPublisher::new(&bus);
            let mut published = 0;
            while !is_over.load(Ordering::Relaxed) {
                let users = (0..50).map(|number| User::new(&format!("user-{published}-{number}")));
                for user in users {
                    publisher.publish(&user).await.unwrap();
                }
                published += 50;
            }
            published
        }
    });
    are_handled(&handled, 1).await;
    // While there is always another event.
    for _ in 0..5 {
        drop(within("one is free", pool.acquire()).await.unwrap());
    }
    is_over.store(true, Ordering::Relaxed);
    are_handled(&handled, publishing.await.unwrap()).await;
    running.stop().await.unwrap();
}

async fn what_follows_a_failure_on_a_connection_is_whole<DB: Database>(world: World<DB>) {
    let publisher = EventPublisher::new(&world.bus);
    for id in ["first", "failing", "second", "third"] {
        publisher.publish(&User::new(id)).await.unwrap();
    }
    let (pool, _) = pool(&world, 1);
    let (running, handled) = run(&world, &pool);
    are_handled(&handled, 4).await;
    for id in ["first", "failing", "second", "third"] {
        assert_eq!(world.counted(id).await, 1, "{id}");
    }
    running.stop().await.unwrap();
}

both!(
    a_connection_goes_from_handler_to_handler,
    whoever_waits_at_the_pool_gets_a_connection_in_time,
    what_follows_a_failure_on_a_connection_is_whole
);
