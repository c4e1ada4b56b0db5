//! The result of a measurement, for people and for programs.

use std::{fmt, ops::Add, time::Duration};

use anyhow::bail;
use serde_json::{Map, Value, json};

use super::{Job, between::Between, raw::per_second};

/// One measurement.
pub(super) struct Report {
    bench: &'static str,
    store: &'static str,
    servers: &'static str,
    job: Job,
    figures: Vec<(&'static str, Value)>,
}

/// The errors that a check found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Wrong {
    pub(super) lost: usize,
    pub(super) duplicates: usize,
    pub(super) out_of_order: usize,
}

impl Add for Wrong {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            lost: self.lost + other.lost,
            duplicates: self.duplicates + other.duplicates,
            out_of_order: self.out_of_order + other.out_of_order,
        }
    }
}

impl Report {
    pub(super) fn new(
        bench: &'static str,
        store: &'static str,
        servers: &'static str,
        job: Job,
    ) -> Self {
        Self {
            bench,
            store,
            servers,
            job,
            figures: Vec::new(),
        }
    }

    pub(super) fn figure(mut self, name: &'static str, value: impl Into<Value>) -> Self {
        self.figures.push((name, value.into()));
        self
    }

    /// Adds the rate, the limit, and their ratio.
    pub(super) fn against(self, seconds: f64, per_second: f64, limit: f64) -> Self {
        self.figure("seconds", rounded(seconds, 1000.0))
            .figure("per_second", rounded(per_second, 1.0))
            .figure("limit_per_second", rounded(limit, 1.0))
            .figure("ratio", rounded(per_second / limit, 1000.0))
    }

    pub(super) fn wrong(self, wrong: Wrong) -> Self {
        self.figure("lost", wrong.lost)
            .figure("duplicates", wrong.duplicates)
            .figure("out_of_order", wrong.out_of_order)
    }

    /// Adds the measured rate, the limit of the same run, and the processor time of each.
    pub(super) fn between<T>(self, took: Duration, between: &Between<T>) -> Self {
        let rate = per_second(self.job.events, took);
        let report = self
            .against(took.as_secs_f64(), rate, between.limit())
            .figure("limit_before", between.before.round())
            .figure("limit_after", between.after.round());
        let Some([ours, limits]) = between.cores else {
            return report;
        };
        #[allow(clippy::cast_precision_loss)] // a rate
        let each = |seconds: f64| rounded(seconds / report.job.events as f64 * 1e6, 10.0);
        let (ours, limit) = (each(ours), each(limits / 2.0));
        report
            .figure("core_us_per_event", ours)
            .figure("limit_core_us_per_event", limit)
    }

    pub(super) fn json(&self) -> Value {
        let mut object = Map::new();
        object.insert("bench".into(), json!(self.bench));
        object.insert("store".into(), json!(self.store));
        object.insert("servers".into(), json!(self.servers));
        object.insert("events".into(), json!(self.job.events));
        object.insert("payload_bytes".into(), json!(self.job.payload));
        object.insert("keys".into(), json!(self.job.keys));
        for (name, value) in &self.figures {
            object.insert((*name).to_owned(), value.clone());
        }
        Value::Object(object)
    }

    /// Fails when events were lost, duplicated or reordered: then the rate is meaningless.
    pub(super) fn verdict(&self) -> anyhow::Result<()> {
        for (name, value) in &self.figures {
            if matches!(*name, "lost" | "duplicates" | "out_of_order") && value.as_u64() != Some(0)
            {
                bail!("{name} is {value}: the measurement does not count");
            }
        }
        Ok(())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Job {
            events,
            payload,
            keys,
        } = self.job;
        writeln!(f, "{} on {}", self.bench, self.store)?;
        writeln!(f, "  {events} events of {payload} bytes over {keys} keys")?;
        writeln!(f, "  servers: {}", self.servers)?;
        for (name, value) in &self.figures {
            writeln!(
                f,
                "  {:<22} {:>12}",
                name.replace('_', " "),
                value.to_string()
            )?;
        }
        Ok(())
    }
}

/// Median, 99th percentile and maximum of durations, in microseconds.
pub(super) fn percentiles(mut times: Vec<Duration>) -> [u64; 3] {
    times.sort_unstable();
    let at = |share: usize| {
        let place = (times.len() * share / 100).min(times.len().saturating_sub(1));
        times.get(place).map_or(0, |time| {
            u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
        })
    };
    [at(50), at(99), at(100)]
}

pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

pub(super) fn rounded(value: f64, steps: f64) -> f64 {
    (value * steps).round() / steps
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_sorted_times() {
        let times = (1..=200).rev().map(Duration::from_micros).collect();
        assert_eq!(percentiles(times), [101, 199, 200]);
        assert_eq!(percentiles(Vec::new()), [0, 0, 0]);
    }

    #[test]
    fn a_measurement_with_a_lost_event_fails() {
        let job = Job {
            events: 1,
            payload: 1,
            keys: 1,
        };
        let report = |lost| {
            Report::new("relay", "sqlite", "given", job)
                .against(1.0, 60.0, 100.0)
                .wrong(Wrong {
                    lost,
                    ..Wrong::default()
                })
        };
        assert!(report(0).verdict().is_ok());
        assert!(report(1).verdict().is_err());
        assert_eq!(report(0).json()["ratio"], json!(0.6));
    }
}
