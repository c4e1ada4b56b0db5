//! The example of docs/guide/testing.md: a ledger with its tests, which need no server. `cargo test --example ledger`

use std::time::Duration;

use serde::{Deserialize, Serialize};
use sqlx::Sqlite;
use tidings::{
    Bus, Context, Event, EventSubscriber, Failure, InboxTransaction, Outbox, Relay, Retry, Worker,
    shutdown_signal,
};

#[derive(Serialize, Deserialize, Event)]
#[event(name = "payment.received", version = 1, key = account)]
struct PaymentReceived {
    account: String,
    cents: i64,
}

#[derive(Serialize, Deserialize, Event)]
#[event(name = "account.filled", version = 1, key = account)]
struct AccountFilled {
    account: String,
    cents: i64,
}

type App = Outbox<Sqlite>; // what handlers share

async fn book(
    event: PaymentReceived,
    mut tx: InboxTransaction<Sqlite>,
    _cx: Context<App>,
) -> Result<(), Failure> {
    if event.cents < 0 {
        return Err(Failure::reject("a payment below nothing"));
    }
    let cents =
        sqlx::query_scalar("update account set cents = cents + $1 where id = $2 returning cents")
            .bind(event.cents)
            .bind(&event.account)
            .fetch_one(&mut *tx)
            .await?; // no such account yet: again, by the policy
    let account = event.account;
    tx.publish(&AccountFilled { account, cents })?;
    Ok(())
}

fn ledger(outbox: &Outbox<Sqlite>) -> EventSubscriber<App> {
    let (minute, hour) = (Duration::from_secs(60), Duration::from_secs(3600));
    EventSubscriber::durable("ledger")
        .on_transactional(outbox, book)
        .retry(Retry::exponential(minute, hour).attempts(3))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let bus = Bus::connect("nats://127.0.0.1:4222").await?;
    let outbox = Outbox::open("ledger.db").await?;
    outbox.migrate().await?;
    Worker::new(bus, outbox.clone())
        .subscribe(ledger(&outbox))
        .with(Relay::new(outbox))
        .run(shutdown_signal())
        .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use tidings::{
        handler::{Cause, Outcome},
        testing::{TestWorker, assert_idempotent},
    };

    /// A worker with a database of its own, and the account of Ada in it.
    async fn worker() -> TestWorker<App> {
        let outbox = Outbox::temporary().await.unwrap(); // a file that goes with the last clone
        let tables = "create table account (id text primary key, cents integer);
            insert into account values ('ada', 0)";
        let made = sqlx::raw_sql(tables).execute(outbox.pool());
        made.await.unwrap();
        TestWorker::new(ledger(&outbox), outbox)
    }

    fn payment(account: &str, cents: i64) -> PaymentReceived {
        PaymentReceived {
            account: account.into(),
            cents,
        }
    }

    #[tokio::test]
    async fn a_redelivered_payment_is_announced_once() {
        let mut worker = worker().await;
        let deliveries = worker.deliver_times(&payment("ada", 5), 2).await;
        assert_eq!(deliveries[0].outcome, Some(Outcome::Ack));
        assert_eq!(deliveries[1].outcome, Some(Outcome::Duplicate));
        let filled: Vec<AccountFilled> = worker.published().await;
        assert_eq!((filled.len(), filled[0].cents), (1, 5));
    }

    #[tokio::test]
    async fn a_payment_below_nothing_is_a_dead_letter() {
        let delivered = worker().await.deliver(&payment("ada", -1)).await;
        assert_eq!(delivered.dead_letter().unwrap().cause, Cause::Rejected);
    }

    #[tokio::test]
    async fn a_missing_account_is_a_dead_letter_after_three_minutes() {
        let mut worker = worker().await;
        let delivered = worker.deliver(&payment("bob", 5)).await;
        assert_eq!(delivered.retried_after(), Some(Duration::from_secs(60)));
        let attempts = worker.settle().await; // moves the clock: this takes no time
        let last = attempts.last().unwrap();
        assert_eq!(last.dead_letter().unwrap().cause, Cause::Exhausted);
        assert_eq!((last.attempt, last.at), (3, Duration::from_secs(180)));
    }

    #[tokio::test]
    async fn a_payment_is_booked_once_when_the_process_dies() {
        let balance = async |worker: Arc<TestWorker<App>>| -> i64 {
            let cents = sqlx::query_scalar("select cents from account where id = 'ada'");
            cents.fetch_one(worker.state().pool()).await.unwrap()
        };
        assert_idempotent(&payment("ada", 5), worker, balance).await;
    }
}
