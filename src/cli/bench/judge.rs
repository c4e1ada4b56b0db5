//! Reads the stream that was measured with and counts what is wrong in it. Millions of events cost it a
//! bit each, and a number a key.

use std::collections::HashMap;

use anyhow::ensure;
use tidings::Start;

use super::{
    event::Written,
    report::Wrong,
    store::BenchStore,
    world::{STREAM, World},
};

/// What is missing, there twice, or out of order within its key, of events with the numbers from 0 on.
pub(super) async fn judge<DB: BenchStore>(
    world: &World<DB>,
    events: usize,
) -> anyhow::Result<Wrong> {
    let mut reader = world.bus.read(STREAM, &[], Start::Beginning).await?;
    let mut account = Account::new(events);
    while reader.pending() > 0 {
        let event: Written = reader.next().await?.envelope?.decode()?;
        account.enter(event)?;
    }
    Ok(account.wrong())
}

struct Account {
    events: usize,
    seen: Vec<u64>,
    last: HashMap<String, usize>,
    wrong: Wrong,
}

impl Account {
    fn new(events: usize) -> Self {
        Self {
            events,
            seen: vec![0; events.div_ceil(64)],
            last: HashMap::new(),
            wrong: Wrong::default(),
        }
    }

    fn enter(&mut self, Written { key, number, .. }: Written) -> anyhow::Result<()> {
        ensure!(number < self.events, "event {number} was never written");
        let (word, bit) = (&mut self.seen[number / 64], 1 << (number % 64));
        if *word & bit != 0 {
            self.wrong.duplicates += 1;
            return Ok(());
        }
        *word |= bit;
        let before = self.last.insert(key, number);
        if before.is_some_and(|before| before > number) {
            self.wrong.inversions += 1;
        }
        Ok(())
    }

    fn wrong(self) -> Wrong {
        let seen: u32 = self.seen.iter().map(|word| word.count_ones()).sum();
        Wrong {
            lost: self.events - seen as usize,
            ..self.wrong
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::Job, *};

    const JOB: Job = Job {
        events: 130,
        payload: 64,
        keys: 10,
    };

    fn judged(numbers: impl IntoIterator<Item = usize>) -> Wrong {
        let mut account = Account::new(JOB.events);
        for number in numbers {
            account.enter(Written::new(JOB, number)).unwrap();
        }
        account.wrong()
    }

    #[test]
    fn what_is_missing_double_or_inverted_is_counted() {
        assert_eq!(judged(0..130), Wrong::default());
        // Events of different keys may pass each other.
        let backwards = (0..13).flat_map(|of_key| (0..10).rev().map(move |key| of_key * 10 + key));
        assert_eq!(judged(backwards), Wrong::default());
        let wrong = judged((0..128).filter(|n| *n != 64).chain([5]));
        assert_eq!((wrong.lost, wrong.duplicates, wrong.inversions), (3, 1, 0));
        let wrong = judged(
            (0..110)
                .chain([121, 111, 110])
                .chain(112..121)
                .chain(122..130),
        );
        assert_eq!((wrong.lost, wrong.duplicates, wrong.inversions), (0, 0, 1));
    }

    #[test]
    fn an_event_that_nobody_wrote_is_an_error() {
        let mut account = Account::new(10);
        assert!(account.enter(Written::new(JOB, 10)).is_err());
    }
}
