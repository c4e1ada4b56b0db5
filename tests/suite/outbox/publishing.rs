//! P1 and P2: an event commits with the state change, and a committed event reaches its handler.

use tidings::{
    Context, Envelope, EventPublisher, EventSubscriber, Failure, Relay, Worker, outbox::OutboxError,
};

use crate::{
    both,
    support::{Database, Noted, User, World, eventually},
};

both!(
    a_committed_event_reaches_its_handler,
    a_rolled_back_or_dropped_event_leaves_nothing,
    an_enqueued_event_commits_with_the_callers_transaction,
    one_transaction_publishes_many_events_in_their_order,
    an_event_that_cannot_be_sent_is_refused_on_publish,
    follow_ups_inherit_the_correlation_id,
    the_status_shows_backlog_and_lease,
    repeated_and_concurrent_migrations_are_harmless,
    another_schema_is_another_outbox,
    without_tables_the_cure_is_named,
    old_relayed_events_are_freed_and_young_ones_stay,
);

async fn note_email(user: User, cx: Context<Noted>) -> Result<(), Failure> {
    cx.state().note(user.email);
    Ok(())
}

async fn a_committed_event_reaches_its_handler<DB: Database>(world: World<DB>) {
    let noted = Noted::default();
    let worker = Worker::new(world.bus.clone(), noted.clone())
        .subscribe(EventSubscriber::durable("welcome").on(note_email))
        .with(Relay::new(world.outbox.clone()));
    let running = world.run(worker);

    let mut tx = world.outbox.begin().await.unwrap();
    DB::count_up(&mut tx, "ada").await.unwrap();
    tx.publish(&User::new("ada")).unwrap();
    tx.commit().await.unwrap();

    noted.reach(1).await;
    running.stop().await.unwrap();
    assert_eq!(noted.all(), ["ada@example.org"]);
    assert_eq!(
        DB::number(world.outbox.pool(), "select count from counter").await,
        1
    );
}

async fn a_rolled_back_or_dropped_event_leaves_nothing<DB: Database>(world: World<DB>) {
    let mut rolled_back = world.outbox.begin().await.unwrap();
    DB::count_up(&mut rolled_back, "ada").await.unwrap();
    rolled_back.publish(&User::new("ada")).unwrap();
    rolled_back.rollback().await.unwrap();

    let mut dropped = world.outbox.begin().await.unwrap();
    DB::count_up(&mut dropped, "bob").await.unwrap();
    dropped.publish(&User::new("bob")).unwrap();
    drop(dropped);

    let mut tx = world.outbox.pool().begin_with(DB::BEGIN).await.unwrap();
    world
        .outbox
        .enqueue(&mut tx, &User::new("eve"))
        .await
        .unwrap();
    tx.rollback().await.unwrap();

    let mut last = world.outbox.begin().await.unwrap();
    last.publish(&User::new("zoe")).unwrap();
    last.commit().await.unwrap();

    let relay = world.relay();
    eventually("the last event is stored", || async {
        world.stored().await.len() == 1
    })
    .await;
    relay.stop().await.unwrap();
    assert_eq!(world.stored().await.0[0].json()["id"], "zoe");
    let rows = format!("select count(*) from {}", DB::table("outbox"));
    assert_eq!(DB::number(world.outbox.pool(), &rows).await, 1);
    assert_eq!(
        DB::number(world.outbox.pool(), "select count(*) from counter").await,
        0
    );
}

async fn an_enqueued_event_commits_with_the_callers_transaction<DB: Database>(world: World<DB>) {
    let relay = world.relay();
    let mut tx = world.outbox.pool().begin_with(DB::BEGIN).await.unwrap();
    let id = world
        .outbox
        .enqueue(&mut tx, &User::new("ada"))
        .await
        .unwrap();
    tx.commit().await.unwrap();
    eventually("it is stored", || async { world.stored().await.len() == 1 }).await;
    relay.stop().await.unwrap();
    let stored = world.stored().await;
    let message = &stored.0[0];
    assert_eq!(message.subject, "user.created");
    assert_eq!(message.header("ce-id"), id.to_string());
    assert_eq!(message.header("Nats-Msg-Id"), id.to_string());
    assert_eq!(message.header("ce-type"), "user.created.v1");
    assert_eq!(message.header("ce-partitionkey"), "ada");
}

async fn one_transaction_publishes_many_events_in_their_order<DB: Database>(world: World<DB>) {
    let mut tx = world.outbox.begin().await.unwrap();
    let ids: Vec<String> = (0..2500)
        .map(|n| tx.publish(&User::new(&n.to_string())).unwrap().to_string())
        .collect();
    tx.commit().await.unwrap();
    let relay = world.relay();
    eventually("all are stored", || async {
        world.stored().await.len() >= 2500
    })
    .await;
    relay.stop().await.unwrap();
    assert_eq!(world.stored().await.ids(), ids);
}

