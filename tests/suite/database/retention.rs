//! Storage stays bounded: old rows are removed whatever other transactions do, the retention can be changed, and a
//! transaction that blocks the removal is named.

use std::time::Duration;

use sqlx::{Connection, PgConnection, PgPool, Postgres, Sqlite};

use crate::support::{Database, User, World, eventually, log};

const SLOT: &str = "date_part('epoch', now())::bigint / 10800";

async fn publish<DB: Database>(world: &World<DB>, events: usize) {
    let mut tx = world.outbox.begin().await.unwrap();
    for n in 0..events {
        tx.publish(&User::new(&n.to_string())).unwrap();
    }
    tx.commit().await.unwrap();
}

async fn rows<DB: Database>(world: &World<DB>) -> i64 {
    let rows = format!("select count(*) from {}", DB::table("outbox"));
    DB::number(world.outbox.pool(), &rows).await
}

/// Inserts five rows of this age into the slot that is this far ahead of the current one.
async fn old_rows(world: &World<Postgres>, hours: u32, ahead: u32) {
    let old = format!(
        "insert into tidings.outbox (event, name, payload, created_at, slot)
         select gen_random_uuid(), 'user.created', '\\x7b7d', now() - interval '{hours} hours',
                ({SLOT} + {ahead}) % 8 from generate_series(1, 5)"
    );
    Postgres::execute(world.outbox.pool(), &old).await;
}

