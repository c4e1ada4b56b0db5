//! P2: when a producer writes an id by hand, the relay never skips a row.

use sqlx::{Postgres, Sqlite};

use crate::support::{Database, User, World, eventually};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite_refuses_a_row_id_that_the_relay_has_passed() {
    let world = World::<Sqlite>::start().await;
    let relay = world.relay();
    for user in ["a", "b", "c"] {
        let mut tx = world.outbox.begin().await.unwrap();
        tx.publish(&User::new(user)).unwrap();
        tx.commit().await.unwrap();
    }
    eventually("the relay has written down where it is", || async {
        Sqlite::number(world.outbox.pool(), "select cursor from tidings_relay").await == 3
    })
    .await;
    Sqlite::execute(
        world.outbox.pool(),
        "delete from tidings_outbox where id = 2",
    )
    .await;

    for id in [
        "2",
        "0",
        "-1",
        "1000000004",
        "4611686018427387903",
        "4611686018427387904",
        "9223372036854775807",
    ] {
        let insert = format!(
            "insert into tidings_outbox (id, event, name, payload)
             values ({id}, randomblob(16), 'user.created', x'7b7d')"
        );
        let refused = sqlx::query(sqlx::AssertSqlSafe(insert))
            .execute(world.outbox.pool())
            .await;
        let error = refused.expect_err(id).to_string();
        assert!(
            error.contains("the id of a row is given by the outbox"),
            "{id}: {error}"
        );
    }

    // The same when the counter of SQLite was set back by hand.
    let set_back = "update sqlite_sequence set seq = 0 where name = 'tidings_outbox'";
    Sqlite::execute(world.outbox.pool(), set_back).await;
    let behind = "insert into tidings_outbox (id, event, name, payload)
        values (2, randomblob(16), 'user.created', x'7b7d')";
    let refused = sqlx::query(behind).execute(world.outbox.pool()).await;
    let error = refused.expect_err("2").to_string();
    assert!(error.contains("is given by the outbox"), "{error}");

    let later = "insert into tidings_outbox (id, event, name, payload)
        values (1000, randomblob(16), 'user.created', x'7b7d'), (null, randomblob(16), 'user.created', x'7b7d')";
    Sqlite::execute(world.outbox.pool(), later).await;
    eventually("ids that the relay has not passed are relayed", || async {
        world.stored().await.len() == 5
    })
    .await;
    relay.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_relays_any_row_id_that_an_event_can_have() {
    let world = World::<Postgres>::start().await;
    let relay = world.relay();
    let insert = |id: &str| {
        format!(
            "insert into tidings.outbox (id, event, name, payload)
             values ({id}, gen_random_uuid(), 'user.created', '{{}}')"
        )
    };
    Postgres::execute(world.outbox.pool(), &insert("1000")).await;
    eventually("the first is stored", || async {
        world.stored().await.len() == 1
    })
    .await;

    for id in ["0", "-1", "4611686018427387904"] {
        let refused = sqlx::query(sqlx::AssertSqlSafe(insert(id)))
            .execute(world.outbox.pool())
            .await;
        let error = refused.expect_err(id);
        let error = error.as_database_error().unwrap();
        assert_eq!(error.constraint(), Some("outbox_is_event"), "{id}");
        let message = error.message();
        assert!(message.contains("cannot be an event"), "{id}: {message}");
    }

    Postgres::execute(world.outbox.pool(), &insert("2")).await;
    eventually("a lower one, too", || async {
        world.stored().await.len() == 2
    })
    .await;
    relay.stop().await.unwrap();
}

/// After a row at the very end of the range, SQLite would accept no row any more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite_refuses_the_last_row_id_and_takes_the_next_event() {
    let world = World::<Sqlite>::start().await;
    let in_outbox = "insert into tidings_outbox (id, event, name, payload)
        values (4611686018427387903, randomblob(16), 'user.created', x'7b7d')";
    let in_delayed = "insert into tidings_delayed (position, event, due, name, payload)
        values (9223372036854775807, randomblob(16), 1, 'user.created', x'7b7d')";
    for insert in [in_outbox, in_delayed] {
        let refused = sqlx::query(insert).execute(world.outbox.pool()).await;
        let error = refused.expect_err(insert).to_string();
        assert!(error.contains("is given by the outbox"), "{error}");
    }
    let mut tx = world.outbox.begin().await.unwrap();
    tx.publish(&User::new("now")).unwrap();
    tx.publish_at(&User::new("later"), chrono::Utc::now())
        .unwrap();
    tx.commit().await.unwrap();
    let relay = world.relay();
    eventually("both are relayed", || async {
        world.stored().await.len() == 2
    })
    .await;
    relay.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_relays_the_last_row_id_and_later_events() {
    let world = World::<Postgres>::start().await;
    let pool = world.outbox.pool();
    let relay = world.relay();
    let far = "insert into tidings.outbox (id, event, name, payload)
        values (4611686018427387903, gen_random_uuid(), 'user.created', '{}')";
    Postgres::execute(pool, far).await;
    eventually("it is stored", || async { world.stored().await.len() == 1 }).await;
    for user in ["a", "b"] {
        let mut tx = world.outbox.begin().await.unwrap();
        tx.publish(&User::new(user)).unwrap();
        tx.commit().await.unwrap();
    }
    eventually("so are the others", || async {
        world.stored().await.len() == 3
    })
    .await;
    // Above the floor, new rows are found in the order of ids, in steps; below it, each page sorts all of them.
    eventually("the floor is where the sequence is", || async {
        Postgres::number(pool, "select id_floor from tidings.relay").await == 2
    })
    .await;
    relay.stop().await.unwrap();
    let last = world.outbox.status().await.unwrap().last_batch.unwrap();
    assert_eq!(last.last_sequence, 3, "what came last");

    // An adoption does not mistake the end of the range for the end of the sequence either.
    Postgres::execute(pool, "update tidings.relay set system = '1'").await;
    world.outbox.adopt().await.unwrap().unwrap();
    let mut tx = world.outbox.begin().await.unwrap();
    tx.publish(&User::new("c")).unwrap();
    tx.commit().await.unwrap();
    let backlog = world.outbox.status().await.unwrap().backlog;
    assert!(backlog > 0, "{backlog}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_refuses_a_row_with_the_transaction_of_another() {
    let world = World::<Postgres>::start().await;
    let pool = world.outbox.pool();
    let before = "select (pg_current_xact_id()::text::bigint - 1)::text";
    let before = Postgres::word(pool, before).await;
    for xid in ["0", "3", "100000000", "18446744073709551615", &before] {
        let insert = format!(
            "insert into tidings.outbox (xid, event, name, payload)
             values ('{xid}', gen_random_uuid(), 'user.created', '{{}}')"
        );
        let refused = sqlx::query(sqlx::AssertSqlSafe(insert)).execute(pool).await;
        let error = refused.expect_err(xid).to_string();
        assert!(error.contains("leave xid out"), "{xid}: {error}");
    }
    // The row's own transaction is accepted, in a savepoint too.
    let own = "begin; savepoint a;
        insert into tidings.outbox (xid, event, name, payload)
            values (pg_current_xact_id(), gen_random_uuid(), 'user.created', '{}');
        release savepoint a; commit";
    Postgres::execute(pool, own).await;
    let relay = world.relay();
    eventually("it is relayed", || async {
        world.stored().await.len() == 1
    })
    .await;
    eventually("nothing is left to relay", || async {
        world.outbox.status().await.unwrap().backlog == 0
    })
    .await;
    relay.stop().await.unwrap();
}