async fn an_event_that_cannot_be_sent_is_refused_on_publish<DB: Database>(world: World<DB>) {
    let outbox = world.outbox.clone().max_payload(2000);
    let mut tx = outbox.begin().await.unwrap();
    let big = User {
        id: "ada".into(),
        email: "x".repeat(2000),
    };
    assert!(matches!(tx.publish(&big), Err(OutboxError::TooLarge(_))));
    assert!(matches!(
        tx.publish(&User::new("")),
        Err(OutboxError::Envelope(_))
    ));
    assert!(matches!(
        tx.publish(&User::new("a\nb")),
        Err(OutboxError::Envelope(_))
    ));
    let ada = User::new("ada");
    assert!(
        Envelope::of(&ada)
            .unwrap()
            .header("x", "a\r\nNats-Msg-Id: 1")
            .is_err()
    );
    tx.publish(&ada).unwrap();
    tx.commit().await.unwrap();

    let publisher = EventPublisher::new(&world.bus);
    let huge = User {
        id: "ada".into(),
        email: "x".repeat(world.bus.max_payload()),
    };
    let refused = publisher.publish(&huge).await.unwrap_err();
    assert!(refused.to_string().contains("the limit is"), "{refused}");
    publisher.publish(&ada).await.unwrap();
}

async fn follow_ups_inherit_the_correlation_id<DB: Database>(world: World<DB>) {
    async fn publish_three_ways<DB: Database>(
        user: User,
        cx: Context<(World<DB>, Noted)>,
    ) -> Result<(), Failure> {
        let (world, noted) = cx.state();
        if user.id != "parent" {
            noted.note(format!("{} {}", user.id, cx.correlation_id()));
            let cause = cx
                .envelope()
                .lineage()
                .causation_id
                .clone()
                .unwrap_or_default();
            noted.note(cause);
            return Ok(());
        }
        let mut tx = world.outbox.begin().await?;
        tx.publish(&User::new("in-tx"))?;
        tx.commit().await?;
        let mut tx = world.outbox.pool().begin_with(DB::BEGIN).await?;
        world
            .outbox
            .enqueue(&mut tx, &User::new("enqueued"))
            .await?;
        tx.commit().await?;
        EventPublisher::new(&world.bus)
            .publish(&User::new("direct"))
            .await?;
        Ok(())
    }
    let noted = Noted::default();
    let parent = Envelope::of(&User::new("parent"))
        .unwrap()
        .with_correlation_id("order-7")
        .unwrap();
    let parent_id = parent.id().to_string();
    let bus = world.bus.clone();
    let relay = world.relay();
    let stop = tokio_util::sync::CancellationToken::new();
    let worker = Worker::new(bus.clone(), (world, noted.clone()))
        .subscribe(EventSubscriber::durable("parents").on(publish_three_ways));
    let running = tokio::spawn(worker.run(stop.clone().cancelled_owned()));
    EventPublisher::new(&bus).publish(parent).await.unwrap();
    noted.reach(6).await;
    stop.cancel();
    running.await.unwrap().unwrap();
    relay.stop().await.unwrap();
    let notes = noted.all();
    for id in ["in-tx", "enqueued", "direct"] {
        assert!(notes.contains(&format!("{id} order-7")), "{notes:?}");
    }
    assert_eq!(notes.iter().filter(|note| **note == parent_id).count(), 3);
}

async fn the_status_shows_backlog_and_lease<DB: Database>(world: World<DB>) {
    for id in ["ada", "bob"] {
        let mut tx = world.outbox.begin().await.unwrap();
        tx.publish(&User::new(id)).unwrap();
        tx.commit().await.unwrap();
    }
    let before = world.outbox.status().await.unwrap();
    assert_eq!(
        (before.backlog, before.parked, before.last_batch),
        (2, 0, None)
    );
    assert!(
        before
            .oldest_unpublished_seconds
            .is_some_and(|age| age >= 0.0)
    );
    assert_eq!((before.lease.owner, before.lease.epoch), (None, 0));

    let relay = world.relay();
    eventually("the backlog is gone", || async {
        world.outbox.status().await.unwrap().backlog == 0
    })
    .await;
    let working = world.outbox.status().await.unwrap();
    assert!(working.lease.owner.is_some() && working.lease.remaining_seconds > 0.0);
    assert_eq!(working.lease.epoch, 1);
    let batch = working.last_batch.unwrap();
    assert_eq!((&*batch.stream, batch.last_sequence), ("EVENTS", 2));
    relay.stop().await.unwrap();
    assert_eq!(world.outbox.status().await.unwrap().lease.owner, None);
}

