//! P9: an outbox of this version, with rows, writers and a relay, is brought to a later one, which only this test has.

use sqlx::Postgres;
use tidings::{
    Outbox, Relay,
    outbox::{OutboxError, RelayInstance},
};

use crate::{
    both,
    support::{Database, User, World, eventually},
};

both!(
    an_outbox_is_upgraded_under_an_older_relay_and_writer,
    a_migration_that_fails_leaves_nothing_behind,
);

const LATER: &str = "0002_later";

/// The same outbox in the later version.
fn later<DB: Database>(world: &World<DB>, sql: String) -> Outbox<DB> {
    let outbox = world.outbox.clone();
    outbox.with_later_migration(LATER, sql.leak())
}

fn another_column<DB: Database>() -> String {
    let relay = DB::table("relay");
    format!("alter table {relay} add column later integer not null default 0")
}

async fn publish<DB: Database>(outbox: &Outbox<DB>, user: &str) {
    let mut tx = outbox.begin().await.unwrap();
    tx.publish(&User::new(user)).unwrap();
    tx.commit().await.unwrap();
}

async fn an_outbox_is_upgraded_under_an_older_relay_and_writer<DB: Database>(world: World<DB>) {
    let before = world.relay();
    publish(&world.outbox, "one").await;
    eventually("the first is stored", || async {
        world.stored().await.len() == 1
    })
    .await;
    let later = later(&world, another_column::<DB>());
    assert!(matches!(
        later.check_version().await,
        Err(OutboxError::Version {
            found: 1,
            known: 2,
            is_newer: false
        })
    ));

    assert_eq!(later.migrate().await.unwrap(), [LATER]);

    assert_eq!(later.migrate().await.unwrap(), [""; 0], "once is enough");
    assert!(matches!(
        world.outbox.check_version().await,
        Err(OutboxError::Version {
            found: 2,
            known: 1,
            is_newer: true
        })
    ));
    // Instances of the version before write on, until the last of them is replaced.
    publish(&world.outbox, "two").await;
    let after = world.run_relay(Relay::new(later.clone()));
    publish(&later, "three").await;
    eventually("all are stored", || async {
        world.stored().await.len() == 3
    })
    .await;
    eventually("the relay of the version before has given way", || async {
        let relays = RelayInstance::of(&world.bus, "tidings")
            .await
            .unwrap_or_default();
        let mut issues = relays.iter().flat_map(|relay| &relay.issues);
        issues.any(|issue| issue.cause.contains("this program knows 1"))
    })
    .await;
    before.stop().await.unwrap();
    after.stop().await.unwrap();
    let status = later.status().await.unwrap();
    assert_eq!(status.backlog, 0);
}

async fn a_migration_that_fails_leaves_nothing_behind<DB: Database>(world: World<DB>) {
    let relay = DB::table("relay");
    let half = format!(
        "{}; select no_such_column from {relay}",
        another_column::<DB>()
    );
    let refused = later(&world, half).migrate().await.unwrap_err();
    assert!(refused.to_string().contains(LATER), "{refused}");
    world.outbox.check_version().await.unwrap();
    let again = later(&world, another_column::<DB>());
    assert_eq!(again.migrate().await.unwrap(), [LATER]);
}

/// A migration must not make the relay's row younger than the rows that were written since the restore: an adoption
/// recognises those rows by its age.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_adopted_and_upgraded_outbox_with_new_rows_loses_nothing() {
    let world = World::<Postgres>::start().await;
    restored(&world.outbox).await;
    let enqueue = "select tidings.enqueue('user.created', 1, 'a', '{}')";
    Postgres::execute(world.outbox.pool(), enqueue).await;
    let later = later(&world, another_column::<Postgres>());
    later.migrate().await.unwrap();

    let adopted = later.adopt().await.unwrap().unwrap();
    assert_eq!((adopted.published, adopted.to_publish), (0, 1));
}

/// A relay that fails before it has found out where it is writes down why: not into a copy.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_adopted_outbox_with_a_relay_issue_loses_nothing() {
    let world = World::<Postgres>::start().await;
    restored(&world.outbox).await;
    let enqueue = "select tidings.enqueue('user.created', 1, 'a', '{}')";
    Postgres::execute(world.outbox.pool(), enqueue).await;
    let stage = "create schema stage; create sequence stage.calls;
        create function stage.pg_control_system(out system_identifier bigint) language plpgsql as $$
        begin
            if nextval('stage.calls') = 1 then raise exception 'not now'; end if;
            select control.system_identifier into system_identifier from pg_catalog.pg_control_system() as control;
        end $$";
    Postgres::execute(world.outbox.pool(), stage).await;
    let options = (*world.outbox.pool().connect_options()).clone();
    let options = options.options([("search_path", "stage,pg_catalog,public")]);
    let pool = sqlx::postgres::PgPoolOptions::new();
    let troubled = Outbox::new(pool.connect_with(options).await.unwrap());

    let refused = world.run_relay(Relay::new(troubled)).end().await;

    assert!(refused.unwrap_err().to_string().contains("is a copy"));
    let calls = "select last_value from stage.calls";
    assert!(Postgres::number(world.outbox.pool(), calls).await > 1);
    let adopted = world.outbox.adopt().await.unwrap().unwrap();
    assert_eq!((adopted.published, adopted.to_publish), (0, 1));
}

/// As if the relay's row had come from a server that has had many more transactions.
async fn restored(outbox: &Outbox<Postgres>) {
    let foreign = "update tidings.relay set system = '1', cursor = '900000000:900000000:'";
    Postgres::execute(outbox.pool(), foreign).await;
}
