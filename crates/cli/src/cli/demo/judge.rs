//! Compares the committed events with the stream and with the events that the handlers saw.

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, Instant},
};

use tidings::{Bus, Context, EventId, StartFrom};
use uuid::Uuid;

use super::{Shared, load::Truth, locked, service::App};
use crate::cli::report::{Exit, Outcome, Report};

const WELCOME: &str = "welcome-email";
const DIRECTORY: &str = "user-directory";

/// The events that the handlers saw, in order. Clones share the notes.
#[derive(Clone, Default)]
pub(super) struct Handled(Shared<Vec<Note>>);

#[derive(Debug, Clone)]
struct Note {
    subscriber: String,
    event: EventId,
    at: Instant,
}

impl Handled {
    pub(super) fn note(&self, cx: &Context<App>) {
        locked(&self.0).push(Note {
            subscriber: cx.subscriber().to_owned(),
            event: cx.event_id(),
            at: Instant::now(),
        });
    }

    fn of(&self, subscriber: &str) -> Vec<Note> {
        let notes = locked(&self.0);
        notes
            .iter()
            .filter(|note| note.subscriber == subscriber)
            .cloned()
            .collect()
    }
}

/// Waits until both subscribers have seen all their events; false when the time is over first.
pub(super) async fn until_handled(handled: &Handled, truth: &Truth, patience: Duration) -> bool {
    let events = |subscriber| {
        let seen: HashSet<_> = handled
            .of(subscriber)
            .iter()
            .map(|note| note.event)
            .collect();
        seen.len()
    };
    let all = async {
        while events(WELCOME) < truth.created() || events(DIRECTORY) < truth.committed.len() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(patience, all).await.is_ok()
}

pub(super) struct Judge<'a> {
    truth: &'a Truth,
    handled: &'a Handled,
}

/// One column of the verdict: the stream, or a subscriber.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Counts {
    events: usize,
    lost: usize,
    duplicated: usize,
    out_of_order: usize,
    /// Events that were never committed.
    invented: usize,
}

pub(super) struct Verdict {
    committed: usize,
    rolled_back: usize,
    columns: [Counts; 3],
    latency: [Duration; 2],
}

impl<'a> Judge<'a> {
    pub(super) fn new(truth: &'a Truth, handled: &'a Handled) -> Self {
        Self { truth, handled }
    }

    pub(super) async fn verdict(&self, bus: &Bus) -> Result<Verdict, Report> {
        let ids = |subscriber| -> Vec<EventId> {
            self.handled
                .of(subscriber)
                .iter()
                .map(|note| note.event)
                .collect()
        };
        let created = |change: i64| change == 1;
        Ok(Verdict {
            committed: self.truth.committed.len(),
            rolled_back: self.truth.rolled_back,
            columns: [
                self.count(&self.stream(bus).await?, |_| true),
                self.count(&ids(WELCOME), created),
                self.count(&ids(DIRECTORY), |_| true),
            ],
            latency: self.latency(),
        })
    }

    /// Reads the stream to its end.
    async fn stream(&self, bus: &Bus) -> Result<Vec<EventId>, Report> {
        let mut reader = bus.read("EVENTS", &[], StartFrom::Beginning).await?;
        let mut ids = Vec::new();
        while reader.pending() > 0 {
            let seen = reader.next().await?;
            let envelope = seen
                .envelope
                .map_err(|error| Report::of(Exit::Failed, &error))?;
            ids.push(envelope.id());
        }
        Ok(ids)
    }

    fn count(&self, seen: &[EventId], wanted: impl Fn(i64) -> bool) -> Counts {
        let mut counts = Counts {
            events: seen.len(),
            ..Counts::default()
        };
        let mut known = HashSet::new();
        let mut last: HashMap<Uuid, i64> = HashMap::new();
        for id in seen {
            let Some(event) = self.truth.committed.get(id) else {
                counts.invented += 1;
                continue;
            };
            if !known.insert(*id) {
                counts.duplicated += 1;
                continue;
            }
            let before = last.insert(event.user, event.change);
            if before.is_some_and(|before| before > event.change) {
                counts.out_of_order += 1;
            }
        }
        let missing = |(id, change): (&EventId, i64)| wanted(change) && !known.contains(id);
        let committed = self.truth.committed.iter();
        counts.lost = committed
            .filter(|(id, event)| missing((id, event.change)))
            .count();
        counts
    }

