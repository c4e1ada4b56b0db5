//! Transactions that write a business row and one event.

use std::time::{Duration, Instant};

use futures::future::try_join_all;
use tidings::Envelope;

use super::{
    Job,
    event::Written,
    raw::per_second,
    report::{Report, Wrong},
    store::BenchStore,
    world::World,
};

/// The two are measured in turns, so that both meet the same moods of the machine.
const TURNS: usize = 10;

pub(super) async fn run<DB: BenchStore>(world: &World<DB>, job: Job) -> anyhow::Result<Report> {
    let per_writer = job.events.div_ceil(TURNS * DB::WRITERS);
    let events = per_writer * TURNS * DB::WRITERS;
    let (mut ours, mut plain) = (Duration::ZERO, Duration::ZERO);
    let mut next_id = 0;
    for turn in 0..=TURNS {
        let began = Instant::now();
        next_id = turn_of(world, job, next_id, per_writer, Kind::Outbox).await?;
        let took = began.elapsed();
        let began = Instant::now();
        next_id = turn_of(world, job, next_id, per_writer, Kind::Plain).await?;
        // The first turn warms up.
        if turn > 0 {
            ours += took;
            plain += began.elapsed();
        }
    }
    let written = world.outbox.status().await?.backlog;
    let expected = events + per_writer * DB::WRITERS;
    let lost = expected.saturating_sub(usize::try_from(written)?);
    let job = Job { events, ..job };
    Ok(Report::new("enqueue", DB::KIND, world.servers, job)
        .against(
            ours.as_secs_f64(),
            per_second(events, ours),
            per_second(events, plain),
        )
        .wrong(Wrong {
            lost,
            ..Wrong::default()
        })
        .figure("writers", DB::WRITERS))
}

#[derive(Clone, Copy)]
enum Kind {
    Outbox,
    Plain,
}

async fn turn_of<DB: BenchStore>(
    world: &World<DB>,
    job: Job,
    first_id: usize,
    per_writer: usize,
    kind: Kind,
) -> anyhow::Result<usize> {
    let writers = (0..DB::WRITERS).map(|writer| async move {
        for n in 0..per_writer {
            let id = first_id + writer * per_writer + n;
            match kind {
                Kind::Outbox => through_the_outbox(world, job, id).await?,
                Kind::Plain => plainly(world, job, id).await?,
            }
        }
        anyhow::Ok(())
    });
    try_join_all(writers).await?;
    Ok(first_id + DB::WRITERS * per_writer)
}

async fn through_the_outbox<DB: BenchStore>(
    world: &World<DB>,
    job: Job,
    id: usize,
) -> anyhow::Result<()> {
    let mut tx = world.outbox.begin().await?;
    DB::business(&mut tx, i64::try_from(id)?).await?;
    tx.publish(&Written::new(job, id))?;
    tx.commit().await?;
    Ok(())
}

async fn plainly<DB: BenchStore>(world: &World<DB>, job: Job, id: usize) -> anyhow::Result<()> {
    let mut tx = world.outbox.pool().begin_with(DB::BEGIN).await?;
    DB::business(&mut tx, i64::try_from(id)?).await?;
    let envelope = Envelope::of(&Written::new(job, id))?;
    DB::plain(&mut tx, &envelope).await?;
    tx.commit().await?;
    Ok(())
}
