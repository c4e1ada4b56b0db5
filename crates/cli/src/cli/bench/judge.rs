//! Reads the measured stream and counts its errors.

use anyhow::ensure;
use tidings::StartFrom;

use super::{
    Job,
    event::Written,
    report::Wrong,
    store::BenchStore,
    tally::Tally,
    world::{STREAM, World},
};

/// Counts missing, duplicate and reordered events, among the events with the numbers from 0.
pub(super) async fn judge<DB: BenchStore>(world: &World<DB>, job: Job) -> anyhow::Result<Wrong> {
    let mut reader = world.bus.read(STREAM, &[], StartFrom::Beginning).await?;
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