/// The number of dead rows of a table, counted by reading all of it. Uses a connection that has changed nothing:
/// analyze subtracts changes of its own connection that are not in the statistics yet.
pub async fn dead_rows(pool: &PgPool, table: &str) -> i64 {
    let mut fresh = PgConnection::connect_with(&pool.connect_options())
        .await
        .unwrap();
    let analyze = sqlx::AssertSqlSafe(format!("analyze {table}"));
    sqlx::raw_sql(analyze).execute(&mut fresh).await.unwrap();
    let dead = format!(
        "select sum(pg_stat_get_dead_tuples(relid))::bigint
         from (select relid from pg_partition_tree('{table}') where isleaf
               union select '{table}'::regclass) as all_of_it"
    );
    sqlx::query_scalar(sqlx::AssertSqlSafe(dead))
        .fetch_one(&mut fresh)
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_holder_delays_only_its_freeing_and_is_named() {
    log::listen();
    let world = World::<Postgres>::start().await;
    old_rows(&world, 20, 3).await;
    old_rows(&world, 20, 4).await;
    let slot = |ahead: u32| format!("select 'tidings.outbox_' || ({SLOT} + {ahead}) % 8");
    let read = Postgres::word(world.outbox.pool(), &slot(3)).await;
    let written = Postgres::word(world.outbox.pool(), &slot(4)).await;
    let name = "set application_name = 'report'; begin; select count(*) from ";
    let mut reader = world.outbox.pool().acquire().await.unwrap();
    let pid: i32 = sqlx::query_scalar("select pg_backend_pid()")
        .fetch_one(&mut *reader)
        .await
        .unwrap();
    let hold = |sql: String| sqlx::raw_sql(sqlx::AssertSqlSafe(sql));
    hold(format!("{name}{read}"))
        .execute(&mut *reader)
        .await
        .unwrap();
    let mut writer = world.outbox.pool().acquire().await.unwrap();
    let write = format!(
        "begin; insert into tidings.outbox (event, name, payload, slot)
         values (gen_random_uuid(), 'user.created', '\\x7b7d', ({SLOT} + 4) % 8)"
    );
    hold(write).execute(&mut *writer).await.unwrap();

    let relay = world.relay();
    publish(&world, 10).await;
    world.backlog_is_gone().await;
    eventually("the status names them", || async {
        world.outbox.status().await.unwrap().held_slots.len() == 2
    })
    .await;
    eventually("the log names them", || async {
        log::said("outbox slot held").len() >= 2
    })
    .await;
    let said = log::said(&format!("pid={pid}"));
    assert!(
        said.iter()
            .any(|line| line.contains("report") && line.contains(&read)),
        "{said:?}"
    );
    assert_eq!(rows(&world).await, 20);
    let held = world.outbox.status().await.unwrap().held_slots;
    let reading = held.iter().find(|held| held.pid == Some(pid)).unwrap();
    assert_eq!(
        (&reading.slot, reading.application.as_deref()),
        (&read, Some("report"))
    );
    assert_eq!(reading.state.as_deref(), Some("idle in transaction"));
    assert!(reading.age_seconds.unwrap() >= 1.0);
    assert!(held.iter().any(|held| held.slot == written));
    assert_eq!(world.outbox.status().await.unwrap().lease.epoch, 1);
    relay.stop().await.unwrap();

    hold("rollback".into()).execute(&mut *reader).await.unwrap();
    hold("rollback".into()).execute(&mut *writer).await.unwrap();
    let relay = world.relay();
    eventually("both slots are freed", || async {
        rows(&world).await == 10
    })
    .await;
    relay.stop().await.unwrap();
    assert_eq!(world.outbox.status().await.unwrap().held_slots, []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retention_is_raised_and_lowered_with_rows_in_all_slots() {
    let world = World::<Postgres>::start().await;
    for ahead in 0..8 {
        old_rows(&world, 40, ahead).await;
    }
    let slots = "select slot_seconds from tidings.relay";
    let slots = async || {
        let as_number = format!("select ({slots})::bigint");
        Postgres::number(world.outbox.pool(), &as_number).await
    };
    let retained = |hours: u64| {
        world
            .new_relay()
            .retention(Duration::from_secs(hours * 3600))
    };

    let relay = world.run_relay(retained(48));
    eventually("the slots are longer", || async { slots().await == 28_800 }).await;
    publish(&world, 5).await;
    world.backlog_is_gone().await;
    relay.stop().await.unwrap();
    assert_eq!(rows(&world).await, 45, "nothing is as old as that");
    let expected =
        "select count(*) from tidings.outbox where created_at > now() - interval '1 hour'
        and slot = (date_part('epoch', created_at)::bigint / 28800) % 8";
    assert_eq!(Postgres::number(world.outbox.pool(), expected).await, 5);

    let relay = world.run_relay(retained(1));
    eventually("the slots are shorter", || async { slots().await == 600 }).await;
    eventually("the old ones are freed", || async {
        rows(&world).await <= 20
    })
    .await;
    publish(&world, 5).await;
    world.backlog_is_gone().await;
    relay.stop().await.unwrap();
    let young = "select count(*) from tidings.outbox where created_at > now() - interval '1 hour'";
    assert_eq!(Postgres::number(world.outbox.pool(), young).await, 10);
    assert_eq!(world.stored().await.len(), 50);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pinned_horizon_leaves_no_dead_rows_in_the_log() {
    let world = World::<Postgres>::start().await;
    let mut pinning = world.outbox.pool().begin().await.unwrap();
    let pin = "set transaction isolation level repeatable read; select count(*) from counter";
    sqlx::raw_sql(pin).execute(&mut *pinning).await.unwrap();
    for sql in [
        "create table control as select 1 as n",
        "update control set n = 2",
    ] {
        Postgres::execute(world.outbox.pool(), sql).await;
    }
    let seen = dead_rows(world.outbox.pool(), "control").await;
    assert!(seen >= 1, "it can be seen");
    old_rows(&world, 20, 3).await;

    let relay = world.relay();
    for _ in 0..5 {
        publish(&world, 500).await;
    }
    world.backlog_is_gone().await;
    eventually("the old ones are freed", || async {
        rows(&world).await == 2500
    })
    .await;
    relay.stop().await.unwrap();

    assert_eq!(dead_rows(world.outbox.pool(), "tidings.outbox").await, 0);
    pinning.rollback().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_loaded_file_stops_growing_and_its_retention_can_change() {
    let world = World::<Sqlite>::start().await;
    let relay = world.relay();
    publish(&world, 500).await;
    world.backlog_is_gone().await;
    relay.stop().await.unwrap();
    assert_eq!(rows(&world).await, 500, "they are young");

    let relay = world.run_relay(world.new_relay().retention(Duration::ZERO));
    eventually("the first are freed", || async { rows(&world).await == 0 }).await;
    relay.stop().await.unwrap();
    let pages = "select page_count from pragma_page_count()";
    let pages = async || Sqlite::number(world.outbox.pool(), pages).await;
    let mut most = 0;
    for round in 0..6 {
        let relay = world.run_relay(world.new_relay().retention(Duration::ZERO));
        publish(&world, 500).await;
        eventually("they are freed", || async { rows(&world).await == 0 }).await;
        relay.stop().await.unwrap();
        if round < 2 {
            most = pages().await;
        }
    }
    assert!(
        pages().await <= most + most / 10,
        "{most} pages were enough"
    );
}
