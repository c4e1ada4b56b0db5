//! P5: how long the inbox remembers: a ring of slots by the times of the events, emptied without work for vacuum.

use sqlx::Postgres;
use uuid::Uuid;

use super::effects::{App, DAY, made_at, now, worker};
use crate::{
    both,
    support::{Database, World, deliver, eventually},
};

both!(
    an_event_outside_the_ring_is_a_dead_letter_with_a_reason,
    a_slot_is_emptied_when_it_is_out_of_reach_and_not_before,
);

async fn an_event_outside_the_ring_is_a_dead_letter_with_a_reason<DB: Database>(world: World<DB>) {
    let app = App::default();
    let running = world.run(worker(&world, &app));
    let outside = [now() - 15 * DAY, now() + 3 * DAY];
    let inside = [now() - 12 * DAY, now() + 100];
    for seconds in outside.into_iter().chain(inside) {
        deliver(&world.nats.url(), made_at(seconds), "ada").await;
    }
    world.is_handled(4).await;
    running.stop().await.unwrap();
    let dead = world.dead_letters().await;
    assert_eq!((dead.len(), app.noted.len()), (2, 2));
    for letter in &dead.0 {
        assert_eq!(letter.header("tidings-dead-cause"), "outside-inbox");
        let error = letter.header("tidings-dead-error");
        assert!(
            error.contains("the inbox remembers events from 20"),
            "{error}"
        );
    }
}

/// Inserts one row into the slot of each of these periods, relative to the current one.
async fn fill<DB: Database>(
    world: &World<DB>,
    slot_seconds: i64,
    periods: std::ops::RangeInclusive<i64>,
) {
    for period in periods {
        let slot = (now() / slot_seconds + period).rem_euclid(16);
        let table = DB::table(&format!("inbox_{slot}"));
        let id = match DB::table("x").starts_with("tidings_") {
            true => "randomblob(16)",
            false => "gen_random_uuid()",
        };
        let sql = format!("insert into {table} (event, subscriber) values ({id}, 'counter')");
        DB::execute(world.outbox.pool(), &sql).await;
    }
}

async fn a_slot_is_emptied_when_it_is_out_of_reach_and_not_before<DB: Database>(world: World<DB>) {
    // Half of the current period has passed, and it does not end during the test.
    let long = now() * 2 / 41;
    let set = format!(
        "update {} set slot_seconds = {long}",
        DB::table("inbox_ring")
    );
    DB::execute(world.outbox.pool(), &set).await;
    fill(&world, long, -13..=2).await;
    assert_eq!(world.remembered().await, 16);
    let running = world.run(worker(&world, &App::default()));
    eventually("the dead slot is empty", || async {
        world.remembered().await == 15
    })
    .await;
    deliver(&world.nats.url(), Uuid::now_v7(), "ada").await;
    world.is_handled(1).await;
    running.stop().await.unwrap();
    let dead = (now() / long + 2).rem_euclid(16);
    let sql = format!(
        "select count(*) from {}",
        DB::table(&format!("inbox_{dead}"))
    );
    assert_eq!(DB::number(world.outbox.pool(), &sql).await, 0);
    assert_eq!(
        world.remembered().await,
        16,
        "the others are left, and the new one is there"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn normal_work_leaves_nothing_for_vacuum() {
    let world = World::<Postgres>::start().await;
    let app = App::default();
    let running = world.run(worker(&world, &app));
    let ids: Vec<Uuid> = (0..50).map(|_| Uuid::now_v7()).collect();
    // Not in parallel: when two transactions insert the same key at the same moment, Postgres may discard one row.
    for round in 1..=2 {
        for id in &ids {
            deliver(&world.nats.url(), *id, &id.to_string()).await;
        }
        world.is_handled(50 * round).await;
    }
    running.stop().await.unwrap();
    let dead = "select pg_stat_force_next_flush()::text";
    Postgres::word(world.outbox.pool(), dead).await;
    let dead =
        "select (sum(n_dead_tup) + sum(n_tup_del) + sum(n_tup_upd))::bigint from pg_stat_all_tables
        where schemaname = 'tidings' and relname like 'inbox%'";
    eventually("the statistics have come", || async {
        let inserted = "select sum(n_tup_ins)::bigint from pg_stat_all_tables
            where schemaname = 'tidings' and relname ~ 'inbox_[0-9]'";
        Postgres::number(world.outbox.pool(), inserted).await == 50
    })
    .await;
    assert_eq!(Postgres::number(world.outbox.pool(), dead).await, 0);
}
