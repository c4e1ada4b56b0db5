//! Measures transactions that write a business row and one or more events.

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

/// The two kinds alternate, so that drift of the machine affects both equally.
const TURNS: usize = 10;

/// One measurement: how many transactions each writer makes per turn, and how many events each transaction has.
#[derive(Clone, Copy)]
struct Plan {
    job: Job,
    transactions: usize,
    bulk: usize,
}

impl Plan {
    fn new(job: Job, bulk: usize, writers: usize) -> Self {
        let transactions = job.events.div_ceil(TURNS * writers * bulk);
        let events = transactions * TURNS * writers * bulk;
        Self {
            job: Job { events, ..job },
            transactions,
            bulk,
        }
    }

    /// The events of a transaction.
    fn events(self, transaction: usize) -> impl Iterator<Item = Written> {
        let first = transaction * self.bulk;
        (first..first + self.bulk).map(move |number| Written::new(self.job, number))
    }
}

#[derive(Clone, Copy)]
enum Kind {
    Outbox,
    Plain,
}

pub(super) async fn run<DB: BenchStore>(
    world: &World<DB>,
    job: Job,
    bulk: usize,
) -> anyhow::Result<Report> {
    let plan = Plan::new(job, bulk, DB::WRITERS);
    let (mut ours, mut plain) = (Duration::ZERO, Duration::ZERO);
    let mut next = 0;
    for turn in 0..=TURNS {
        let began = Instant::now();
        next = turn_of(world, plan, next, Kind::Outbox).await?;
        let took = began.elapsed();
        let began = Instant::now();
        next = turn_of(world, plan, next, Kind::Plain).await?;
        // The first turn is a warm-up.
        if turn > 0 {
            ours += took;
            plain += began.elapsed();
        }
    }
    let events = plan.job.events;
    let written = usize::try_from(world.outbox.status().await?.backlog)?;
    let expected = events + events / TURNS;
    let wrong = Wrong {
        lost: expected.saturating_sub(written),
        ..Wrong::default()
    };
    Ok(Report::new("enqueue", DB::KIND, world.servers, plan.job)
        .against(
            ours.as_secs_f64(),
            per_second(events, ours),
            per_second(events, plain),
        )
        .wrong(wrong)
        .figure("writers", DB::WRITERS)
        .figure("bulk", bulk))
}

/// Runs the transactions of all writers, numbered from `first`. Returns the next number.
async fn turn_of<DB: BenchStore>(
    world: &World<DB>,
    plan: Plan,
    first: usize,
    kind: Kind,
) -> anyhow::Result<usize> {
    let writers = (0..DB::WRITERS).map(|writer| async move {
        for n in 0..plan.transactions {
            let transaction = first + writer * plan.transactions + n;
            match kind {
                Kind::Outbox => through_the_outbox(world, plan, transaction).await?,
                Kind::Plain => plainly(world, plan, transaction).await?,
            }
        }
        anyhow::Ok(())
    });
    try_join_all(writers).await?;
    Ok(first + DB::WRITERS * plan.transactions)
}

async fn through_the_outbox<DB: BenchStore>(
    world: &World<DB>,
    plan: Plan,
    transaction: usize,
) -> anyhow::Result<()> {
    let mut tx = world.outbox.begin().await?;
    DB::business(&mut tx, i64::try_from(transaction)?).await?;
    for event in plan.events(transaction) {
        tx.publish(&event)?;
    }
    tx.commit().await?;
    Ok(())
}

async fn plainly<DB: BenchStore>(
    world: &World<DB>,
    plan: Plan,
    transaction: usize,
) -> anyhow::Result<()> {
    let mut tx = world.outbox.pool().begin_with(DB::BEGIN).await?;
    DB::business(&mut tx, i64::try_from(transaction)?).await?;
    let envelopes: Result<Vec<_>, _> = plan
        .events(transaction)
        .map(|event| Envelope::of(&event))
        .collect();
    DB::plain(&mut tx, &envelopes?).await?;
    tx.commit().await?;
    Ok(())
}