async fn repeated_and_concurrent_migrations_are_harmless<DB: Database>(world: World<DB>) {
    assert_eq!(world.outbox.migrate().await.unwrap(), Vec::<&str>::new());
    let fresh = world.outbox.clone().in_schema("shop").unwrap();
    let all = futures::future::join_all((0..4).map(|_| fresh.migrate())).await;
    let applied: usize = all.into_iter().map(|applied| applied.unwrap().len()).sum();
    assert_eq!(applied, DB::MIGRATIONS.len());
}

async fn another_schema_is_another_outbox<DB: Database>(world: World<DB>) {
    let shop = world.outbox.clone().in_schema("shop").unwrap();
    shop.migrate().await.unwrap();
    let mut tx = shop.begin().await.unwrap();
    tx.publish(&User::new("ada")).unwrap();
    tx.publish(&User::new("bob")).unwrap();
    tx.commit().await.unwrap();
    assert_eq!(shop.status().await.unwrap().backlog, 2);
    assert_eq!(world.outbox.status().await.unwrap().backlog, 0);
    let relay = world.run_relay(Relay::new(shop.clone()));
    eventually("it is relayed", || async {
        shop.status().await.unwrap().backlog == 0
    })
    .await;
    relay.stop().await.unwrap();
    assert_eq!(world.stored().await.len(), 2);
    assert!(world.outbox.clone().in_schema("a; drop table x").is_err());
}

async fn without_tables_the_cure_is_named<DB: Database>(world: World<DB>) {
    let nowhere = world.outbox.clone().in_schema("nowhere").unwrap();
    let mut tx = nowhere.begin().await.unwrap();
    tx.publish(&User::new("ada")).unwrap();
    let error = tx.commit().await.unwrap_err();
    assert!(error.to_string().contains("tidings migrate"), "{error}");
    let error = world
        .run_relay(Relay::new(nowhere))
        .end()
        .await
        .unwrap_err();
    assert!(error.to_string().contains("tidings migrate"), "{error}");
}

async fn old_relayed_events_are_freed_and_young_ones_stay<DB: Database>(world: World<DB>) {
    let outbox = DB::table("outbox");
    let ledger = DB::table("ledger");
    // In slots that are neither the current nor the next one; SQLite has no slots.
    let old = if outbox.contains('.') {
        format!(
            "insert into {outbox} (event, name, payload, created_at, slot)
             select gen_random_uuid(), 'user.created', '\\x7b7d', now() - interval '20 hours',
                    (date_part('epoch', now())::bigint / 10800 + 3) % 8 from generate_series(1, 5);
             insert into {ledger} (epoch, first_id, last_id, events, stream, incarnation, first_sequence, last_sequence, created_at, slot)
             values (1, 1, 1, 1, 'EVENTS', 'x', 1, 1, now() - interval '15 days',
                    (date_part('epoch', now())::bigint / 86400 + 3) % 16)"
        )
    } else {
        let age = |hours: u64| {
            format!(
                "cast(unixepoch('subsec') * 1000000 as integer) - {}",
                hours * 3_600_000_000
            )
        };
        let rows: Vec<String> = (1..=5)
            .map(|_| format!("(randomblob(16), 'user.created', x'7b7d', {})", age(20)))
            .collect();
        format!(
            "insert into {outbox} (event, name, payload, created_at) values {};
             insert into {ledger} (epoch, first_id, last_id, events, stream, incarnation, first_sequence, last_sequence, created_at)
             values (1, 1, 1, 1, 'EVENTS', 'x', 1, 1, {})",
            rows.join(", "),
            age(15 * 24)
        )
    };
    DB::execute(world.outbox.pool(), &old).await;
    let mut tx = world.outbox.begin().await.unwrap();
    tx.publish(&User::new("young")).unwrap();
    tx.commit().await.unwrap();

    let relay = world.relay();
    let rows = format!("select count(*) from {outbox}");
    eventually("the old ones are freed", || async {
        DB::number(world.outbox.pool(), &rows).await == 1
    })
    .await;
    let entries = format!("select count(*) from {ledger} where incarnation = 'x'");
    eventually("the old entries of the ledger, too", || async {
        DB::number(world.outbox.pool(), &entries).await == 0
    })
    .await;
    relay.stop().await.unwrap();
    assert_eq!(
        world.stored().await.len(),
        6,
        "freed only after they were carried away"
    );
}
