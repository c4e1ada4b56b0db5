//! P5: a handler that commits or rolls back its own transaction has failed, and the error states it: its effects and
//! the inbox row are no longer atomic.

use sqlx::{AssertSqlSafe, Postgres};
use tidings::{
    Context, Envelope, EventSubscriber, Failure, InboxTransaction, Outbox, Worker,
    handler::Outcome, testing::TestWorker,
};

use crate::{
    both,
    support::{Database, User, World, log},
};

/// Ends its transaction with this SQL on the first attempt; then writes its effect.
async fn end<DB>(
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
        sqlx::raw_sql(words).execute(&mut *tx).await?;
        return Ok(());
    }
    DB::count_up(&mut tx, &user.id).await?;
    Ok(())
}

async fn ends<DB>(world: World<DB>, words: &'static str, then: Outcome)
where
    DB: Database,
    for<'c> &'c mut DB::Connection: sqlx::Executor<'c, Database = DB>,
{
    let subscriber = EventSubscriber::durable("ending").on_transactional(&world.outbox, end::<DB>);
    let mut worker = TestWorker::new(subscriber, words);
    let event = Envelope::of(&User::new("ada")).unwrap();
    let delivered = worker.deliver(event).await;
    let error = delivered.error.unwrap_or_default();
    assert!(error.contains("has ended its transaction"), "{error}");
    assert!(matches!(delivered.outcome, Some(Outcome::Retry(_))));
    let later = worker.settle().await;
    assert_eq!(later.last().unwrap().outcome, Some(then), "{words}");
    // The connection of the handler is still usable.
    for _ in 0..20 {
        let bob = worker.deliver(&User::new("bob")).await;
        assert_eq!(bob.outcome, Some(Outcome::Ack), "{words}: {:?}", bob.error);
    }
    assert_eq!(world.counted("bob").await, 20);
    let handled = 20 + 1;
    assert_eq!(world.remembered().await, handled, "{words}");
}

macro_rules! ends {
    ($($name:ident: $words:literal, then $then:ident;)+) => {
        both!($($name),+);
        $(async fn $name<DB>(world: World<DB>)
        where
            DB: Database,
            for<'c> &'c mut DB::Connection: sqlx::Executor<'c, Database = DB>,
        {
            ends(world, $words, Outcome::$then).await;
        })+
    };
}

ends!(
    an_event_is_retried_after_its_handler_rolls_back: "rollback", then Ack;
    an_event_is_retried_after_a_rollback_and_begin: "rollback; begin", then Ack;
    an_event_is_a_duplicate_after_its_handler_commits: "commit", then Duplicate;
    an_event_is_a_duplicate_after_a_commit_and_begin: "commit; begin", then Duplicate;
);

/// A different warning: waiting retries in a stream that has been given a limit.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_warns_of_retries_that_may_be_dropped() {
    async fn nothing(_: User, _: Context<()>) -> Result<(), Failure> {
        Ok(())
    }
    log::listen();
    let world = World::<sqlx::Sqlite>::start().await;
    let client = async_nats::connect(world.nats.url()).await.unwrap();
    let context = async_nats::jetstream::new(client);
    let retries = context.get_stream("RETRIES").await.unwrap();
    let mut config = retries.cached_info().config.clone();
    config.max_messages = 1_000;
    context.update_stream(config).await.unwrap();
    let subscriber = EventSubscriber::durable("bounded").on(nothing);
    let running = world.run(Worker::new(world.bus.clone(), ()).subscribe(subscriber));
    crate::support::eventually("it is said", || async {
        let said = log::said("RETRIES silently drops the oldest waiting retries");
        said.iter().any(|line| line.contains("max_msgs is 1000"))
    })
    .await;
    running.stop().await.unwrap();
}

/// The check that the transaction is still the original one does not depend on the schema's name.
#[tokio::test(flavor = "multi_thread")]
async fn in_another_schema_no_transaction_counts_as_ended() {
    let world = World::<Postgres>::start().await;
    let outbox = Outbox::new(world.outbox.pool().clone());
    let outbox = outbox.in_schema("elsewhere").unwrap();
    outbox.migrate().await.unwrap();
    let subscriber = EventSubscriber::durable("ending").on_transactional(&outbox, end::<Postgres>);
    let mut worker = TestWorker::new(subscriber, "");
    let bob = worker.deliver(&User::new("bob")).await;
    assert_eq!(bob.outcome, Some(Outcome::Ack), "{:?}", bob.error);
}
