//! The load of an idle relay on the database.

use std::time::Duration;

use sqlx::{Connection, PgConnection, Postgres};
use tidings::Relay;
use tokio::time::{Instant, sleep};

use crate::support::{User, World, eventually};

/// The server counts the transactions of this database only; the counters are read on a connection to another one.
/// Each statement of a relay is a transaction.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_relay_queries_at_most_five_times_a_second() {
    let world = World::<Postgres>::start().await;
    let options = (*world.outbox.pool().connect_options()).clone();
    let database = options.get_database().unwrap().to_owned();
    let mut elsewhere = PgConnection::connect_with(&options.database("postgres"))
        .await
        .unwrap();
    // The transactions of autovacuum would count, too.
    for sql in [
        "alter system set autovacuum = off",
        "select pg_reload_conf()",
    ] {
        sqlx::query(sql).execute(&mut elsewhere).await.unwrap();
    }
    let relay = world.run_relay(Relay::new(world.outbox.clone()));
    let mut tx = world.outbox.begin().await.unwrap();
    tx.publish(&User::new("a")).unwrap();
    tx.commit().await.unwrap();
    eventually("it is stored", || async { world.stored().await.len() == 1 }).await;
    // real time: a rate; a relay looks at its storage first, and the server's counters are up to a second old
    sleep(Duration::from_secs(6)).await;

    let mut transactions = async || {
        let count = "select xact_commit + xact_rollback from pg_stat_database where datname = $1";
        let count = sqlx::query_scalar::<_, i64>(count).bind(&database);
        (
            count.fetch_one(&mut elsewhere).await.unwrap(),
            Instant::now(),
        )
    };
    let (before, began) = transactions().await;
    // real time: a rate
    sleep(Duration::from_secs(25)).await;
    let (after, ended) = transactions().await;
    relay.stop().await.unwrap();

    let asked = u32::try_from(after - before).unwrap();
    // At both ends the counters are up to a second old, so they may cover a second more or less.
    let seconds = (ended - began).as_secs_f64();
    let (least, most) = (
        f64::from(asked) / (seconds + 1.0),
        f64::from(asked) / (seconds - 1.0),
    );
    assert!(
        most >= 3.0 && least <= 5.0,
        "{asked} times in {seconds} s, from {least} to {most} a second"
    );
}
