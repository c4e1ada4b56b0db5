//! P1: whatever of the outbox is dropped on its way, by a timeout, a select or a client that has left, no connection of
//! the service's pool is left in a transaction: what the service writes on it next is there.

use std::{future::poll_fn, pin::pin, task::Poll, time::Duration};

use sqlx::{Connection as _, Pool, Postgres, Sqlite, pool::PoolOptions};
use tidings::{
    Context, EventPublisher, EventSubscriber, Failure, InboxTransaction, Outbox, OutboxError,
    ParkedSelection, Worker,
};

use crate::{
    both,
    support::{Database, Proxy, User, World, eventually, within},
};

/// How long what is said takes, either way: long enough that every await is one.
const LINK: Duration = Duration::from_millis(3);
/// More polls than anything here has.
const MOST_POLLS: usize = 200;

/// A database behind a link.
trait Distant: Database {
    /// A pool of one connection, which has to be used for everything.
    fn distant(world: &World<Self>) -> impl Future<Output = Pool<Self>> + Send;
    /// How many connections, besides this one, are in a transaction that somebody has to end.
    fn left_open(pool: &Pool<Self>) -> impl Future<Output = i64> + Send;
}

impl Distant for Postgres {
    async fn distant(world: &World<Self>) -> Pool<Self> {
        slow_pool(world, LINK, 1).await
    }

    async fn left_open(pool: &Pool<Self>) -> i64 {
        let open = "select count(*) from pg_stat_activity
            where datname = current_database() and state like 'idle in transaction%'";
        Self::number(pool, open).await
    }
}

impl Distant for Sqlite {
    async fn distant(world: &World<Self>) -> Pool<Self> {
        let to = (*world.outbox.pool().connect_options()).clone();
        PoolOptions::new().max_connections(1).connect_lazy_with(to)
    }

    async fn left_open(_: &Pool<Self>) -> i64 {
        0
    }
}

/// A pool at the other end of a slow link.
async fn slow_pool(world: &World<Postgres>, link: Duration, connections: u32) -> Pool<Postgres> {
    let to = (*world.outbox.pool().connect_options()).clone();
    let proxy = Proxy::to(to.get_port()).await;
    proxy.slow(link);
    let to = to.host("127.0.0.1").port(proxy.port);
    PoolOptions::new()
        .max_connections(connections)
        .connect_lazy_with(to)
}

