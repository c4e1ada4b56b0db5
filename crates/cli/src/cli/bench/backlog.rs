//! A large backlog compared with a small one: the rate and the memory of the relay.

use super::{
    Job,
    drain::{self, Drained},
    report::{Report, millis, rounded},
    store::BenchStore,
    world::World,
};

/// The small backlog is drained before and after the large one, so that drift of the machine is visible.
pub(super) async fn run<DB: BenchStore>(
    world: &World<DB>,
    small: Job,
    events: usize,
) -> anyhow::Result<Report> {
    let large = Job { events, ..small };
    let before = drain::backlog(world, small).await?;
    let drained = drain::backlog(world, large).await?;
    let after = drain::backlog(world, small).await?;

    // The cost of a start is the same for all of them, and is subtracted. The extra cost of the first page of a large
    // backlog counts.
    let start = before.first.min(after.first);
    let small_rate = (before.per_second(start) + after.per_second(start)) / 2.0;
    let rate = drained.per_second(start);
    let report = Report::new("backlog", DB::KIND, world.servers, large)
        .figure("small_events", small.events)
        .figure("seconds", rounded(drained.took.as_secs_f64(), 1000.0))
        .figure("per_second", rate.round())
        .figure("small_per_second", small_rate.round())
        .figure("ratio", rounded(rate / small_rate, 1000.0))
        .figure("small_before", before.per_second(start).round())
        .figure("small_after", after.per_second(start).round())
        .figure("first_event_ms", millis(drained.first))
        .figure("small_first_event_ms", millis(start))
        .wrong(before.wrong + drained.wrong + after.wrong);
    Ok(with_memory(report, [&before, &drained, &after]))
}

/// Adds the peak memory of a relay, where it can be known.
pub(super) fn with_memory(report: Report, drained: [&Drained; 3]) -> Report {
    let peak = drained
        .iter()
        .filter_map(|drained| drained.peak_memory)
        .max();
    match peak {
        Some(bytes) => report.figure("relay_peak_mb", bytes.div_ceil(1024 * 1024)),
        None => report,
    }
}
