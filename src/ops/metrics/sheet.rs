//! The series of one scrape, by metric, in the order of the table. Never keeps a value for the next scrape.

use std::{collections::HashMap, fmt, sync::Arc};

use prometheus_client::{
    encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder, NoLabelSet},
    metrics::{MetricType, exemplar::HistogramWithExemplars},
};

use super::{
    families::{ALL, Family},
    histogram::Snapshot,
    trace_id::Exemplar,
};

/// A value of a label.
pub(super) type Label = Arc<str>;

#[derive(Debug, Default)]
pub(super) struct Sheet(HashMap<&'static str, Vec<Series>>);

#[derive(Debug)]
struct Series {
    labels: Vec<(&'static str, Label)>,
    value: Value,
}

#[derive(Debug)]
enum Value {
    Number(f64),
    Count(u64),
    Histogram(Snapshot),
    WithExemplars(HistogramWithExemplars<Exemplar>),
}

impl Sheet {
    pub(super) fn gauge<const N: usize>(
        &mut self,
        family: &'static Family<N>,
        labels: [&Label; N],
        value: f64,
    ) {
        self.add(family, labels, Value::Number(value));
    }

    pub(super) fn count<const N: usize>(
        &mut self,
        family: &'static Family<N>,
        labels: [&Label; N],
        value: u64,
    ) {
        self.add(family, labels, Value::Count(value));
    }

    pub(super) fn histogram<const N: usize>(
        &mut self,
        family: &'static Family<N>,
        labels: [&Label; N],
        value: Snapshot,
    ) {
        self.add(family, labels, Value::Histogram(value));
    }

    pub(super) fn with_exemplars<const N: usize>(
        &mut self,
        family: &'static Family<N>,
        labels: [&Label; N],
        value: &HistogramWithExemplars<Exemplar>,
    ) {
        self.add(family, labels, Value::WithExemplars(value.clone()));
    }

    fn add<const N: usize>(
        &mut self,
        family: &'static Family<N>,
        labels: [&Label; N],
        value: Value,
    ) {
        let labels = family.labels.into_iter().zip(labels);
        let labels = labels.map(|(name, label)| (name, Arc::clone(label)));
        self.0.entry(family.name).or_default().push(Series {
            labels: labels.collect(),
            value,
        });
    }

    /// Makes one series of those with the same labels, which two workers of a process have: of gauges the largest, of
    /// counters the sum.
    pub(super) fn merge(&mut self) {
        for series in self.0.values_mut() {
            series.sort_by(|one, other| one.labels.cmp(&other.labels));
            series.dedup_by(|other, one| {
                let is_same = one.labels == other.labels;
                if is_same {
                    match (&mut one.value, &other.value) {
                        (Value::Number(one), Value::Number(other)) => *one = one.max(*other),
                        (Value::Count(one), Value::Count(other)) => *one += other,
                        // A process has one of each histogram: all workers count in it.
                        _ => {}
                    }
                }
                is_same
            });
        }
    }

    /// Writes all series. A metric without one is left out.
    pub(super) fn encode(mut self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for row in ALL {
            let Some(series) = self.0.remove(row.name) else {
                continue;
            };
            // The encoder appends it.
            let name = match row.kind {
                MetricType::Counter => row.name.strip_suffix("_total").unwrap_or(row.name),
                _ => row.name,
            };
            let mut family = encoder.encode_descriptor(name, row.help, None, row.kind)?;
            for Series { labels, value } in &series {
                value.encode(family.encode_family(labels)?)?;
            }
        }
        Ok(())
    }
}

impl Value {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        match self {
            Self::Number(value) => encoder.encode_gauge(value),
            Self::Count(value) => encoder.encode_counter::<NoLabelSet, u64, u64>(value, None),
            Self::Histogram(Snapshot {
                sum,
                count,
                buckets,
            }) => encoder.encode_histogram::<NoLabelSet>(*sum, *count, buckets, None),
            Self::WithExemplars(histogram) => histogram.encode(encoder),
        }
    }
}
