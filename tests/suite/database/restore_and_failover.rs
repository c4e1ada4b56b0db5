//! Moves of a database: dumped and restored, followed by a standby, failed over.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use sqlx::{
    PgPool, Postgres,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use tidings::{Outbox, Relay, outbox::AdoptError};
use tidings_test_servers::PostgresServer;

use super::retention::dead_rows;
use crate::support::{Counted, Database, World, eventually, log, within};

async fn server(major: u16) -> Arc<PostgresServer> {
    let options = PostgresServer::options().major(major).fsync(false);
    Arc::new(options.start().await.unwrap())
}

async fn outbox_of(server: &PostgresServer, database: &str) -> Outbox<Postgres> {
    let options: PgConnectOptions = server.url_of(database).parse().unwrap();
    let pool = PgPoolOptions::new().max_connections(10);
    Outbox::new(pool.connect_with(options).await.unwrap())
}

/// A world on a server of the test, in the database `shop`.
async fn world_on(server: &Arc<PostgresServer>) -> World<Postgres> {
    server.create_database("shop").await.unwrap();
    World::of(
        outbox_of(server, "shop").await,
        Arc::<PostgresServer>::clone(server),
    )
    .await
}

/// Uses up transaction ids.
async fn age(pool: &PgPool, transactions: u32) {
    let spend = format!(
        "do $$ begin for n in 1..{transactions} loop perform pg_current_xact_id(); commit; end loop; end $$"
    );
    Postgres::execute(pool, &spend).await;
}

/// Publishes one event of each of five keys per transaction, under the locks of the keys.
async fn raise(outbox: &Outbox<Postgres>, times: usize) {
    let mut tx = outbox.begin().await.unwrap();
    for n in 0..times {
        let key = format!("key-{}", n % 5);
        let count = Postgres::count_up(&mut tx, &key).await.unwrap();
        tx.publish(&Counted { key, count }).unwrap();
    }
    tx.commit().await.unwrap();
}

fn quick(outbox: &Outbox<Postgres>) -> Relay<Postgres> {
    Relay::new(outbox.clone()).lease(Duration::from_secs(1))
}

/// The ids of all events in the log.
async fn logged(outbox: &Outbox<Postgres>) -> BTreeSet<String> {
    let ids = "select event::text from tidings.outbox";
    let ids: Vec<String> = sqlx::query_scalar(ids)
        .fetch_all(outbox.pool())
        .await
        .unwrap();
    ids.into_iter().collect()
}

async fn stored_ids(world: &World<Postgres>) -> BTreeSet<String> {
    world.stored().await.ids().into_iter().collect()
}

async fn backlog_is_gone(outbox: &Outbox<Postgres>) {
    eventually("the backlog is gone", || async {
        outbox
            .status()
            .await
            .is_ok_and(|status| status.backlog == 0)
    })
    .await;
}

/// The state of the relay in its row, without times.
async fn relay_row(outbox: &Outbox<Postgres>) -> String {
    let row = "select row(owner, epoch, cursor, id_floor, page_snapshot, page_id, streams, system)::text from tidings.relay";
    Postgres::word(outbox.pool(), row).await
}

/// Publishes events one by one, so that a page takes long, and dies with a part of the page recorded and more of it
/// published. A transaction with an early id commits after the page.
async fn dies_within_a_page(world: &World<Postgres>) {
    let mut early = world.outbox.begin().await.unwrap();
    sqlx::query(
        "select tidings.enqueue('count.raised', 1, 'early', '{\"key\":\"early\",\"count\":1}')",
    )
    .execute(&mut *early)
    .await
    .unwrap();
    raise(&world.outbox, 1500).await;
    let relay = world.run_relay(quick(&world.outbox).batch(1));
    eventually(
        "a page is frozen, and a part of it written down",
        || async {
            let page = "select coalesce(page_id, 0) from tidings.relay";
            Postgres::number(world.outbox.pool(), page).await > 20
        },
    )
    .await;
    relay.kill().await;
    early.commit().await.unwrap();
    raise(&world.outbox, 50).await;
    let left = world.outbox.status().await.unwrap().backlog;
    assert!(left > 100, "{left} are left");
}

/// The old relay continues after the dump, so that the copy does not know what was published since.
async fn writes_continue_for_a_while(world: &World<Postgres>) {
    let before = world.stored().await.len();
    let relay = world.run_relay(quick(&world.outbox).batch(1));
    eventually("more are published", || async {
        world.stored().await.len() > before + 20
    })
    .await;
    relay.kill().await;
}

/// Writes into a copy that was not adopted: with and without a savepoint.
async fn writes_into(copy: &Outbox<Postgres>) {
    raise(copy, 10).await;
    let mut tx = copy.begin().await.unwrap();
    Postgres::count_up(&mut tx, "saved").await.unwrap();
    let in_savepoint = "savepoint a;
        select tidings.enqueue('count.raised', 1, 'saved', '{\"key\":\"saved\",\"count\":1}')";
    sqlx::raw_sql(in_savepoint).execute(&mut *tx).await.unwrap();
    tx.commit().await.unwrap();
}

