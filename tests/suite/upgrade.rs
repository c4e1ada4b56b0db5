//! An outbox of the first migration, with rows, writers and a relay of that version, is upgraded to the second one.

use sqlx::{Connection, PgConnection, Postgres, Row, Sqlite};
use tidings::{Outbox, Relay};

use crate::support::{Database, World, eventually};

const FIRST: &str = include_str!("../../migrations/postgres/0001_outbox.sql");
const FIRST_ON_SQLITE: &str = include_str!("../../migrations/sqlite/0001_outbox.sql");

async fn first_version() -> (Outbox<Postgres>, ()) {
    let (outbox, home) = Postgres::open().await;
    let records = "create schema tidings;
        create table tidings.migration (version integer primary key, name text not null,
            applied_at timestamptz not null default clock_timestamp());
        insert into tidings.migration (version, name) values (1, '0001_outbox')";
    Postgres::execute(outbox.pool(), records).await;
    Postgres::execute(outbox.pool(), FIRST).await;
    (outbox, home)
}

/// Prepared objects of the old version continue to work: its events, its calls of the function, its checkpoints.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outbox_is_upgraded_under_a_relay_and_writers_of_the_first_version() {
    let (outbox, home) = first_version().await;
    let before = "insert into tidings.outbox (event, name, key, payload)
            values (gen_random_uuid(), 'user.created', 'a', '{}'), (gen_random_uuid(), 'user.created', 'p', '{}');
        insert into tidings.parked (id, at, event, name, version, key, headers, payload, error)
            select nextval('tidings.outbox_id') - 1000, now(), gen_random_uuid(), 'user.created', 1, 'p', '{}', '{}', 'too large';
        update tidings.relay set owner = 'old', epoch = 7, lease_until = now() + interval '2 seconds',
            checkpointed_at = now()";
    Postgres::execute(outbox.pool(), before).await;
    let mut old = PgConnection::connect_with(&outbox.pool().connect_options())
        .await
        .unwrap();
    let enqueue = "select tidings.enqueue('user.created', 1, 'a', '{}', '{}')::text";
    let checkpoint = "update tidings.relay set checkpointed_at = clock_timestamp(),
        lease_until = clock_timestamp() + interval '1 second'
        where owner = 'old' and epoch = 7 returning epoch";
    for sql in [enqueue, checkpoint] {
        sqlx::query(sql).fetch_one(&mut old).await.unwrap();
    }

    let world = World::of(outbox, std::sync::Arc::new(home)).await;

    sqlx::query(enqueue).fetch_one(&mut old).await.unwrap();
    let relay = world.relay();
    let renewed = sqlx::query(checkpoint).fetch_optional(&mut old).await;
    assert_eq!(renewed.unwrap().unwrap().get::<i64, _>(0), 7);
    eventually(
        "the new one has taken over, and all is stored or parked",
        || async { world.stored().await.len() == 3 && world.parked().await == 2 },
    )
    .await;
    relay.stop().await.unwrap();
    let status = world.outbox.status().await.unwrap();
    assert_eq!(
        (
            status.backlog - status.returning,
            status.refuses,
            status.lease.epoch
        ),
        (0, None, 8)
    );
    let zombie = sqlx::query(checkpoint).fetch_optional(&mut old).await;
    assert!(zombie.unwrap().is_none(), "the old one has lost its lease");
}

/// Each role that had the right to the function has it on its successor, and no other role has.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_may_call_the_function_may_after_an_upgrade_and_nobody_else() {
    let (outbox, _home) = first_version().await;
    let name = format!("Producer {}", uuid::Uuid::now_v7());
    let given = format!(
        "create role \"{name}\"; create role \"{name} else\";
        revoke execute on function tidings.enqueue from public;
        grant execute on function tidings.enqueue to \"{name}\" with grant option"
    );
    Postgres::execute(outbox.pool(), &given).await;

    outbox.migrate().await.unwrap();

    for (role, may) in [
        (name.clone(), "true/true"),
        (format!("{name} else"), "false/false"),
    ] {
        let asked = "has_function_privilege('ROLE', oid, 'execute')";
        let asked = format!(
            "select {asked} || '/' || {} from pg_proc where oid = 'tidings.enqueue'::regproc",
            asked.replace("'execute'", "'execute with grant option'")
        );
        let found = Postgres::word(outbox.pool(), &asked.replace("ROLE", &role)).await;
        assert_eq!(found, may, "{role}");
    }
    let clean = format!("drop owned by \"{name}\"; drop role \"{name}\", \"{name} else\"");
    Postgres::execute(outbox.pool(), &clean).await;
}

/// The second migration must not make the relay's row younger than the rows that were written since the restore: a
/// rebase recognises those rows by its age.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restored_outbox_that_is_written_to_and_upgraded_loses_nothing_in_a_rebase() {
    let (outbox, home) = first_version().await;
    restored(&outbox).await;
    let enqueue = "select tidings.enqueue('user.created', 1, 'a', '{}')";
    Postgres::execute(outbox.pool(), enqueue).await;

    let world = World::of(outbox, std::sync::Arc::new(home)).await;

    let rebased = world.outbox.rebase().await.unwrap().unwrap();
    assert_eq!((rebased.published, rebased.to_publish), (0, 1));
}

/// A relay that fails before it knows its database must not record the reason in a copy.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restored_outbox_whose_relay_had_trouble_loses_nothing_in_a_rebase() {
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
    let rebased = world.outbox.rebase().await.unwrap().unwrap();
    assert_eq!((rebased.published, rebased.to_publish), (0, 1));
}

/// Changes the relay's row as if it came from a server with many more transactions.
async fn restored(outbox: &Outbox<Postgres>) {
    let foreign = "update tidings.relay set system = '1', cursor = '900000000:900000000:'";
    Postgres::execute(outbox.pool(), foreign).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outbox_on_sqlite_is_upgraded_with_what_is_in_it() {
    let (outbox, home) = Sqlite::open().await;
    let records = "create table tidings_migration (version integer primary key, name text not null,
            applied_at integer not null default 0);
        insert into tidings_migration (version, name) values (1, '0001_outbox')";
    let before = "insert into tidings_outbox (event, name, key, payload)
            values (randomblob(16), 'user.created', 'p', x'7b7d'), (randomblob(16), 'user.created', 'a', x'7b7d'),
                   (randomblob(16), 'user.created', 'p', x'7b7d');
        insert into tidings_parked (id, at, event, name, version, key, headers, payload, error)
            select id, at, event, name, version, key, headers, payload, 'too large' from tidings_outbox where id = 1;
        update tidings_relay set cursor = 1";
    for sql in [records, FIRST_ON_SQLITE, before] {
        Sqlite::execute(outbox.pool(), sql).await;
    }

    let world = World::of(outbox, std::sync::Arc::new(home)).await;

    let relay = world.relay();
    eventually("what follows is parked, the other stored", || async {
        world.stored().await.len() == 1 && world.parked().await == 2
    })
    .await;
    relay.stop().await.unwrap();
}
