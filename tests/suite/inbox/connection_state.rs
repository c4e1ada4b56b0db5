//! P5: whatever a handler leaves behind, its connection is not in a transaction when another user gets it.

use sqlx::{AssertSqlSafe, Connection as _, pool::PoolOptions};
use tidings::{
    Context, Envelope, EventSubscriber, Failure, InboxTransaction, Outbox, handler::Outcome,
    testing::TestWorker,
};

use crate::{
    both,
    support::{Database, User, World, within},
};

/// Executes a statement that is refused, and then a savepoint, and ignores both errors; or makes the database roll
/// back.
async fn stumble<DB>(
    user: User,
    mut tx: InboxTransaction<DB>,
    cx: Context<&'static str>,
) -> Result<(), Failure>
where
    DB: Database,
    for<'c> &'c mut DB::Connection: sqlx::Executor<'c, Database = DB>,
{
    if cx.attempt() == 1 && user.id == "ada" {
        let words = AssertSqlSafe((*cx.state()).to_owned());
        let refused = sqlx::raw_sql(words).execute(&mut *tx).await;
        let mut savepoint = Box::pin(tx.begin());
        // The savepoint is sent, and its answer is not awaited.
        let cut_off = futures::poll!(&mut savepoint).is_pending();
        drop(savepoint);
        return match (refused, cut_off) {
            (Ok(_), _) => Err(Failure::retry("rolled back")),
            (Err(_), _) => Ok(()),
        };
    }
    DB::count_up(&mut tx, &user.id).await?;
    Ok(())
}

/// Three times, with a pool of one connection.
async fn leaves_nothing_open<DB>(world: World<DB>, words: &'static str)
where
    DB: Database,
    for<'c> &'c mut DB::Connection: sqlx::Executor<'c, Database = DB>,
{
    let to = (*world.outbox.pool().connect_options()).clone();
    let one = PoolOptions::<DB>::new().max_connections(1);
    let pool = one.connect_lazy_with(to);
    let outbox = Outbox::new(pool.clone());
    let subscriber = EventSubscriber::durable("stumbling").on_transactional(&outbox, stumble::<DB>);
    let mut worker = TestWorker::new(subscriber, words);
    let mut counted = 0;
    for round in 1..=3 {
        let event = Envelope::of(&User::new("ada")).unwrap();
        let delivered = worker.deliver(event).await;
        // A write outside a transaction is visible to other connections at once.
        let mut connection = within("one", pool.acquire()).await.unwrap();
        assert!(!connection.is_in_transaction());
        DB::count_up(&mut connection, "bob").await.unwrap();
        assert_eq!(world.counted("bob").await, round, "{words}");
        drop(connection);
        // SQLite continues after a refused statement, and the savepoint that was dropped may succeed in time: then the
        // handler has succeeded without an effect.
        if delivered.outcome != Some(Outcome::Ack) {
            let later = worker.settle().await;
            assert_eq!(later.last().unwrap().outcome, Some(Outcome::Ack), "{words}");
            counted += 1;
        }
        assert_eq!(world.counted("ada").await, counted, "{words}");
    }
}

both!(
    work_after_a_refused_statement_is_complete,
    work_after_a_rollback_and_a_failure_is_complete,
);

async fn work_after_a_rollback_and_a_failure_is_complete<DB>(world: World<DB>)
where
    DB: Database,
    for<'c> &'c mut DB::Connection: sqlx::Executor<'c, Database = DB>,
{
    leaves_nothing_open(world, "rollback").await;
}

async fn work_after_a_refused_statement_is_complete<DB>(world: World<DB>)
where
    DB: Database,
    for<'c> &'c mut DB::Connection: sqlx::Executor<'c, Database = DB>,
{
    leaves_nothing_open(world, "select nonsense").await;
}
