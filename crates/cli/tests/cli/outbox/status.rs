//! `tidings outbox status`: its exit code reports issues, and a relay that cannot write is not reported as dead.

use sqlx::{Connection, PgConnection, SqliteConnection};

use crate::support::{Store, World, eventually};

both!(
    a_backlog_without_a_relay_is_stuck,
    a_parked_event_is_stuck,
    a_killed_relay_is_an_issue_though_no_event_waits,
    the_status_of_a_relay_that_cannot_write_comes_over_nats,
    tables_of_another_version_are_refused,
);

async fn enqueue(world: &World, key: &str) {
    let data = format!(r#"{{"id":"{key}","name":"x"}}"#);
    world
        .ok(&["publish", "user.renamed", "--key", key, "--data", &data])
        .await;
}

async fn a_backlog_without_a_relay_is_stuck(world: World) {
    let world = world.set_up().await;
    world.ok(&["outbox", "status"]).await;
    enqueue(&world, "a").await;
    let ended = world.run(&["outbox", "status"]).await;
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(
        ended
            .stderr
            .contains("no relay has the lease, and 1 event wait"),
        "{ended:?}"
    );
    assert!(ended.stderr.contains("try: start a relay"), "{ended:?}");
    let status = world.status().await;
    assert_eq!(status["stuck"][0]["place"], "relay", "{status}");
    let relay = world.spawn(&["relay"]);
    eventually("it is relayed", || async {
        world.run(&["outbox", "status"]).await.code == Some(0)
    })
    .await;
    assert_eq!(
        world.status().await["stuck"].as_array().map(Vec::len),
        Some(0)
    );
    assert_eq!(relay.signalled("TERM").await, Some(0));
    // Nothing waits: no relay is needed.
    world.ok(&["outbox", "status"]).await;
}

async fn a_parked_event_is_stuck(world: World) {
    let world = world.set_up().await;
    let relay = world.spawn(&["relay"]);
    world.inserts_what_is_no_event().await;
    eventually("it is parked", || async {
        world.status().await["parked"] == 1
    })
    .await;
    let ended = world.run(&["outbox", "status"]).await;
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(
        ended.stdout.contains("1 event, which waits for a decision"),
        "{ended:?}"
    );
    assert!(
        ended.stderr.contains("try: tidings outbox parked"),
        "{ended:?}"
    );
    world.ok(&["outbox", "discard", "--all", "--yes"]).await;
    world.ok(&["outbox", "status"]).await;
    assert_eq!(relay.signalled("TERM").await, Some(0));
}

async fn a_killed_relay_is_an_issue_though_no_event_waits(world: World) {
    let world = world.set_up().await;
    let relay = world.spawn(&["relay"]);
    enqueue(&world, "a").await;
    world.backlog_is(0).await;
    world.ok(&["outbox", "status"]).await;
    relay.signalled("KILL").await;
    // When the lease has expired, the doctor finds it, and the status ends as it does.
    eventually("the status says it", || async {
        world.run(&["outbox", "status"]).await.code == Some(1)
    })
    .await;
    let ended = world.run(&["outbox", "status"]).await;
    assert!(
        ended.stderr.contains("has stopped renewing its lease"),
        "{ended:?}"
    );
    assert!(ended.stderr.contains("try: start a relay"), "{ended:?}");
    let finding = &world.status().await["findings"][0];
    assert_eq!(finding["id"], "relay/owner-silent/tidings", "{finding}");
    let doctor = world.run(&["doctor", "outbox"]).await;
    assert_eq!(doctor.code, Some(1), "{doctor:?}");
}

async fn the_status_of_a_relay_that_cannot_write_comes_over_nats(world: World) {
    let world = world.set_up().await;
    let relay = world.spawn(&["relay"]);
    enqueue(&world, "a").await;
    world.backlog_is(0).await;
    // On Postgres the right is revoked, on SQLite the write lock of the file is held.
    let mut holder = None;
    match world.store {
        Store::Postgres => {
            let revoke = "
                do $$ begin execute format('alter database %I set default_transaction_read_only = on',
                    current_database()); end $$;
                select pg_terminate_backend(pid) from pg_stat_activity
                    where datname = current_database() and pid <> pg_backend_pid()";
            let mut connection = PgConnection::connect(&world.database_url).await.unwrap();
            sqlx::raw_sql(revoke)
                .execute(&mut connection)
                .await
                .unwrap();
        }
        Store::Sqlite => {
            let mut connection = SqliteConnection::connect(&world.database_url)
                .await
                .unwrap();
            sqlx::raw_sql("begin immediate")
                .execute(&mut connection)
                .await
                .unwrap();
            holder = Some(connection);
        }
    }
    eventually("the status asks the relay", || async {
        let ended = world.run(&["outbox", "status"]).await;
        ended
            .stdout
            .contains("runs and answers, but does not renew the lease")
            && (ended.stdout.contains("read-only") || ended.stdout.contains("write lock"))
            && ended.code == Some(1)
    })
    .await;
    let status = world.status().await;
    assert!(
        status["relays"][0]["issues"][0]["cure"].is_string(),
        "{status}"
    );
    drop(holder);
    assert_eq!(relay.signalled("TERM").await, Some(0));
}

async fn tables_of_another_version_are_refused(world: World) {
    let world = world.set_up().await;
    world
        .execute("insert into tidings_migration (version, name) values (99, 'later')")
        .await;
    for command in [
        "outbox status",
        "outbox parked",
        "outbox delayed",
        "outbox republish --from 1h",
        "verify",
        "relay",
        "migrate",
    ] {
        let command: Vec<&str> = command.split_whitespace().collect();
        let said = world.refused(1, &command).await;
        assert!(
            said.contains("version 99") && said.contains("newer"),
            "{command:?}: {said}"
        );
    }
    // A trace names the source that was not searched.
    let traced = world.run(&["trace", "--key", "a"]).await;
    assert!(traced.stdout.contains("version 99"), "{traced:?}");
    // Older ones there are none yet: the library has a test with a later migration.
}
