//! P9: tables of another version are reported as such by every running component, also when a table or column is
//! missing.

use std::time::Duration;

use tidings::{
    Context, EventId, EventPublisher, EventSubscriber, Failure, InboxTransaction, Worker,
    outbox::{OutboxError, ParkedSelection, RelayInstance},
};

use crate::{
    both,
    support::{Database, User, World, eventually, log},
};

both!(
    a_running_worker_waits_while_the_tables_are_newer,
    a_running_relay_refuses_tables_that_became_newer,
    a_missing_column_of_another_version_is_a_version_error,
);

async fn effect<DB: Database>(
    user: User,
    mut tx: InboxTransaction<DB>,
    _: Context<()>,
) -> Result<(), Failure> {
    DB::count_up(&mut tx, &user.id).await?;
    Ok(())
}

/// Records that another migration was run.
async fn recorded<DB: Database>(world: &World<DB>, version: u32) {
    let table = DB::table("migration");
    let record = format!("insert into {table} (version, name) values ({version}, 'later')");
    DB::execute(world.outbox.pool(), &record).await;
}

async fn removed<DB: Database>(world: &World<DB>, version: u32) {
    let table = DB::table("migration");
    let remove = format!("delete from {table} where version >= {version}");
    DB::execute(world.outbox.pool(), &remove).await;
}

async fn handled<DB: Database>(world: &World<DB>) -> i64 {
    DB::number(world.outbox.pool(), "select count(*) from counter").await
}

/// A version number that no other test uses.
fn later() -> u32 {
    let random = u64::from_be_bytes(*EventId::now().as_uuid().as_bytes().last_chunk().unwrap());
    1000 + u32::try_from(random % 60_000).unwrap()
}

async fn a_running_worker_waits_while_the_tables_are_newer<DB: Database>(world: World<DB>) {
    log::listen();
    let subscriber =
        EventSubscriber::durable("effects").on_transactional(&world.outbox, effect::<DB>);
    let running = world.run(Worker::new(world.bus.clone(), ()).subscribe(subscriber));
    let publisher = EventPublisher::new(&world.bus);
    let mut published = 0;
    let mut publish = async || {
        let user = User::new(&format!("user-{published}"));
        publisher.publish(&user).await.unwrap();
        published += 1;
        published
    };
    publish().await;
    eventually("it works", || async { handled(&world).await == 1 }).await;

    let later = later();
    recorded(&world, later).await;
    let sentence = format!("version {later}");
    let said = || {
        let lines = log::said(&sentence);
        lines.iter().any(|line| line.contains("newer"))
    };
    let mut all = 1;
    while !said() {
        all = publish().await;
        assert!(all < 600, "it is never said");
        // real time: the worker checks every ten seconds, at an event
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let before = handled(&world).await;
    for _ in 0..5 {
        all = publish().await;
    }
    assert_eq!(handled(&world).await, before, "newer tables are written to");

    removed(&world, later).await;
    eventually("all are handled", || async { handled(&world).await == all }).await;
    assert_eq!(world.dead_letters().await.len(), 0);
    running.stop().await.unwrap();
}

async fn a_running_relay_refuses_tables_that_became_newer<DB: Database>(world: World<DB>) {
    let relay = world.relay();
    eventually("it relays", || async {
        world.outbox.status().await.unwrap().lease.owner.is_some()
    })
    .await;
    let later = later();
    recorded(&world, later).await;
    let told = async || {
        let told = RelayInstance::of(&world.bus, "tidings").await;
        let told = told.unwrap_or_default();
        let mut issues = told.iter().flat_map(|relay| &relay.issues);
        issues.any(|issue| issue.cause.contains(&format!("version {later}")))
    };
    eventually("it refuses them", told).await;
    removed(&world, later).await;
    let mut tx = world.outbox.begin().await.unwrap();
    tx.publish(&User::new("one")).unwrap();
    tx.commit().await.unwrap();
    eventually("it goes on", || async { world.stored().await.len() == 1 }).await;
    relay.stop().await.unwrap();
}

async fn a_missing_column_of_another_version_is_a_version_error<DB: Database>(
    mut world: World<DB>,
) {
    let another = format!(
        "alter table {} add column later integer",
        DB::table("relay")
    );
    let outbox = world.outbox.clone();
    world.outbox = outbox.with_later_migration("0002_later", another.leak());
    world.outbox.migrate().await.unwrap();
    let pool = world.outbox.pool();
    let due = chrono::Utc::now() + chrono::TimeDelta::hours(1);
    let rename = |table: &str, from: &str, to: &str| {
        let table = DB::table(table);
        // SQLite renames by the schema that its connection knows, and another connection has changed that.
        format!(
            "select {from} from {table} limit 0; alter table {table} rename column {from} to {to}"
        )
    };
    let known = DB::number(
        pool,
        &format!("select count(*) from {}", DB::table("migration")),
    )
    .await;
    let (known, later) = (u32::try_from(known).unwrap(), later());
    for (is_newer, found) in [(Some(true), later), (Some(false), known - 1), (None, known)] {
        match is_newer {
            Some(true) => recorded(&world, later).await,
            _ => removed(&world, found + 1).await,
        }
        let says = |what: &str, refused: OutboxError| {
            let said = refused.to_string();
            match (is_newer, refused) {
                (None, OutboxError::NotMigrated(_)) => {}
                (Some(newer), OutboxError::Version { is_newer, .. }) if newer == is_newer => {
                    let cure = match newer {
                        true => "use a newer Tidings",
                        false => "tidings migrate",
                    };
                    assert!(said.contains(&format!("version {found}")), "{what}: {said}");
                    assert!(said.contains(cure), "{what}: {said}");
                }
                (_, refused) => panic!("{what}, {is_newer:?}: {refused:?}"),
            }
        };
        DB::execute(pool, &rename("outbox", "payload", "body")).await;
        let mut tx = world.outbox.begin().await.unwrap();
        tx.publish(&User::new("one")).unwrap();
        says("commit", tx.commit().await.unwrap_err());
        let mut tx = pool.begin().await.unwrap();
        let enqueued = world.outbox.enqueue(&mut tx, &User::new("one")).await;
        says("enqueue", enqueued.unwrap_err());
        tx.rollback().await.unwrap();
        DB::execute(pool, &rename("outbox", "body", "payload")).await;

        DB::execute(pool, &rename("delayed", "due", "later")).await;
        let mut tx = world.outbox.begin().await.unwrap();
        tx.publish_at(&User::new("one"), due).unwrap();
        says("publish_at", tx.commit().await.unwrap_err());
        says("delayed", world.outbox.delayed(None, 9).await.unwrap_err());
        DB::execute(pool, &rename("delayed", "later", "due")).await;

        DB::execute(pool, &rename("parked", "payload", "body")).await;
        let listed = world.outbox.parked(&ParkedSelection::All, 0, 9).await;
        says("parked", listed.unwrap_err());
        DB::execute(pool, &rename("parked", "body", "payload")).await;
        // Restores the original version.
        removed(&world, known).await;
        recorded(&world, known).await;
    }
}
