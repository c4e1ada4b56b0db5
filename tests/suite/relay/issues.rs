//! P9: what holds the relay up is reported with its cause and cure, as one issue with one start time, until events
//! flow again; also what it cannot write into the database.

use std::time::Duration;

use tidings::{
    Bus, Relay,
    outbox::{RelayError, RelayInstance, Status},
    republish::Republish,
    verify::Verify,
};
use tidings_test_servers::NatsServer;

use crate::{
    both,
    support::{Database, User, World, events_stream, eventually, log},
};

both!(
    an_issue_keeps_its_start_time_until_an_event_is_confirmed,
    a_relay_that_cannot_write_its_issue_reports_it_over_nats,
    an_unreachable_server_is_reported_repeatedly,
    a_frozen_server_is_reported_repeatedly,
    newer_tables_are_refused,
    older_tables_are_refused,
    another_nats_is_refused_until_an_operator_accepts_it,
    a_moved_or_restarted_server_is_recognised,
    the_backlog_counts_waiting_events_and_not_parked_ones,
);

const USERS: &str = r#"
accounts { A { jetstream: enabled, users: [
    { user: root, password: secret }
    { user: relay, password: secret, permissions { publish { allow: ">", deny: DENIED } } }
] } }
no_auth_user: root
"#;

fn users(denied: &str) -> String {
    USERS.replace("DENIED", denied)
}

async fn publish<DB: Database>(world: &World<DB>, id: &str) {
    let mut tx = world.outbox.begin().await.unwrap();
    tx.publish(&User::new(id)).unwrap();
    tx.commit().await.unwrap();
}

async fn status<DB: Database>(world: &World<DB>) -> Status {
    world.outbox.status().await.unwrap()
}

async fn flows<DB: Database>(world: &World<DB>, events: usize) {
    eventually("events flow, and nothing is wrong", || async {
        let status = status(world).await;
        status.backlog == 0 && status.issues.is_empty()
    })
    .await;
    assert_eq!(world.stored().await.len(), events);
}

async fn an_issue_keeps_its_start_time_until_an_event_is_confirmed<DB: Database>(_: World<DB>) {
    let config = NatsServer::options().config(users("\"$JS.API.STREAM.NAMES\""));
    let world = World::<DB>::with(DB::open().await, config.start().await.unwrap()).await;
    let url = world.nats.url().replace("nats://", "nats://relay:secret@");
    let relay = || async {
        let bus = Bus::connect(url.clone()).await.unwrap();
        let relay = Relay::new(world.outbox.clone()).lease(Duration::from_secs(2));
        world.run_relay_over(bus, relay)
    };
    publish(&world, "a").await;
    let first = relay().await;
    eventually("it is held up", || async {
        !status(&world).await.issues.is_empty()
    })
    .await;
    let began = status(&world).await;
    let since = began.issues[0].since;
    // The issue stays while the lease is claimed repeatedly.
    eventually("some tenures have passed", || async {
        let now = status(&world).await;
        assert_eq!(now.issues.len(), 1, "{now:?}");
        assert_eq!(now.issues[0].since, since);
        now.lease.epoch > began.lease.epoch + 3
    })
    .await;
    first.stop().await.unwrap();
    let second = relay().await;
    eventually("another one has begun", || async {
        let now = status(&world).await;
        assert_eq!(now.issues[0].since, since);
        now.lease.owner.is_some() && now.lease.owner != began.lease.owner
    })
    .await;
    let told = &status(&world).await.stuck()[0];
    assert!(told.cause.contains("$JS.API.STREAM.NAMES"), "{told:?}");
    assert!(
        told.cure.contains("allow the user to publish to"),
        "{told:?}"
    );
    world.nats.reload(users("[]")).unwrap();
    flows(&world, 1).await;
    second.stop().await.unwrap();
}

/// Makes the database refuse all writes until the future ends.
async fn while_it_takes_nothing<DB: Database>(world: &World<DB>, then: impl Future<Output = ()>) {
    let pool = world.outbox.pool();
    if DB::table("x").contains('.') {
        let set = |how: &str| {
            format!(
                "begin read write;
                 do $$ begin execute format('alter database %I {how}', current_database()); end $$;
                 commit;
                 select pg_terminate_backend(pid) from pg_stat_activity
                 where datname = current_database() and pid <> pg_backend_pid()"
            )
        };
        DB::execute(pool, &set("set default_transaction_read_only = on")).await;
        then.await;
        DB::execute(pool, &set("reset default_transaction_read_only")).await;
        return;
    }
    let mut tx = world.outbox.begin().await.unwrap();
    tx.publish(&User::new("slow")).unwrap();
    then.await;
    drop(tx);
}