/// Polls a future so often, and drops it then; gives what came of it, if that was before.
async fn polled<T>(times: usize, work: impl Future<Output = T>) -> Option<T> {
    let mut work = pin!(work);
    let mut left = times;
    poll_fn(|cx| {
        if left == 0 {
            return Poll::Ready(None);
        }
        left -= 1;
        match work.as_mut().poll(cx) {
            Poll::Ready(done) => Poll::Ready(Some(done)),
            // Polled again by its own waker, unless that was the last time.
            Poll::Pending if left == 0 => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

/// Drops a future after each number of polls, until it is done; what is written between is there every time.
async fn nothing_is_left_open<DB: Distant, T>(
    world: &World<DB>,
    what: &str,
    work: impl AsyncFn(&Outbox<DB>) -> T,
) {
    let pool = DB::distant(world).await;
    let outbox = Outbox::new(pool.clone());
    let mut is_done = false;
    for polls in 0..MOST_POLLS {
        is_done = polled(polls, work(&outbox)).await.is_some();
        let id = format!("{what} {polls}");
        let mark = format!("insert into mark values ('{id}')");
        within("a connection", DB::execute(&pool, &mark)).await;
        let count = format!("select count(*) from mark where id = '{id}'");
        let found = DB::number(world.outbox.pool(), &count).await;
        assert_eq!(found, 1, "{what}, dropped after {polls} polls");
        if is_done {
            break;
        }
    }
    assert!(is_done, "{what} was never done");
    assert_eq!(DB::left_open(world.outbox.pool()).await, 0, "{what}");
}

async fn whatever_is_dropped_leaves_no_transaction_behind<DB: Distant>(world: World<DB>) {
    DB::execute(
        world.outbox.pool(),
        "create table mark (id text primary key)",
    )
    .await;
    macro_rules! left {
        ($what:literal, $outbox:ident => $work:expr) => {
            nothing_is_left_open(&world, $what, async |$outbox: &Outbox<DB>| $work).await
        };
    }
    left!("begin", outbox => drop(outbox.begin().await.unwrap()));
    left!("commit", outbox => outbox.begin().await.unwrap().commit().await.unwrap());
    left!("commit with an event", outbox => {
        let mut tx = outbox.begin().await.unwrap();
        tx.publish(&User::new("one")).unwrap();
        tx.commit().await.unwrap();
    });
    left!("rollback", outbox => outbox.begin().await.unwrap().rollback().await.unwrap());
    left!("cancel", outbox => {
        let mut tx = outbox.begin().await.unwrap();
        tx.cancel(tidings::EventId::now()).await.unwrap();
        tx.commit().await.unwrap();
    });
    left!("migrate", outbox => outbox.migrate().await.unwrap());
    left!("status", outbox => outbox.status().await.unwrap());
    left!("parked", outbox => outbox.parked(&ParkedSelection::All, 0, 9).await.unwrap());
    left!("unpark", outbox => outbox.unpark(&ParkedSelection::All).await.unwrap());
    left!("discard", outbox => outbox.discard(&ParkedSelection::All, 9).await.unwrap());
    left!("delayed", outbox => outbox.delayed(None, 9).await.unwrap());
    left!("accept", outbox => outbox.accept_loss("EVENTS").await.unwrap());
}

/// In a transaction, an event and a row are both there or neither, whatever of a savepoint is dropped.
async fn a_savepoint_that_is_dropped_parts_no_event_from_its_row<DB: Distant>(world: World<DB>) {
    DB::execute(
        world.outbox.pool(),
        "create table mark (id text primary key)",
    )
    .await;
    let pool = DB::distant(&world).await;
    let outbox = Outbox::new(pool);
    for end in ["begin", "commit", "rollback"] {
        let mut is_done = false;
        for polls in 0..MOST_POLLS {
            let mut tx = outbox.begin().await.unwrap();
            DB::count_up(&mut tx, &format!("{end} {polls}"))
                .await
                .unwrap();
            tx.publish(&User::new("one")).unwrap();
            let savepoint = async {
                let inner = tx.begin().await.unwrap();
                match end {
                    "begin" => drop(inner),
                    "commit" => inner.commit().await.unwrap(),
                    _ => inner.rollback().await.unwrap(),
                }
            };
            is_done = polled(polls, savepoint).await.is_some();
            let before = events::<DB>(&world).await;
            let is_committed = within("an end", tx.commit()).await.is_ok();
            let row = world.counted(&format!("{end} {polls}")).await == 1;
            let event = events::<DB>(&world).await > before;
            assert_eq!(
                (row, event),
                (is_committed, is_committed),
                "{end}, {polls} polls"
            );
            if is_done {
                assert!(is_committed, "{end}");
                break;
            }
        }
        assert!(is_done, "{end} was never done");
    }
}

async fn events<DB: Database>(world: &World<DB>) -> i64 {
    let count = format!("select count(*) from {}", DB::table("outbox"));
    DB::number(world.outbox.pool(), &count).await
}

async fn count<DB: Database>(
    user: User,
    mut tx: InboxTransaction<DB>,
    _: Context<()>,
) -> Result<(), Failure> {
    DB::count_up(&mut tx, &user.id).await?;
    Ok(())
}

/// A worker that is ended anywhere leaves nothing open in a pool that others use, too.
async fn handlers_that_are_dropped_leave_no_transaction_behind<DB: Distant>(world: World<DB>) {
    const EVENTS: usize = 30;
    DB::execute(
        world.outbox.pool(),
        "create table mark (id text primary key)",
    )
    .await;
    let pool = DB::distant(&world).await;
    let outbox = Outbox::new(pool.clone());
    let publisher = EventPublisher::new(&world.bus);
    for number in 0..EVENTS {
        publisher
            .publish(&User::new(&format!("user-{number}")))
            .await
            .unwrap();
    }
    for round in 0..20 {
        let subscriber = EventSubscriber::durable("counter").on_once(&outbox, count::<DB>);
        let running = world.run(Worker::new(world.bus.clone(), ()).subscribe(subscriber));
        // real time: somewhere on the way of a handler
        tokio::time::sleep(Duration::from_millis(20 + 7 * round)).await;
        running.kill().await;
        let mark = format!("insert into mark values ('{round}')");
        within("a connection", DB::execute(&pool, &mark)).await;
        let found = DB::number(
            world.outbox.pool(),
            &format!("select count(*) from mark where id = '{round}'"),
        )
        .await;
        assert_eq!(found, 1, "round {round}");
        eventually("nothing is open", || async {
            DB::left_open(world.outbox.pool()).await == 0
        })
        .await;
    }
}

both!(
    whatever_is_dropped_leaves_no_transaction_behind,
    a_savepoint_that_is_dropped_parts_no_event_from_its_row,
    handlers_that_are_dropped_leave_no_transaction_behind,
);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_follow_a_timeout_of_begin_are_all_there() {
    let world = World::<Postgres>::start().await;
    Postgres::execute(
        world.outbox.pool(),
        "create table mark (id text primary key)",
    )
    .await;
    let pool = slow_pool(&world, Duration::from_millis(15), 4).await;
    let outbox = Outbox::new(pool.clone());
    for number in 0..40 {
        let patience = Duration::from_millis(5 * number % 120);
        let _: Result<Result<_, OutboxError>, _> =
            tokio::time::timeout(patience, outbox.begin()).await;
        Postgres::execute(&pool, &format!("insert into mark values ('{number}')")).await;
    }
    let rows = Postgres::number(world.outbox.pool(), "select count(*) from mark").await;
    assert_eq!(rows, 40);
}