    /// Median and 99th percentile of the time from commit to the handler of the directory.
    fn latency(&self) -> [Duration; 2] {
        let mut times: Vec<Duration> = self
            .handled
            .of(DIRECTORY)
            .iter()
            .filter_map(|note| {
                let event = self.truth.committed.get(&note.event)?;
                Some(note.at.saturating_duration_since(event.at))
            })
            .collect();
        times.sort_unstable();
        [50, 99].map(|share| {
            times
                .get(times.len() * share / 100)
                .copied()
                .unwrap_or_default()
        })
    }
}

impl Verdict {
    pub(super) fn is_clean(&self) -> bool {
        self.columns.iter().all(|column| {
            let Counts {
                lost,
                duplicated,
                out_of_order,
                invented,
                ..
            } = column;
            lost + duplicated + out_of_order + invented == 0
        })
    }

    pub(super) fn table(&self) -> Vec<[String; 4]> {
        let head = ["", "stream", WELCOME, DIRECTORY].map(str::to_owned);
        let row = |name: &str, value: fn(&Counts) -> usize| {
            let [stream, welcome, directory] = self.columns.each_ref().map(value);
            [
                name.to_owned(),
                stream.to_string(),
                welcome.to_string(),
                directory.to_string(),
            ]
        };
        let single =
            |name: &str, value: String| [name.to_owned(), value, String::new(), String::new()];
        let [p50, p99] = self
            .latency
            .map(|time| format!("{:.1} ms", time.as_secs_f64() * 1000.0));
        vec![
            single("committed", self.committed.to_string()),
            single("rolled back", self.rolled_back.to_string()),
            head,
            row("events", |column| column.events),
            row("lost", |column| column.lost),
            row("duplicated", |column| column.duplicated),
            row("out of order", |column| column.out_of_order),
            row("never committed", |column| column.invented),
            single("commit to handler", format!("p50 {p50}")),
            single("  with the relay's death", format!("p99 {p99}")),
        ]
    }

    pub(super) fn outcome(&self) -> Outcome {
        if self.is_clean() {
            return Ok(());
        }
        Err(Report::new(
            Exit::Failed,
            "events were lost, duplicated, out of order, or never committed",
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::demo::load::Committed;

    fn truth(user: Uuid, ids: &[EventId]) -> Truth {
        let event = |(id, change): (&EventId, i64)| {
            (
                *id,
                Committed {
                    user,
                    change,
                    at: Instant::now(),
                },
            )
        };
        Truth {
            committed: ids.iter().zip(1..).map(event).collect(),
            rolled_back: 0,
        }
    }

    #[test]
    fn faults_are_counted() {
        let ids: Vec<EventId> = (0..3).map(|_| EventId::now()).collect();
        let truth = truth(Uuid::now_v7(), &ids);
        let handled = Handled::default();
        let judge = Judge::new(&truth, &handled);
        let count = |seen: &[EventId]| {
            let Counts {
                lost,
                duplicated,
                out_of_order,
                invented,
                ..
            } = judge.count(seen, |_| true);
            [lost, duplicated, out_of_order, invented]
        };
        assert_eq!(count(&ids), [0, 0, 0, 0]);
        assert_eq!(count(&ids[..2]), [1, 0, 0, 0]);
        assert_eq!(count(&[ids[0], ids[0], ids[1], ids[2]]), [0, 1, 0, 0]);
        assert_eq!(count(&[ids[1], ids[0], ids[2]]), [0, 0, 1, 0]);
        assert_eq!(
            count(&[ids[0], ids[1], ids[2], EventId::now()]),
            [0, 0, 0, 1]
        );
    }

    #[test]
    fn a_verdict_with_a_fault_is_a_failure() {
        let verdict = |lost| Verdict {
            committed: 1,
            rolled_back: 0,
            latency: [Duration::ZERO; 2],
            columns: [
                Counts {
                    lost,
                    ..Counts::default()
                },
                Counts::default(),
                Counts::default(),
            ],
        };
        assert!(verdict(0).outcome().is_ok());
        assert!(verdict(1).outcome().is_err());
    }
}
