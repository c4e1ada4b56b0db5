//! P1: when a future of the outbox is dropped by a timeout, a select or a client that disconnects, no connection of
//! the service's pool is left in a transaction: later writes of the service on it are committed.

use std::{collections::BTreeSet, future::poll_fn, pin::pin, task::Poll, time::Duration};

use sqlx::{Connection as _, Pool, Postgres, Sqlite, pool::PoolOptions};
use tidings::{
    Context, EventPublisher, EventSubscriber, Failure, InboxTransaction, Outbox, Worker,
    outbox::{OutboxError, ParkedSelection},
    republish::Republish,
    trace::{Trace, TraceTarget},
    verify::Verify,
};

use crate::{
    both,
    support::{Counted, Database, Proxy, User, World, eventually, within},
};

/// The delay in each direction: long enough that every await is pending.
const LINK: Duration = Duration::from_millis(2);

/// The numbers of polls after which a future is dropped: each of the first ones, then every seventh; more than any
/// future here needs.
fn polls() -> impl Iterator<Item = usize> {
    (0..24).chain((24..600).step_by(7))
}

/// A database behind a link.
trait Distant: Database {
    /// A pool of one connection, which all statements have to share.
    fn distant(world: &World<Self>) -> impl Future<Output = Pool<Self>> + Send;
    /// The number of other connections that are left in an open transaction.
    fn left_open(pool: &Pool<Self>) -> impl Future<Output = i64> + Send;
    /// Tests the functions that only this database has, and names them.
    fn tried_too(world: &World<Self>) -> impl Future<Output = [&'static str; 2]> + Send;
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

    async fn tried_too(world: &World<Self>) -> [&'static str; 2] {
        // Each run has something to do.
        let elsewhere = "update tidings.relay set system = '1', cursor = '900000000:900000000:'";
        Self::execute(world.outbox.pool(), elsewhere).await;
        let dry_run = async |outbox: &Outbox<Self>| outbox.adopt_dry_run().await.unwrap();
        nothing_is_left_open(world, "adopt_dry_run", dry_run).await;
        let adopt = async |outbox: &Outbox<Self>| outbox.adopt().await.unwrap();
        nothing_is_left_open(world, "adopt", adopt).await;
        ["adopt", "adopt_dry_run"]
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

    async fn tried_too(_: &World<Self>) -> [&'static str; 2] {
        ["adopt", "adopt_dry_run"]
    }
}

/// A pool behind a slow link.
async fn slow_pool(world: &World<Postgres>, link: Duration, connections: u32) -> Pool<Postgres> {
    let to = (*world.outbox.pool().connect_options()).clone();
    let proxy = Proxy::to(to.get_port()).await;
    proxy.slow(link);
    let to = to.host("127.0.0.1").port(proxy.port);
    PoolOptions::new()
        .max_connections(connections)
        .connect_lazy_with(to)
}

/// Polls a future this many times, and then drops it; returns its result if it was done before.
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
            // Its own waker polls it again, unless that was the last time.
            Poll::Pending if left == 0 => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

/// Drops a future after each number of polls, until it is done; rows that are written in between must be committed
/// each time.
async fn nothing_is_left_open<DB: Distant, T>(
    world: &World<DB>,
    what: &str,
    work: impl AsyncFn(&Outbox<DB>) -> T,
) {
    let pool = DB::distant(world).await;
    let outbox = Outbox::new(pool.clone());
    let mut is_done = false;
    for polls in polls() {
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

/// Functions of the outbox that use no connection of the service's pool, or get it from the caller.
const OTHERS: [(&str, &str); 5] = [
    ("enqueue", "in the caller's transaction"),
    ("enqueue_all", "in the caller's transaction"),
    ("enqueue_at", "in the caller's transaction"),
    ("open", "there is no pool before it ends"),
    ("temporary", "there is no pool before it ends"),
];

async fn a_dropped_future_leaves_no_transaction_open<DB: Distant>(world: World<DB>) {
    DB::execute(
        world.outbox.pool(),
        "create table mark (id text primary key)",
    )
    .await;
    let bus = &world.bus;
    let mut tried: BTreeSet<&str> = OTHERS.map(|(name, _)| name).into();
    macro_rules! left {
        ($name:literal $($what:literal)?, $outbox:ident => $work:expr) => {{
            tried.insert($name);
            let what = concat!($name, $(" ", $what)?);
            nothing_is_left_open(&world, what, async |$outbox: &Outbox<DB>| $work).await
        }};
    }
    left!("begin", outbox => drop(outbox.begin().await.unwrap()));
    left!("commit", outbox => outbox.begin().await.unwrap().commit().await.unwrap());
    left!("commit" "with an event", outbox => {
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
    left!("check_version", outbox => outbox.check_version().await.unwrap());
    left!("status", outbox => outbox.status().await.unwrap());
    left!("parked", outbox => outbox.parked(&ParkedSelection::All, 0, 9).await.unwrap());
    left!("publish_alone", outbox => { outbox.publish_alone(&User::new("alone"), None).await.unwrap(); });
    left!("parked_heads", outbox => outbox.parked_heads(&ParkedSelection::All, 0, 9).await.unwrap());
    left!("parked_whole", outbox => outbox.parked_whole(&ParkedSelection::All, 0, 9).await.unwrap());
    left!("discard_rows", outbox => outbox.discard_rows(&[1]).await.unwrap());
    left!("unpark", outbox => outbox.unpark(&ParkedSelection::All).await.unwrap());
    left!("discard", outbox => outbox.discard(&ParkedSelection::All, 9).await.unwrap());
    left!("delayed", outbox => outbox.delayed(None, 9).await.unwrap());
    left!("losses", outbox => outbox.losses().await.unwrap());
    left!("acknowledge_loss", outbox => outbox.acknowledge_loss("EVENTS").await.unwrap());
    left!("use_nats", outbox => outbox.use_nats(bus).await.unwrap());
    left!("use_nats_dry_run", outbox => outbox.use_nats_dry_run(bus).await.unwrap());
    relayed(&world).await;
    left!("run" "a verification", outbox => Verify::new(bus, outbox).run().await.unwrap());
    left!("repair", outbox => Verify::new(bus, outbox).repair().await.unwrap());
    left!("dry_run", outbox => Republish::new(bus, outbox).dry_run().await.unwrap());
    left!("run" "a republication", outbox => Republish::new(bus, outbox).run().await.unwrap());
    left!("run" "a trace", outbox => {
        let trace = Trace::new(bus).outbox(outbox).streams(["EVENTS"]);
        trace.run(&TraceTarget::Key("one".to_owned())).await.unwrap()
    });
    tried.extend(DB::tried_too(&world).await);
    assert_eq!(functions(), tried, "every function is tried");
}

/// The public async functions of the outbox and of the types that work on it.
fn functions() -> BTreeSet<&'static str> {
    const SOURCES: [&str; 17] = [
        include_str!("../../../src/outbox/mod.rs"),
        include_str!("../../../src/outbox/transaction.rs"),
        include_str!("../../../src/outbox/inbox/transaction.rs"),
        include_str!("../../../src/outbox/delayed.rs"),
        include_str!("../../../src/outbox/home.rs"),
        include_str!("../../../src/outbox/migrate.rs"),
        include_str!("../../../src/outbox/parked.rs"),
        include_str!("../../../src/outbox/adopt.rs"),
        include_str!("../../../src/outbox/relay.rs"),
        include_str!("../../../src/outbox/open.rs"),
        include_str!("../../../src/outbox/losses.rs"),
        include_str!("../../../src/outbox/status.rs"),
        include_str!("../../../src/outbox/link.rs"),
        include_str!("../../../src/operations/republish.rs"),
        include_str!("../../../src/operations/trace.rs"),
        include_str!("../../../src/operations/verify.rs"),
        include_str!("../../../src/operations/verify/repair.rs"),
    ];
    let lines = SOURCES.iter().flat_map(|source| source.lines());
    let names = lines.filter_map(|line| line.trim_start().strip_prefix("pub async fn "));
    let end = |c: char| c != '_' && !c.is_ascii_alphanumeric();
    names.filter_map(|name| name.split(end).next()).collect()
}

/// Commits an event and waits until it is relayed.
async fn relayed<DB: Database>(world: &World<DB>) {
    let mut tx = world.outbox.begin().await.unwrap();
    tx.publish(&User::new("one")).unwrap();
    tx.commit().await.unwrap();
    let relay = world.relay();
    eventually("it is carried", || async {
        world.outbox.status().await.unwrap().backlog == 0
    })
    .await;
    relay.stop().await.unwrap();
}

/// Checks that all rows or none are written. Each query is one statement, and so sees one moment.
async fn all_or_nothing<DB: Distant, T>(
    world: &World<DB>,
    what: &str,
    prepare: impl AsyncFn(&Outbox<DB>, usize),
    work: impl AsyncFn(&Outbox<DB>, usize) -> T,
    done: impl Fn(usize) -> String,
) {
    let outbox = Outbox::new(DB::distant(world).await);
    let mut is_done = false;
    for polls in polls() {
        prepare(&world.outbox, polls).await;
        is_done = polled(polls, work(&outbox, polls)).await.is_some();
        // A commit that was already sent may take effect later: a part of it is never visible.
        for _ in 0..2 {
            let done = DB::word(world.outbox.pool(), &done(polls)).await;
            let is_whole = done == "nothing" && !is_done || done == "all";
            assert!(is_whole, "{what}, dropped after {polls} polls: {done}");
            tokio::time::sleep(LINK).await; // real time: the commit is on a slow link
        }
        if is_done {
            break;
        }
    }
    assert!(is_done, "{what} was never done");
}

/// SQL that returns `all` or `nothing` when these conditions are all true or all false, else the number of true ones.
fn together(conditions: &[String]) -> String {
    let holds = |condition: &String| format!("case when {condition} then 1 else 0 end");
    let sum: Vec<String> = conditions.iter().map(holds).collect();
    let (sum, all) = (sum.join(" + "), conditions.len());
    format!(
        "select case {sum} when {all} then 'all' when 0 then 'nothing' else 'a part: ' || ({sum}) end"
    )
}

async fn a_dropped_write_is_committed_whole_or_not_at_all<DB: Distant>(world: World<DB>) {
    let (parked, ledger) = (DB::table("parked"), DB::table("ledger"));
    let (log, delayed) = (DB::table("outbox"), DB::table("delayed"));
    let park = async |outbox: &Outbox<DB>, _: usize| {
        let (event, at) = match DB::KIND {
            "postgres" => ("gen_random_uuid()", "now()"),
            _ => ("randomblob(16)", "1700000000000000"),
        };
        let row = |id| {
            format!("({event}, {at}, {id}, 'user.created', 1, 'k', '{{}}', '{{}}', 'by hand')")
        };
        let rows = [11, 12, 13].map(row).join(", ");
        let columns = "event, created_at, id, name, version, key, headers, payload, error";
        let again = format!(
            "delete from {parked}; delete from {ledger} where kind = 'discarded';
             insert into {parked} ({columns}) values {rows}"
        );
        DB::execute(outbox.pool(), &again).await;
    };
    all_or_nothing(
        &world,
        "discard",
        park,
        async |outbox, _| outbox.discard(&ParkedSelection::All, 9).await.unwrap(),
        |_| {
            together(&[
                format!("not exists (select 1 from {parked} where id = 11)"),
                format!("not exists (select 1 from {parked} where id = 13)"),
                format!("(select count(*) from {ledger} where kind = 'discarded') = 3"),
            ])
        },
    )
    .await;
    all_or_nothing(
        &world,
        "unpark",
        park,
        async |outbox, _| outbox.unpark(&ParkedSelection::All).await.unwrap(),
        |_| {
            let asked = |id| {
                format!("exists (select 1 from {parked} where id = {id} and unpark_requested_at is not null)")
            };
            together(&[11, 12, 13].map(asked))
        },
    )
    .await;
    let nothing = async |_: &Outbox<DB>, _: usize| ();
    all_or_nothing(
        &world,
        "commit",
        nothing,
        async |outbox, polls| {
            let key = format!("commit-{polls}");
            let mut tx = outbox.begin().await.unwrap();
            DB::count_up(&mut tx, &key).await.unwrap();
            for _ in 0..2 {
                tx.publish(&Counted {
                    key: key.clone(),
                    count: 1,
                })
                .unwrap();
            }
            let later = chrono::Utc::now() + chrono::TimeDelta::hours(1);
            tx.publish_at(&Counted { key, count: 2 }, later).unwrap();
            tx.commit().await.unwrap();
        },
        |polls| {
            let key = format!("key = 'commit-{polls}'");
            together(&[
                format!("exists (select 1 from counter where {key})"),
                format!("(select count(*) from {log} where {key}) = 2"),
                format!("exists (select 1 from {delayed} where {key})"),
            ])
        },
    )
    .await;
    // Each migration is a transaction: after a drop, the next run continues after the last recorded one.
    let distant = DB::distant(&world).await;
    let mut is_done = false;
    for polls in polls() {
        let schema = format!("m{polls}");
        let anew = |pool| Outbox::new(pool).in_schema(&schema).unwrap();
        is_done = polled(polls, anew(distant.clone()).migrate())
            .await
            .is_some();
        let outbox = anew(world.outbox.pool().clone());
        within("migrate", outbox.migrate()).await.unwrap();
        outbox.status().await.unwrap();
        if is_done {
            break;
        }
    }
    assert!(is_done, "migrate was never done");
}

/// In a transaction, an event and a row are both written or neither, wherever the future of a savepoint is dropped.
async fn a_dropped_savepoint_keeps_an_event_and_its_row_together<DB: Distant>(world: World<DB>) {
    DB::execute(
        world.outbox.pool(),
        "create table mark (id text primary key)",
    )
    .await;
    let pool = DB::distant(&world).await;
    let outbox = Outbox::new(pool);
    for end in ["begin", "commit", "rollback"] {
        let mut is_done = false;
        for polls in polls() {
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

/// A worker that is killed at any point leaves no open transaction in a pool that is also used elsewhere.
async fn dropped_handlers_leave_no_transaction_open<DB: Distant>(world: World<DB>) {
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
        let subscriber = EventSubscriber::durable("counter").on_transactional(&outbox, count::<DB>);
        let running = world.run(Worker::new(world.bus.clone(), ()).subscribe(subscriber));
        // real time: at any point of a handler
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
    a_dropped_future_leaves_no_transaction_open,
    a_dropped_write_is_committed_whole_or_not_at_all,
    a_dropped_savepoint_keeps_an_event_and_its_row_together,
    dropped_handlers_leave_no_transaction_open,
);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_written_after_a_timeout_of_begin_are_committed() {
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