async fn adopted_once_the_lease_is_over(copy: &Outbox<Postgres>) -> tidings::outbox::Adoption {
    eventually("the copied lease is over", || async {
        !matches!(copy.adopt_dry_run().await, Err(AdoptError::Leased { .. }))
    })
    .await;
    let before = relay_row(copy).await;
    let planned = copy.adopt_dry_run().await.unwrap().unwrap();
    assert_eq!(relay_row(copy).await, before, "a dry run changes nothing");
    assert!(copy.status().await.unwrap().refuses.is_some());
    let adopted = copy.adopt().await.unwrap().unwrap();
    assert_eq!(adopted, planned);
    assert_eq!(copy.adopt().await.unwrap(), None);
    assert_eq!(copy.status().await.unwrap().refuses, None);
    adopted
}

async fn refuses_to_relay(world: &World<Postgres>, copy: &Outbox<Postgres>, reason: &str) {
    let before = relay_row(copy).await;
    let refused = world.run_relay(quick(copy)).end().await.unwrap_err();
    let refused = refused.to_string();
    assert!(refused.contains(reason), "{refused}");
    assert!(refused.contains("tidings outbox adopt"), "{refused}");
    assert_eq!(relay_row(copy).await, before, "the lease is not taken");
    let status = copy.status().await.unwrap();
    assert_eq!(status.refuses, Some(refused));
}

