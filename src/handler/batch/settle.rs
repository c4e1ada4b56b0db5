//! Turns one result for many events into a result for each. Calls nothing but the attempt that it is given.

use std::ops::Range;

use crate::policy::{
    failure::{Failure, Verdict},
    outcome::Handled,
};

/// The result of one attempt with some events.
pub(crate) enum Attempted {
    /// A result for each event.
    Each(Vec<Result<Handled, Failure>>),
    /// The events with the result `Done` failed together; the other events have their own result.
    Together(Vec<Result<Handled, Failure>>, Failure),
}

/// When this many events have each failed alone, and none has succeeded, the events are not at fault.
const ALONE: usize = 4;

/// Attempts all events. Events that failed together are attempted again in halves, the first half first, until each has
/// its own result. This search is left out when it would find nothing: when a dependency of the handler is unavailable,
/// when the handler says how long to wait, or when every event fails.
pub(crate) async fn settle<F, Fut>(events: usize, attempt: F) -> Vec<Result<Handled, Failure>>
where
    F: Fn(Range<usize>) -> Fut,
    Fut: Future<Output = Attempted>,
{
    let mut settled: Vec<Result<Handled, Failure>> = Vec::with_capacity(events);
    let mut alone = 0;
    // A stack: the last range is attempted next.
    let mut open = Vec::new();
    open.push(0..events);
    while let Some(range) = open.pop() {
        let (start, end) = (range.start, range.end);
        let (results, failure) = match attempt(range).await {
            Attempted::Each(results) => {
                settled.extend(results);
                continue;
            }
            Attempted::Together(results, failure) => (results, failure),
        };
        let together = results.iter().filter(|result| is_open(result)).count();
        if together > 1 && is_of_one(failure.verdict) {
            let middle = start + (end - start) / 2;
            open.push(middle..end);
            open.push(start..middle);
            continue;
        }
        let own = |result| match is_open(&result) {
            true => Err(failure.copy()),
            false => result,
        };
        settled.extend(results.into_iter().map(own));
        alone += usize::from(failure.verdict == Verdict::Retry);
        if alone >= ALONE && !settled.iter().any(is_open) {
            let rest = settled.len()..events;
            settled.extend(rest.map(|_| Err(failure.undecided())));
            break;
        }
    }
    settled
}

fn is_open(result: &Result<Handled, Failure>) -> bool {
    matches!(result, Ok(Handled::Done))
}

/// Whether a failure of many events may be the fault of one of them.
fn is_of_one(verdict: Verdict) -> bool {
    match verdict {
        Verdict::Retry | Verdict::Reject => true,
        Verdict::RetryAfter(_)
        | Verdict::Unavailable
        | Verdict::Undecided
        | Verdict::Undecodable
        | Verdict::OutsideInbox => false,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use futures::FutureExt;
    use proptest::prelude::*;

    use super::*;

    fn settled(
        events: usize,
        attempt: impl Fn(Range<usize>) -> Attempted,
    ) -> Vec<Result<Handled, Failure>> {
        let settling = settle(events, |range| std::future::ready(attempt(range)));
        settling.now_or_never().unwrap()
    }

    fn open(range: &Range<usize>) -> Vec<Result<Handled, Failure>> {
        range.clone().map(|_| Ok(Handled::Done)).collect()
    }

    proptest! {
        /// For any events at fault: only they fail, each event has one result, and the number of calls is bounded.
        #[test]
        fn failing_events_of_a_batch_affect_no_others(at_fault in proptest::collection::vec(any::<bool>(), 1..200)) {
            let calls = Mutex::new(0);
            let results = settled(at_fault.len(), |range| {
                *calls.lock().unwrap() += 1;
                match at_fault[range.clone()].contains(&true) {
                    true => Attempted::Together(open(&range), Failure::reject("x")),
                    false => Attempted::Each(open(&range)),
                }
            });
            let failed: Vec<bool> = results.iter().map(Result::is_err).collect();
            prop_assert_eq!(&failed, &at_fault);
            let culprits = at_fault.iter().filter(|is| **is).count();
            let depth = at_fault.len().next_power_of_two().ilog2() as usize;
            prop_assert!(calls.into_inner().unwrap() <= 1 + 2 * depth * culprits);
        }
    }

    #[test]
    fn a_batch_that_fails_altogether_is_not_tried_one_by_one() {
        let calls = Mutex::new(0);
        let results = settled(1_000, |range| {
            *calls.lock().unwrap() += 1;
            Attempted::Together(open(&range), Failure::retry("x"))
        });
        let of = |verdict| {
            let failures = results.iter().filter_map(|result| result.as_ref().err());
            failures
                .filter(|failure| failure.verdict == verdict)
                .count()
        };
        assert_eq!((of(Verdict::Retry), of(Verdict::Undecided)), (4, 996));
        assert!(calls.into_inner().unwrap() < 20);
    }

    #[test]
    fn many_failing_events_are_all_found_when_others_succeed() {
        let results = settled(100, |range| match range.clone().any(|at| at > 0) {
            true => Attempted::Together(open(&range), Failure::retry("x")),
            false => Attempted::Each(open(&range)),
        });
        let failures = results.iter().filter_map(|result| result.as_ref().err());
        let verdicts: Vec<_> = failures.map(|failure| failure.verdict).collect();
        assert_eq!(verdicts, [Verdict::Retry; 99]);
    }

    #[test]
    fn a_deferral_of_a_batch_defers_all_its_events() {
        use std::time::Duration;
        for failure in [
            Failure::unavailable("x"),
            Failure::retry_after(Duration::ZERO, "x"),
        ] {
            let calls = Mutex::new(0);
            let results = settled(8, |range| {
                *calls.lock().unwrap() += 1;
                Attempted::Together(open(&range), failure.copy())
            });
            assert!(results.iter().all(Result::is_err));
            assert_eq!(calls.into_inner().unwrap(), 1);
        }
    }

    #[test]
    fn an_event_with_its_own_result_keeps_it() {
        let results = settled(2, |_| {
            let results = vec![Ok(Handled::Already), Ok(Handled::Done)];
            Attempted::Together(results, Failure::reject("x"))
        });
        assert!(matches!(results[..], [Ok(Handled::Already), Err(_)]));
    }
}
