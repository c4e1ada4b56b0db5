//! A relay while an old transaction keeps Postgres from removing dead rows, compared with one without it.

use std::time::{Duration, Instant};

use anyhow::ensure;
use sqlx::{Connection as _, PgConnection, Postgres};
use tokio::time::MissedTickBehavior;

use super::{
    Job,
    backlog::with_memory,
    drain,
    event::Written,
    judge::judge,
    report::{Report, Wrong, rounded},
    store::{BenchStore as _, SCHEMA},
    world::{STREAM, World},
};

/// Transactions per second while the old transaction ages: enough to keep the relay writing checkpoints.
const RATE: u32 = 200;
/// A business row is deleted after this many newer ones were written. The traffic lasts at least until the first
/// deletion.
const KEPT: usize = 100;
/// The most time that the statistics of Postgres may take.
const COUNTED_WITHIN: Duration = Duration::from_secs(30);

pub(super) async fn run(
    world: &World<Postgres>,
    job: Job,
    age: Duration,
) -> anyhow::Result<Report> {
    let before = drain::backlog(world, job).await?;
    let pin = pin(world).await?;
    let (traffic, traffic_wrong) = traffic(world, job, age).await?;
    let pinned = drain::backlog(world, job).await?;
    let counted = dead(world, 2 * job.events + traffic).await?;
    pin.close().await?;
    let after = drain::backlog(world, job).await?;

    let start = before.first.min(after.first).min(pinned.first);
    let free_rate = (before.per_second(start) + after.per_second(start)) / 2.0;
    let rate = pinned.per_second(start);
    let report = Report::new("pinned-xmin", "postgres", world.servers, job)
        .figure("held_seconds", age.as_secs())
        .figure("events_meanwhile", traffic)
        .figure("per_second", rate.round())
        .figure("free_per_second", free_rate.round())
        .figure("ratio", rounded(rate / free_rate, 1000.0))
        .figure("free_before", before.per_second(start).round())
        .figure("free_after", after.per_second(start).round())
        .figure("log_dead_tuples", counted.log)
        .figure("relay_dead_tuples", counted.relay)
        .figure("business_dead_tuples", counted.business)
        .wrong(before.wrong + traffic_wrong + pinned.wrong + after.wrong);
    Ok(with_memory(report, [&before, &pinned, &after]))
}

/// A transaction that has written and has a snapshot: while it is open, it holds back the horizon by both. It has its
/// own connection: a connection of the pool could not report its statistics meanwhile.
async fn pin(world: &World<Postgres>) -> Result<PgConnection, sqlx::Error> {
    let options = world.outbox.pool().connect_options();
    let mut pin = PgConnection::connect_with(&options).await?;
    let begin = sqlx::query("begin isolation level repeatable read");
    begin.execute(&mut pin).await?;
    Postgres::business(&mut pin, -1).await?;
    Ok(pin)
}

/// Runs transactions at a constant rate, with business rows that are inserted and deleted, and a relay that keeps up.
/// Returns how many events were written, and the errors in them.
async fn traffic(
    world: &World<Postgres>,
    job: Job,
    length: Duration,
) -> anyhow::Result<(usize, Wrong)> {
    let mut relay = world.process(&["relay"])?;
    let began = Instant::now();
    let mut tick = tokio::time::interval(Duration::from_secs(1) / RATE);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut events: usize = 0;
    while began.elapsed() < length || events <= KEPT {
        tick.tick().await;
        let mut tx = world.outbox.begin().await?;
        Postgres::business(&mut tx, i64::try_from(events)?).await?;
        if let Some(old) = events.checked_sub(KEPT) {
            let delete = "delete from tidings_bench_business where id = $1";
            let delete = sqlx::query(delete).bind(i64::try_from(old)?);
            delete.execute(&mut *tx).await?;
        }
        tx.publish(&Written::new(job, events))?;
        tx.commit().await?;
        events += 1;
    }
    drain::until_stored(world, &mut relay, events as u64).await?;
    relay.stop().await?;
    let wrong = judge(world, Job { events, ..job }).await?;
    world.purge(STREAM).await?;
    Ok((events, wrong))
}

/// Dead rows that were not removed, as Postgres counts them.
struct Dead {
    log: i64,
    relay: i64,
    business: i64,
}

/// Waits until the statistics of Postgres, which lag, include this many rows of the log.
async fn dead(world: &World<Postgres>, rows: usize) -> anyhow::Result<Dead> {
    let figures = "select
            coalesce(sum(n_tup_ins) filter (where schemaname = $1 and relname ~ '^outbox_'), 0)::bigint,
            coalesce(sum(n_dead_tup) filter (where schemaname = $1 and relname ~ '^outbox_'), 0)::bigint,
            coalesce(sum(n_dead_tup) filter (where schemaname = $1 and relname = 'relay'), 0)::bigint,
            coalesce(sum(n_dead_tup) filter (where relname = 'tidings_bench_business'), 0)::bigint
        from pg_stat_user_tables";
    let began = Instant::now();
    loop {
        Postgres::be_counted(world.outbox.pool()).await?;
        let (written, log, relay, business): (i64, i64, i64, i64) = sqlx::query_as(figures)
            .bind(SCHEMA)
            .fetch_one(world.outbox.pool())
            .await?;
        if written >= i64::try_from(rows)? {
            return Ok(Dead {
                log,
                relay,
                business,
            });
        }
        ensure!(
            began.elapsed() < COUNTED_WITHIN,
            "Postgres has counted {written} of {rows} rows of the log"
        );
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}
