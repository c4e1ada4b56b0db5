//! P9: a full disk of Postgres is named while the relay has nothing to write: services cannot enqueue.

use std::{fs::File, io::Write, os::unix::fs::chown};

use sqlx::{AssertSqlSafe, PgPool, Postgres};
use tidings::{
    Outbox, Worker,
    doctor::Doctor,
    judge::{Health, judge},
};
use tidings_test_servers::{NatsServer, PostgresServer};

use super::endpoints;
use crate::support::{SmallDisk, User, World, eventually};

/// The user that the servers of tests run as when the tests are root, who alone can mount a disk.
const NOBODY: u32 = 65_534;

async fn execute(pool: &PgPool, statement: String) {
    let statement = sqlx::raw_sql(AssertSqlSafe(statement));
    statement.execute(pool).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_of_postgres_is_named_though_nothing_waits() {
    let Some(disk) = SmallDisk::mount(1) else {
        return;
    };
    chown(disk.path(), Some(NOBODY), Some(NOBODY)).unwrap();
    let options = PostgresServer::options().fsync(false);
    let server = options.start().await.unwrap();
    let pool = PgPool::connect(&server.url()).await.unwrap();
    let outbox = Outbox::new(pool.clone());
    outbox.migrate().await.unwrap();
    // The temporary files of this server are on the small disk.
    let path = disk.path().display();
    execute(&pool, format!("create tablespace small location '{path}'")).await;
    execute(
        &pool,
        "alter system set temp_tablespaces = 'small'".to_owned(),
    )
    .await;
    execute(&pool, "select pg_reload_conf()".to_owned()).await;
    let nats = NatsServer::start().await.unwrap();
    let world = World::<Postgres>::with((outbox, ()), nats).await;
    let (ops, endpoints) = endpoints();
    let worker = Worker::new(world.bus.clone(), ()).with(ops);
    let running = world.run(worker.with(world.new_relay()));
    endpoints.says("/readyz", 200, "relay tidings: idle").await;

    let filler = disk.path().join("filler");
    let mut file = File::create(&filler).unwrap();
    while file.write_all(&[0; 4096]).is_ok() {}
    eventually("the full disk is found", || async {
        let relay = endpoints.component("relay").await;
        relay["kind"] == "database-full"
    })
    .await;
    let relay = endpoints.component("relay").await;
    assert_eq!(relay["status"], "degraded", "{relay}");
    assert_eq!(
        relay["ready"], true,
        "what is in the log is relayed: {relay}"
    );
    let cause = relay["cause"].as_str().unwrap();
    assert!(cause.contains("no event can be enqueued"), "{relay}");
    let doctor = Doctor::new(&world.bus).outbox(&world.outbox);
    eventually("the doctor says so", || async {
        let verdict = judge(&doctor.look().await);
        let found = verdict.findings.iter();
        let found = found.filter(|one| one.id == "outbox/database-full/tidings");
        found.filter(|one| one.status >= Health::Degraded).count() == 1
    })
    .await;

    std::fs::remove_file(&filler).unwrap();
    drop(file);
    eventually("it is over", || async {
        endpoints.health().await["status"] == "ok"
    })
    .await;
    world.commit_all([&User::new("ada")]).await;
    world.backlog_is_gone().await;
    running.stop().await.unwrap();
}