async fn a_relay_that_cannot_write_its_issue_reports_it_over_nats<DB: Database>(world: World<DB>) {
    log::listen();
    let relay = world.run_relay(world.new_relay());
    publish(&world, "a").await;
    flows(&world, 1).await;
    let asked = || async { RelayInstance::of(&world.bus, "tidings").await.unwrap() };
    let well = asked().await;
    assert_eq!(well.len(), 1);
    assert!(
        well[0].epoch.is_some() && well[0].issues.is_empty(),
        "{well:?}"
    );
    while_it_takes_nothing(&world, async {
        eventually("it tells why", || async {
            let told = asked().await;
            let issue = told.first().and_then(|relay| relay.issues.first());
            issue.is_some_and(|issue| {
                let is_named = ["read-only", "locked", "does not answer"]
                    .iter()
                    .any(|cause| issue.cause.contains(cause));
                let is_cured = ["primary", "write lock", "its transaction ends"]
                    .iter()
                    .any(|cure| issue.cure.contains(cure));
                issue.place == "relay" && is_named && is_cured
            })
        })
        .await;
        eventually("the log says it again", || async {
            let said = log::said("events still held up");
            said.iter()
                .any(|line| line.contains("place=\"relay\"") && line.contains("cure="))
        })
        .await;
    })
    .await;
    publish(&world, "b").await;
    flows(&world, 2).await;
    eventually("it is well again", || async {
        asked().await[0].issues.is_empty()
    })
    .await;
    relay.stop().await.unwrap();
}

/// The log repeats an issue that holds up the whole relay, with its cure.
async fn is_told_again(cures: &[&str]) {
    eventually("the log says it again", || async {
        let said = log::said("events still held up");
        said.iter().any(|line| {
            let has_cure = cures.iter().any(|cure| line.contains(cure));
            line.contains("place=\"relay\"") && has_cure
        })
    })
    .await;
}

async fn an_unreachable_server_is_reported_repeatedly<DB: Database>(world: World<DB>) {
    log::listen();
    let relay = world.run_relay(world.new_relay());
    publish(&world, "a").await;
    flows(&world, 1).await;
    world.nats.kill().unwrap();
    publish(&world, "b").await;
    is_told_again(&["start a nats-server at nats://127.0.0.1:"]).await;
    let told = status(&world).await.stuck();
    assert_eq!(told[0].place, "relay", "{told:?}");
    assert!(told[0].cure.contains("start a nats-server"), "{told:?}");
    let errors = log::said("NATS client error");
    assert!(errors.len() <= 6, "{errors:#?}");
    assert!(
        errors.iter().all(|line| line.contains("127.0.0.1")),
        "{errors:#?}"
    );
    world.nats.restart().await.unwrap();
    flows(&world, 2).await;
    assert_eq!(log::said("events flowing again").len(), 1);
    relay.stop().await.unwrap();
}

async fn a_frozen_server_is_reported_repeatedly<DB: Database>(world: World<DB>) {
    log::listen();
    let relay = world.run_relay(world.new_relay());
    publish(&world, "a").await;
    flows(&world, 1).await;
    world.nats.pause().unwrap();
    publish(&world, "b").await;
    is_told_again(&["frozen or overloaded", "start a nats-server"]).await;
    world.nats.resume().unwrap();
    flows(&world, 2).await;
    relay.stop().await.unwrap();
}

async fn newer_tables_are_refused<DB: Database>(world: World<DB>) {
    let relay = world.run_relay(world.new_relay());
    publish(&world, "a").await;
    flows(&world, 1).await;
    let table = DB::table("migration");
    let newer = format!("insert into {table} (version, name) values (99, '0099_later')");
    DB::execute(world.outbox.pool(), &newer).await;
    // The relay continues until it renews the lease.
    world.nats.restart().await.unwrap();
    eventually("the one that works refuses them", || async {
        let told = RelayInstance::of(&world.bus, "tidings").await;
        let told = told.unwrap_or_default();
        let mut issues = told.iter().flat_map(|relay| &relay.issues);
        issues.any(|issue| issue.cause.contains("version 99") && issue.cause.contains("newer"))
    })
    .await;
    relay.stop().await.unwrap();
    let refused = world.run_relay(world.new_relay()).end().await.unwrap_err();
    assert!(
        matches!(
            refused,
            RelayError::Version {
                found: 99,
                is_newer: true,
                ..
            }
        ),
        "{refused}"
    );
    let refused = world.outbox.check_version().await.unwrap_err();
    assert!(
        refused.to_string().contains("use a newer Tidings"),
        "{refused}"
    );
    let refused = Verify::new(&world.bus, &world.outbox)
        .run()
        .await
        .unwrap_err();
    assert!(refused.to_string().contains("version 99"), "{refused}");
}

async fn older_tables_are_refused<DB: Database>(mut world: World<DB>) {
    let later = format!("alter table {} add column later int", DB::table("relay"));
    let outbox = world.outbox.clone();
    world.outbox = outbox.with_later_migration("0002_later", later.leak());
    let refused = world.run_relay(world.new_relay()).end().await.unwrap_err();
    assert!(
        matches!(
            refused,
            RelayError::Version {
                found: 1,
                is_newer: false,
                ..
            }
        ),
        "{refused}"
    );
    assert!(refused.to_string().contains("tidings migrate"), "{refused}");
}

/// Another server, with streams of the same names.
async fn another_nats() -> (NatsServer, Bus) {
    let nats = NatsServer::start().await.unwrap();
    let bus = Bus::connect(nats.url()).await.unwrap();
    bus.apply_stream(&events_stream()).await.unwrap();
    (nats, bus)
}

