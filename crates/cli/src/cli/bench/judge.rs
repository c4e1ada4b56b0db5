//! Reads the stream that was measured with and counts what is wrong in it.

use anyhow::ensure;
use tidings::Start;

use super::{
    Job,
    event::Written,
    report::Wrong,
    store::BenchStore,
    tally::Tally,
    world::{STREAM, World},
};

/// What is missing, there twice, or out of order within its key, of events with the numbers from 0 on.
pub(super) async fn judge<DB: BenchStore>(world: &World<DB>, job: Job) -> anyhow::Result<Wrong> {
    let mut reader = world.bus.read(STREAM, &[], Start::Beginning).await?;
    let tally = Tally::new(job);
    while reader.pending() > 0 {
        let event: Written = reader.next().await?.envelope?.decode()?;
        tally.enter(&event);
        ensure!(
            tally.strangers() == 0,
            "event {} was never written",
            event.number
        );
    }
    Ok(tally.wrong())
}