/// Moves a database to another server while events are in flight; services write to it before it is adopted.
async fn moves(from: &Arc<PostgresServer>, to: &Arc<PostgresServer>, spent: (u32, u32)) {
    let world = world_on(from).await;
    age(world.outbox.pool(), spent.0).await;
    to.create_database("moved").await.unwrap();
    let copy = outbox_of(to, "moved").await;
    age(copy.pool(), spent.1).await;
    raise(&world.outbox, 30).await;
    let relay = world.run_relay(quick(&world.outbox));
    backlog_is_gone(&world.outbox).await;
    relay.stop().await.unwrap();
    dies_within_a_page(&world).await;
    let unpublished = world.outbox.status().await.unwrap().backlog;
    from.copy_database("shop", to, "moved").await.unwrap();
    writes_continue_for_a_while(&world).await;
    let known = stored_ids(&world).await;
    assert!(known.is_subset(&logged(&copy).await));

    refuses_to_relay(&world, &copy, "is a copy").await;
    writes_into(&copy).await;
    let order =
        "select string_agg(event::text || ' ' || slot, ',' order by id) from tidings.outbox";
    let order_before = Postgres::word(copy.pool(), order).await;
    let adopted = adopted_once_the_lease_is_over(&copy).await;

    assert_eq!(adopted.to_publish, unpublished + 11);
    assert_eq!(adopted.events, 30 + 1 + 1500 + 50 + 11);
    assert_eq!(adopted.published, adopted.events - adopted.to_publish);
    assert!(adopted.oldest.unwrap().id < adopted.newest.unwrap().id);
    assert!(adopted.streams["EVENTS"] > 0);
    assert_eq!(Postgres::word(copy.pool(), order).await, order_before);
    assert_eq!(copy.status().await.unwrap().backlog, adopted.to_publish);
    assert_eq!(dead_rows(copy.pool(), "tidings.outbox").await, 0);

    raise(&copy, 10).await;
    let relay = world.run_relay(quick(&copy));
    backlog_is_gone(&copy).await;
    relay.stop().await.unwrap();
    let stored = world.stored().await;
    assert_eq!((stored.duplicated(), stored.inverted()), (0, 0));
    assert_eq!(stored_ids(&world).await, logged(&copy).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_moves_to_a_newer_server_with_lower_xids() {
    moves(&server(16).await, &server(18).await, (20_000, 0)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_moves_to_a_newer_server_with_higher_xids() {
    moves(&server(16).await, &server(18).await, (0, 20_000)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_moves_to_an_older_server() {
    moves(&server(18).await, &server(16).await, (500, 0)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_on_the_same_server_is_not_taken_for_the_original() {
    let server = server(18).await;
    moves(&server, &server, (0, 0)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cursor_that_is_ahead_of_its_database_is_refused() {
    let world = World::<Postgres>::start().await;
    let ahead = "update tidings.relay set cursor = (select format('%s:%s:', xmax, xmax)::pg_snapshot
        from (select pg_snapshot_xmax(pg_current_snapshot())::text::bigint + 1000 as xmax) as ahead)";
    Postgres::execute(world.outbox.pool(), ahead).await;
    refuses_to_relay(&world, &world.outbox, "its relay has reached transaction").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_written_during_an_adoption_are_published() {
    let server = server(18).await;
    let world = world_on(&server).await;
    raise(&world.outbox, 20).await;
    server.create_database("moved").await.unwrap();
    server
        .copy_database("shop", &server, "moved")
        .await
        .unwrap();
    let copy = outbox_of(&server, "moved").await;
    let mut writer = copy.begin().await.unwrap();
    Postgres::count_up(&mut writer, "slow").await.unwrap();
    let mut reader = copy.pool().begin().await.unwrap();
    sqlx::query("select from tidings.outbox limit 1")
        .execute(&mut *reader)
        .await
        .unwrap();

    let rebasing = tokio::spawn({
        let copy = copy.clone();
        async move { copy.adopt().await }
    });
    eventually("the adopt waits for the reader", || async {
        let waits =
            "select count(*) from pg_locks where not granted and mode = 'AccessExclusiveLock'";
        Postgres::number(copy.pool(), waits).await == 1
    })
    .await;
    // Later transactions end before the adoption does: its own snapshot, used unchanged, would see its transaction as
    // ended.
    age(copy.pool(), 20).await;
    reader.rollback().await.unwrap();
    let adopted = within("the adopt", rebasing).await.unwrap();
    assert_eq!(adopted.unwrap().unwrap().to_publish, 20);
    writer
        .publish(&Counted {
            key: "slow".into(),
            count: 1,
        })
        .unwrap();
    writer.commit().await.unwrap();

    let relay = world.run_relay(quick(&copy));
    eventually("all are stored", || async {
        world.stored().await.len() >= 21
    })
    .await;
    relay.stop().await.unwrap();
    assert_eq!(stored_ids(&world).await, logged(&copy).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_own_or_relayed_outbox_is_not_adopted() {
    let world = World::<Postgres>::start().await;
    raise(&world.outbox, 3).await;
    let before = relay_row(&world.outbox).await;
    assert_eq!(world.outbox.adopt().await.unwrap(), None);
    assert_eq!(relay_row(&world.outbox).await, before);

    let leased = "update tidings.relay set system = 'another', owner = 'somebody',
        lease_until = now() + interval '1 hour'";
    Postgres::execute(world.outbox.pool(), leased).await;
    let before = relay_row(&world.outbox).await;
    let refused = world.outbox.adopt().await.unwrap_err();
    assert!(matches!(refused, AdoptError::Leased { .. }), "{refused}");
    assert!(refused.to_string().contains("somebody"), "{refused}");
    assert_eq!(relay_row(&world.outbox).await, before);

    let nowhere = world.outbox.clone().in_schema("nowhere").unwrap();
    let refused = nowhere.adopt().await.unwrap_err();
    assert!(matches!(refused, AdoptError::NotMigrated(_)), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_standby_is_not_relayed_until_it_is_promoted() {
    let server = server(18).await;
    let world = world_on(&server).await;
    raise(&world.outbox, 5).await;
    log::listen();
    server.restart_as_standby().await.unwrap();
    let relay = world.run_relay(quick(&world.outbox));

    eventually("the status says what it is", || async {
        let status = world.outbox.status().await;
        let refusal = status.ok().and_then(|status| status.refuses);
        refusal.is_some_and(|why| why.contains("standby"))
    })
    .await;
    let refused = world.outbox.adopt().await.unwrap_err();
    assert!(matches!(refused, AdoptError::Standby), "{refused}");
    eventually("the relay says so, too", || async {
        log::said("WARN")
            .iter()
            .any(|line| line.contains("standby"))
    })
    .await;
    assert_eq!(world.stored().await.len(), 0);

    Postgres::execute(world.outbox.pool(), "select pg_promote()").await;
    backlog_is_gone(&world.outbox).await;
    relay.stop().await.unwrap();
    assert_eq!(world.stored().await.len(), 5);
}

/// A pooler follows a failover silently. The test replaces the function that identifies a server by its start time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_connected_to_another_server_starts_over() {
    let server = server(18).await;
    let world = world_on(&server).await;
    let stage = "create schema stage;
        create table stage.start (created_at timestamptz not null);
        insert into stage.start values (now());
        create function stage.pg_postmaster_start_time() returns timestamptz language sql
            as 'select created_at from stage.start'";
    Postgres::execute(world.outbox.pool(), stage).await;
    let options: PgConnectOptions = server.url_of("shop").parse().unwrap();
    let options = options.options([("search_path", "stage,pg_catalog,public")]);
    let outbox = Outbox::new(PgPoolOptions::new().connect_with(options).await.unwrap());
    let relay = world.run_relay(quick(&outbox));
    raise(&outbox, 5).await;
    backlog_is_gone(&outbox).await;
    assert_eq!(outbox.status().await.unwrap().lease.epoch, 1);

    Postgres::execute(
        outbox.pool(),
        "update stage.start set created_at = created_at + interval '1 second'",
    )
    .await;
    eventually("another tenure has begun", || async {
        outbox.status().await.unwrap().lease.epoch > 1
    })
    .await;

    raise(&outbox, 5).await;
    backlog_is_gone(&outbox).await;
    relay.stop().await.unwrap();
    let stored = world.stored().await;
    assert_eq!((stored.len(), stored.duplicated()), (10, 0));
}
