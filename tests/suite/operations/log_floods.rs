//! P9: messages of other clients, and issues that last, cause neither a flood of log lines nor of queries: they are
//! logged once, and then less and less often.

use std::time::Duration;

use sqlx::{Connection, PgConnection, Postgres, Sqlite};
use tidings::{
    Bus, Context, EventPublisher, EventSubscriber, Failure, Relay, Worker, subscribers::Subscribers,
};
use tidings_test_servers::NatsServer;

use crate::support::{Database, Noted, User, World, eventually, log};

const FLOOD: usize = 200_000;

/// Any client may send wake pings: here far more than the queue of the NATS client holds.
async fn flood<DB: Database>(world: &World<DB>, payload: &'static str) {
    let client = async_nats::connect(world.nats.url()).await.unwrap();
    let subject = "tidings.wake.tidings";
    for _ in 0..FLOOD {
        client.publish(subject, payload.into()).await.unwrap();
    }
    client.flush().await.unwrap();
}

async fn is_stored<DB: Database>(world: &World<DB>, events: usize) {
    eventually("it is stored", || async {
        world.stored().await.len() == events
    })
    .await;
}

/// The server counts the transactions of this database only; the counters are read on a connection to another one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_wake_pings_causes_few_queries_and_log_lines() {
    log::listen();
    let world = World::<Postgres>::start().await;
    let options = (*world.outbox.pool().connect_options()).clone();
    let database = options.get_database().unwrap().to_owned();
    let mut elsewhere = PgConnection::connect_with(&options.database("postgres"))
        .await
        .unwrap();
    let relay = world.run_relay(Relay::new(world.outbox.clone()));
    world.commit("first").await;
    is_stored(&world, 1).await;
    let mut transactions = async || {
        let count = "select xact_commit + xact_rollback from pg_stat_database where datname = $1";
        let count = sqlx::query_scalar::<_, i64>(count).bind(&database);
        count.fetch_one(&mut elsewhere).await.unwrap()
    };
    // real time: the server's counters are up to a second old
    tokio::time::sleep(Duration::from_secs(3)).await;
    let before = transactions().await;
    flood(&world, "").await;
    // real time: a rate
    tokio::time::sleep(Duration::from_secs(8)).await;
    let looks = transactions().await - before;
    assert!(looks < 1_000, "{looks} looks");
    let slow = log::said("messages dropped").len();
    assert!(slow < 5, "{slow} lines");
    world.commit("second").await;
    is_stored(&world, 2).await;
    relay.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn foreign_wake_messages_are_ignored_and_rarely_logged() {
    log::listen();
    let world = World::<Sqlite>::start().await;
    let relay = world.relay();
    world.commit("first").await;
    is_stored(&world, 1).await;
    flood(&world, "{\"wake\": true}").await;
    let lines = || log::said("foreign message ignored");
    eventually("it is said", || async { !lines().is_empty() }).await;
    world.commit("second").await;
    is_stored(&world, 2).await;
    relay.stop().await.unwrap();
    assert!(lines().len() < 5, "{:?}", lines());
}

/// Each event that is not acked is redelivered, and each ack is denied.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_ack_permission_is_an_issue_and_few_log_lines() {
    async fn note(user: User, cx: Context<Noted>) -> Result<(), Failure> {
        cx.state().note(user.id);
        Ok(())
    }
    log::listen();
    let config = "authorization { users = [
            { user: worker, password: secret, permissions: { publish: { deny: [\"$JS.ACK.EVENTS.>\"] } } }
            { user: admin, password: secret }
        ] }
        no_auth_user: admin";
    let server = NatsServer::options().config(config).start().await.unwrap();
    let world = World::<Sqlite>::with(Sqlite::open().await, server).await;
    let url = world.nats.url().replace("nats://", "nats://worker:secret@");
    let bus = Bus::connect(url.as_str()).await.unwrap();
    let noted = Noted::default();
    let subscriber = EventSubscriber::durable("silent").on(note);
    let running = world.run(Worker::new(bus, noted.clone()).subscribe(subscriber));
    let publisher = EventPublisher::new(&world.bus);
    for n in 0..300 {
        publisher.publish(&User::new(&n.to_string())).await.unwrap();
    }
    noted.reach(300).await;
    eventually("the status shows it", || async {
        let found = Subscribers::new(&world.bus).find("silent").await.unwrap();
        let issues = found.instances.iter().filter_map(|it| it.issue.as_ref());
        issues
            .into_iter()
            .any(|it| it.contains("$JS.ACK.EVENTS.silent.>"))
    })
    .await;
    running.stop().await.unwrap();
    let (denied, unconfirmed) = (
        log::said("NATS server error"),
        log::said("outcome unconfirmed"),
    );
    assert!(!denied.is_empty() && !unconfirmed.is_empty());
    let lines = denied.len() + unconfirmed.len();
    assert!(lines < 20, "{lines} lines for 300 events");
}