async fn another_nats_is_refused_until_an_operator_accepts_it<DB: Database>(world: World<DB>) {
    let (nats, elsewhere) = another_nats().await;
    let relay = world.run_relay(world.new_relay());
    publish(&world, "a").await;
    flows(&world, 1).await;
    relay.stop().await.unwrap();
    publish(&world, "b").await;

    let relay = || world.run_relay_over(elsewhere.clone(), world.new_relay());
    let refused = relay().end().await.unwrap_err();
    assert!(matches!(refused, RelayError::Elsewhere { .. }), "{refused}");
    assert!(
        refused.to_string().contains("tidings outbox use-nats"),
        "{refused}"
    );
    assert_eq!(
        status(&world).await.lease.owner,
        None,
        "it has never had the lease"
    );
    let verify = Verify::new(&elsewhere, &world.outbox);
    let refused = verify.run().await.unwrap_err().to_string();
    assert!(
        refused.contains("not the NATS that the outbox is relayed into"),
        "{refused}"
    );
    verify.repair().await.unwrap_err();
    let republish = Republish::new(&elsewhere, &world.outbox);
    republish.dry_run().await.unwrap_err();
    republish.force().run().await.unwrap_err();
    let stored = crate::support::Stream::read(&nats.url(), "EVENTS").await;
    assert_eq!(stored.len(), 0, "nothing was published elsewhere");
    // On its own server, the outbox continues to work.
    let own = world.run_relay(world.new_relay());
    flows(&world, 2).await;
    own.stop().await.unwrap();

    let moved = world.outbox.use_nats(&elsewhere).await.unwrap();
    assert_eq!(moved.streams, ["EVENTS"]);
    let relay = relay();
    publish(&world, "c").await;
    eventually("it is relayed there, and told what is missing", || async {
        let status = status(&world).await;
        status.backlog == 0 && !status.losses.is_empty()
    })
    .await;
    let repaired = Verify::new(&elsewhere, &world.outbox)
        .repair()
        .await
        .unwrap();
    assert_eq!(repaired.events(), 2);
    relay.stop().await.unwrap();
    // The previous server is now refused.
    Verify::new(&world.bus, &world.outbox)
        .run()
        .await
        .unwrap_err();
}

async fn a_moved_or_restarted_server_is_recognised<DB: Database>(_: World<DB>) {
    let folder = crate::support::Folder::new();
    let store = NatsServer::options().store(folder.path());
    let world = World::<DB>::with(DB::open().await, store.clone().start().await.unwrap()).await;
    let relay = world.run_relay(world.new_relay());
    publish(&world, "a").await;
    flows(&world, 1).await;
    world.nats.restart().await.unwrap();
    publish(&world, "b").await;
    flows(&world, 2).await;
    relay.stop().await.unwrap();
    world.nats.stop().await.unwrap();
    // The same streams, with another server name and another port.
    let moved = store.start().await.unwrap();
    let bus = Bus::connect(moved.url()).await.unwrap();
    let relay = world.run_relay_over(bus.clone(), world.new_relay());
    publish(&world, "c").await;
    eventually("it is relayed", || async {
        status(&world).await.backlog == 0
    })
    .await;
    Verify::new(&bus, &world.outbox).run().await.unwrap();
    relay.stop().await.unwrap();
}

async fn the_backlog_counts_waiting_events_and_not_parked_ones<DB: Database>(world: World<DB>) {
    let relay = world.run_relay(world.new_relay());
    let mut tx = world.outbox.begin().await.unwrap();
    for (name, key) in [
        ("nobody.listens", "a"),
        ("count.raised", "a"),
        ("count.raised", "b"),
    ] {
        let event = tidings::Envelope::raw(name, 1, Some(key), "1").unwrap();
        tx.publish(event).unwrap();
    }
    tx.commit().await.unwrap();
    // No program could have written this row.
    let table = DB::table("outbox");
    let (event, payload) = match table.contains('.') {
        true => ("gen_random_uuid()", "'1'"),
        false => ("randomblob(16)", "x'31'"),
    };
    let refused = format!(
        "insert into {table} (event, name, key, payload)
         values ({event}, 'Not a name', 'c', {payload})"
    );
    DB::execute(world.outbox.pool(), &refused).await;
    eventually("they are parked", || async { world.parked().await == 3 }).await;
    eventually("the rest is confirmed", || async {
        status(&world).await.backlog == 2
    })
    .await;
    let now = status(&world).await;
    let parked = (now.waiting, now.returning, now.undecided);
    assert_eq!(parked, (1, 2, 1), "{now:?}");
    assert!(now.oldest_unpublished_seconds.is_some(), "{now:?}");
    assert!(now.oldest_undecided_seconds.is_some(), "{now:?}");
    let places: Vec<String> = now.stuck().into_iter().map(|stuck| stuck.place).collect();
    assert_eq!(places, ["subject nobody.listens", "parked"]);
    relay.stop().await.unwrap();
}
