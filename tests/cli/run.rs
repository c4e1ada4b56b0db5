//! `tidings run`: the reference worker, from an empty world to its end.

use sqlx::{Connection, PgConnection, Row, SqliteConnection};

use crate::support::{Store, World, eventually, user};

const USER: &str = "0190e6e4-7a3e-7c3e-9d3e-3b1f0d8a6a11";

both!(
    it_sets_itself_up_keeps_the_directory_and_ends_cleanly,
    without_its_tables_it_names_the_cure
);

async fn it_sets_itself_up_keeps_the_directory_and_ends_cleanly(world: World) {
    let worker = world.spawn(&["run", "--setup"]);
    eventually("the worker's lease", || async {
        let status = world.run(&["outbox", "status", "--json"]).await;
        status.code == Some(0) && status.stdout.contains("\"owner\":\"")
    })
    .await;

    world
        .ok(&[
            "publish",
            "user.created",
            "--key",
            USER,
            "--data",
            &user(USER, "ada@example.org"),
        ])
        .await;
    known_as(&world, Some("ada@example.org")).await;
    let changed = format!(
        r#"{{"id":"{USER}","old_email":"ada@example.org","new_email":"ada@example.com","changed_at":"2026-11-21T09:31:00Z"}}"#
    );
    world
        .ok(&[
            "publish",
            "user.email_changed",
            "--key",
            USER,
            "--data",
            &changed,
        ])
        .await;
    known_as(&world, Some("ada@example.com")).await;
    let deleted = format!(r#"{{"id":"{USER}","deleted_at":"2026-11-21T09:32:00Z"}}"#);
    world
        .ok(&["publish", "user.deleted", "--key", USER, "--data", &deleted])
        .await;
    known_as(&world, None).await;
    // The creation again, as a new event: it tells what is over.
    world
        .ok(&[
            "publish",
            "user.created",
            "--key",
            USER,
            "--data",
            &user(USER, "ada@example.org"),
        ])
        .await;
    world.backlog_is(0).await;
    everything_is_handled(&world, "user-directory").await;

    assert_eq!(directory(&world).await, Some((None, true)));
    assert_eq!(worker.signalled("TERM").await, Some(0));
    assert_eq!(
        world.status().await["lease"]["owner"],
        serde_json::Value::Null
    );
}

async fn without_its_tables_it_names_the_cure(world: World) {
    world.ok(&["migrate"]).await;
    let said = world.refused(1, &["run"]).await;
    assert!(said.contains("user_directory"), "{said}");
    assert!(said.contains("try: tidings run --setup"), "{said}");
}

/// Waits until a subscriber has acknowledged all that the stream has for it.
async fn everything_is_handled(world: &World, subscriber: &str) {
    let client = async_nats::connect(world.nats.url()).await.unwrap();
    let context = async_nats::jetstream::new(client);
    let stream = context.get_stream("EVENTS").await.unwrap();
    eventually("everything is handled", || async {
        let info = stream.consumer_info(subscriber).await.unwrap();
        info.num_pending == 0 && info.num_ack_pending == 0
    })
    .await;
}

/// Waits until the directory has this address for the user, or none because the user is gone.
async fn known_as(world: &World, email: Option<&str>) {
    let what = format!("the directory has {email:?}");
    eventually(&what, || async {
        directory(world).await == Some((email.map(str::to_owned), email.is_none()))
    })
    .await;
}

/// The only user's address, and whether the user is gone.
async fn directory(world: &World) -> Option<(Option<String>, bool)> {
    const LOOK: &str = "select email, deleted_at is not null from user_directory";
    match world.store {
        Store::Postgres => {
            let mut connection = PgConnection::connect(&world.database_url).await.unwrap();
            let row = sqlx::query(LOOK)
                .fetch_optional(&mut connection)
                .await
                .unwrap();
            row.map(|row| (row.get(0), row.get(1)))
        }
        Store::Sqlite => {
            let mut connection = SqliteConnection::connect(&world.database_url)
                .await
                .unwrap();
            let row = sqlx::query(LOOK)
                .fetch_optional(&mut connection)
                .await
                .unwrap();
            row.map(|row| (row.get(0), row.get(1)))
        }
    }
}
