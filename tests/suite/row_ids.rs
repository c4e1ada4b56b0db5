//! P2: an id that a producer has written by hand never makes a row that the relay passes over.

use sqlx::Sqlite;

use crate::support::{Database, User, World, eventually};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite_refuses_an_id_that_the_relay_has_passed() {
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

    for id in ["2", "0", "-1", "4611686018427387904", "9223372036854775807"] {
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

    let later = "insert into tidings_outbox (id, event, name, payload)
        values (1000, randomblob(16), 'user.created', x'7b7d'), (null, randomblob(16), 'user.created', x'7b7d')";
    Sqlite::execute(world.outbox.pool(), later).await;
    eventually("ids that the relay has not passed are relayed", || async {
        world.stored().await.len() == 5
    })
    .await;
    relay.stop().await.unwrap();
}
