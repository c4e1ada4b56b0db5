//! Handlers pass their connections on to each other, and keep none from other users of the pool.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use sqlx::{Connection as _, Pool, pool::PoolOptions};
use tidings::{
    Context, EventPublisher, EventSubscriber, Failure, InboxTransaction, Outbox, Worker,
};
use tokio::sync::{Notify, mpsc};

use crate::{
    both,
    support::{Database, Running, User, World, eventually, within},
};

/// A pool of the same database with this many connections, and the number of times that it handed out an existing one.
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

/// Starts a subscriber whose handlers use this pool; returns the number of events that they have handled.
fn run<DB: Database>(
    world: &World<DB>,
    pool: &Pool<DB>,
) -> (Running<tidings::worker::WorkerError>, Arc<AtomicUsize>) {
    let outbox = Outbox::new(pool.clone());
    let handled = Arc::new(AtomicUsize::new(0));
    let subscriber = EventSubscriber::durable("counter").on_transactional(&outbox, handle::<DB>);
    let worker = Worker::new(world.bus.clone(), Arc::clone(&handled)).subscribe(subscriber);
    (world.run(worker), handled)
}

async fn are_handled(handled: &AtomicUsize, events: usize) {
    eventually("they are handled", || async {
        handled.load(Ordering::Relaxed) >= events
    })
    .await;
}

async fn a_connection_passes_from_handler_to_handler<DB: Database>(world: World<DB>) {
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
    // No connection is kept without work, and each goes back to the pool.
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

/// The least time that a handler takes, and the number of handlers that fit into the 50 ms for which a connection is
/// passed from handler to handler.
const EACH: Duration = Duration::from_millis(10);
const MOST: usize = 5;

async fn another_user_of_the_pool_gets_a_connection_in_time<DB: Database>(world: World<DB>) {
    let (pool, given) = pool(&world, 1);
    // How often the pool had handed out its connection when a handler got it.
    let (has, mut had) = mpsc::unbounded_channel();
    let handle = move |user: User, mut tx: InboxTransaction<DB>, _: Context<()>| {
        has.send(given.load(Ordering::Relaxed)).unwrap();
        async move {
            // real time: the bound is one of time
            tokio::time::sleep(EACH).await;
            DB::count_up(&mut tx, &user.id).await?;
            Ok(())
        }
    };
    let subscriber = EventSubscriber::durable("slow")
        .on_transactional(&Outbox::new(pool.clone()), handle)
        .concurrency(1);
    let running = world.run(Worker::new(world.bus.clone(), ()).subscribe(subscriber));
    let publisher = EventPublisher::new(&world.bus);
    let publishing = async {
        // There is always a further event.
        loop {
            publisher.publish(&User::new("somebody")).await.unwrap();
        }
    };
    let goes_on = Notify::new();
    let counting = async {
        let mut together = BTreeMap::<_, usize>::new();
        loop {
            let given = within("one is handled", had.recv()).await.unwrap();
            let handlers = together.entry(given).or_default();
            *handlers += 1;
            assert!(*handlers <= MOST, "one after the other: {together:?}");
            goes_on.notify_one();
        }
    };
    let waiting = async {
        for _ in 0..10 {
            goes_on.notified().await;
            drop(within("one is free", pool.acquire()).await.unwrap());
        }
    };
    tokio::select! {
        () = publishing => {}
        () = counting => {}
        () = waiting => {}
    }
    running.stop().await.unwrap();
}

async fn work_after_a_failure_on_a_connection_is_complete<DB: Database>(world: World<DB>) {
    let publisher = EventPublisher::new(&world.bus);
    for id in ["first", "failing", "second", "third"] {
        publisher.publish(&User::new(id)).await.unwrap();
    }
    let (pool, _) = pool(&world, 1);
    let (running, handled) = run(&world, &pool);
    are_handled(&handled, 4).await;
    // A handler is counted before its transaction is committed.
    eventually("all are committed", || async {
        DB::number(world.outbox.pool(), "select count(*) from counter").await == 4
    })
    .await;
    for id in ["first", "failing", "second", "third"] {
        assert_eq!(world.counted(id).await, 1, "{id}");
    }
    running.stop().await.unwrap();
}

both!(
    a_connection_passes_from_handler_to_handler,
    another_user_of_the_pool_gets_a_connection_in_time,
    work_after_a_failure_on_a_connection_is_complete
);
