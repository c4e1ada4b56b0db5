//! The circuit under arbitrary sequences of successes and failures.

use super::*;
use proptest::prelude::*;

const SECOND: Duration = Duration::from_secs(1);

/// Attempts one event; `None` when no attempt may begin.
fn attempt(
    circuit: &mut Circuit,
    name: &str,
    ended: Attempted,
    now: Instant,
) -> Option<Option<Change>> {
    let permit = circuit.begin(now)?;
    Some(circuit.end(permit, name, ended, now))
}

fn opened(policy: CircuitBreaker, now: Instant) -> Circuit {
    let mut circuit = Circuit::new(policy);
    while circuit.gate(now) == Gate::Free {
        attempt(&mut circuit, "a.b", Attempted::Failed, now);
    }
    circuit
}

fn slow(concurrency: usize) -> Load {
    let timeout = 30 * SECOND;
    Load {
        concurrency,
        timeout,
    }
}

#[test]
fn an_open_circuit_adopts_a_shorter_pause_or_none() {
    let now = Instant::now();
    let hour = 3600 * SECOND;
    let policy = CircuitBreaker::default().open_for(hour, hour);
    let mut circuit = opened(policy, now);
    let change = circuit.adjust(policy, slow(16), now);
    assert_eq!(
        (change, circuit.gate(now)),
        (None, Gate::Until(now + hour)),
        "it has the same policy"
    );
    let shorter = policy.open_for(SECOND, 2 * SECOND);
    assert_eq!(circuit.adjust(shorter, slow(16), now), None);
    assert_eq!(circuit.gate(now), Gate::Until(now + 2 * SECOND));
    let change = circuit.adjust(CircuitBreaker::off(), slow(16), now);
    assert_eq!(
        (change, circuit.gate(now)),
        (Some(Change::Closed), Gate::Free)
    );
    for _ in 0..100 {
        attempt(&mut circuit, "a.b", Attempted::Failed, now);
    }
    assert_eq!(circuit.gate(now), Gate::Free);
}

#[test]
fn what_was_counted_stays_when_fewer_attempts_suffice() {
    let now = Instant::now();
    let policy = CircuitBreaker::default();
    let mut circuit = Circuit::new(policy).under(slow(16));
    for _ in 0..9 {
        attempt(&mut circuit, "a.b", Attempted::Failed, now);
    }
    circuit.adjust(policy.within(30 * SECOND, 10), slow(16), now);
    attempt(&mut circuit, "a.b", Attempted::Failed, now);
    assert_eq!(circuit.gate(now), Gate::Until(now + 5 * SECOND));
}

#[test]
fn a_breaker_is_shown_in_words() {
    assert_eq!(CircuitBreaker::off().to_string(), "off");
    let shown = "90% of 20 attempts in 30s, open for 5s to 60s";
    assert_eq!(CircuitBreaker::default().to_string(), shown);
}

#[test]
fn it_opens_when_everything_fails_and_closes_after_a_probe() {
    let mut now = Instant::now();
    let mut circuit = Circuit::new(CircuitBreaker::default());
    for _ in 0..19 {
        let change = attempt(&mut circuit, "a.b", Attempted::Failed, now);
        assert_eq!(change, Some(None));
    }
    assert!(circuit.counts_failures());
    let change = attempt(&mut circuit, "a.b", Attempted::Failed, now);
    let opened = Change::Opened {
        failed: 20,
        attempts: 20,
        pause: 5 * SECOND,
    };
    assert_eq!(change, Some(Some(opened)));
    assert!(!circuit.counts_failures());
    assert_eq!(circuit.gate(now), Gate::Until(now + 5 * SECOND));
    assert_eq!(circuit.shown(now), CircuitState::Open);

    now += 5 * SECOND;
    assert_eq!(
        (circuit.gate(now), circuit.shown(now)),
        (Gate::Probe, CircuitState::HalfOpen)
    );
    let probe = circuit.begin(now).expect("a probe");
    assert_eq!(
        (circuit.begin(now), circuit.gate(now)),
        (None, Gate::Probing)
    );
    let change = circuit.end(probe, "a.b", Attempted::Decided, now);
    assert_eq!(
        (change, circuit.gate(now)),
        (Some(Change::Closed), Gate::Free)
    );
    // The counts from before the outage are dropped.
    assert_eq!(
        attempt(&mut circuit, "a.b", Attempted::Failed, now),
        Some(None)
    );
}

#[test]
fn a_name_whose_handler_works_keeps_it_closed() {
    let now = Instant::now();
    let mut circuit = Circuit::new(CircuitBreaker::default());
    attempt(&mut circuit, "user.created", Attempted::Decided, now);
    for _ in 0..10_000 {
        attempt(&mut circuit, "user.deleted", Attempted::Failed, now);
    }
    assert_eq!(circuit.gate(now), Gate::Free);
    // It closes only until that name has not been attempted for the length of the window.
    let later = now + 31 * SECOND;
    for _ in 0..20 {
        attempt(&mut circuit, "user.deleted", Attempted::Failed, later);
    }
    assert_ne!(circuit.gate(later), Gate::Free);
}

#[test]
fn failures_older_than_the_window_are_forgotten() {
    let began = Instant::now();
    let mut circuit = Circuit::new(CircuitBreaker::default());
    for second in 0..200 {
        let now = began + second * 2 * SECOND;
        attempt(&mut circuit, "a.b", Attempted::Failed, now);
        assert_eq!(circuit.gate(now), Gate::Free, "15 in 30 s are not 20");
    }
}

#[test]
fn rejected_and_handed_back_events_are_no_failures() {
    let now = Instant::now();
    let mut circuit = Circuit::new(CircuitBreaker::default());
    for _ in 0..1000 {
        attempt(&mut circuit, "a.b", Attempted::Void, now);
    }
    for _ in 0..19 {
        attempt(&mut circuit, "a.b", Attempted::Failed, now);
    }
    for _ in 0..3 {
        attempt(&mut circuit, "a.b", Attempted::Decided, now);
    }
    for _ in 0..7 {
        attempt(&mut circuit, "a.b", Attempted::Failed, now);
    }
    assert_eq!(circuit.gate(now), Gate::Free, "26 of 29 are not 90 %");
    attempt(&mut circuit, "a.b", Attempted::Failed, now);
    assert_ne!(circuit.gate(now), Gate::Free, "27 of 30 are");
}

#[test]
fn attempts_started_before_it_opened_are_ignored() {
    let mut now = Instant::now();
    let mut circuit = Circuit::new(CircuitBreaker::default());
    let [early, late] = [(); 2].map(|()| circuit.begin(now).expect("it is closed"));
    while attempt(&mut circuit, "a.b", Attempted::Failed, now).is_some() {}
    assert_eq!(circuit.end(early, "a.b", Attempted::Decided, now), None);
    now += 5 * SECOND;
    let probe = circuit.begin(now).expect("a probe");
    assert_eq!(circuit.end(late, "a.b", Attempted::Decided, now), None);
    assert_eq!(circuit.gate(now), Gate::Probing);
    let change = circuit.end(probe, "a.b", Attempted::Failed, now);
    assert_eq!(change, Some(Change::StaysOpen { pause: 10 * SECOND }));
}

#[test]
fn a_probe_without_a_result_is_followed_by_another() {
    let mut now = Instant::now();
    let mut circuit = opened(CircuitBreaker::default(), now);
    now += 5 * SECOND;
    assert_eq!(
        attempt(&mut circuit, "a.b", Attempted::Void, now),
        Some(None)
    );
    assert_eq!(circuit.gate(now), Gate::Probe);
}

#[test]
fn the_pause_doubles_up_to_the_longest() {
    let mut now = Instant::now();
    let mut circuit = opened(CircuitBreaker::default(), now);
    let mut pauses = Vec::new();
    for _ in 0..5 {
        now += 60 * SECOND;
        match attempt(&mut circuit, "a.b", Attempted::Failed, now) {
            Some(Some(Change::StaysOpen { pause })) => pauses.push(pause.as_secs()),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(pauses, [10, 20, 40, 60, 60]);
}

#[test]
fn it_never_opens_when_it_is_off() {
    let now = Instant::now();
    let mut circuit = Circuit::new(CircuitBreaker::off());
    for _ in 0..100_000 {
        attempt(&mut circuit, "a.b", Attempted::Failed, now);
    }
    assert_eq!(circuit.gate(now), Gate::Free);
}

/// Makes every handler hang, with this many events, until the circuit opens. Returns how long that took, and how often
/// the event with the most attempts had failed.
fn hangs(policy: CircuitBreaker, load: Load, events: usize) -> Option<(Duration, u32)> {
    let began = Instant::now();
    let mut circuit = Circuit::new(policy).under(load);
    let at_once = load.concurrency.min(events);
    let mut attempts = vec![0; events];
    let mut next = 0;
    for round in 1..1_000 {
        let now = began + load.timeout * (round - 1);
        let permits: Vec<_> = (0..at_once).map_while(|_| circuit.begin(now)).collect();
        let now = began + load.timeout * round;
        for permit in permits {
            attempts[next % events] += 1;
            next += 1;
            let change = circuit.end(permit, "a.b", Attempted::Failed, now);
            if change.is_some() {
                return Some((now - began, attempts.into_iter().max()?));
            }
        }
    }
    None
}

fn load(concurrency: usize, timeout: Duration) -> Load {
    Load {
        concurrency,
        timeout,
    }
}

#[test]
fn it_opens_with_all_defaults_when_every_handler_hangs() {
    let opened = hangs(CircuitBreaker::default(), load(16, 30 * SECOND), 400);
    assert_eq!(opened, Some((60 * SECOND, 1)), "with the second round");
    // With fewer events than could be handled at once.
    let opened = hangs(CircuitBreaker::default(), load(64, 30 * SECOND), 8);
    assert_eq!(opened, Some((90 * SECOND, 3)));
}

#[test]
fn it_opens_for_every_concurrency_and_every_timeout() {
    let timeouts = [
        1, 100, 2_000, 27_000, 29_000, 30_000, 31_000, 600_000, 86_400_000,
    ];
    for concurrency in (1..=25).chain([100, 10_000]) {
        for timeout in timeouts.map(Duration::from_millis) {
            let load = load(concurrency, timeout);
            let opened = hangs(CircuitBreaker::default(), load, 10_000);
            let rounds = 20_u32.div_ceil(u32::try_from(concurrency).unwrap());
            assert_eq!(opened, Some((timeout * rounds, 1)), "{load:?}");
        }
    }
    assert_eq!(
        hangs(CircuitBreaker::off(), load(16, 30 * SECOND), 400),
        None
    );
    let forever = load(1, Duration::MAX);
    assert!(
        Circuit::new(CircuitBreaker::default())
            .under(forever)
            .slow
            .is_some()
    );
}

#[test]
fn one_event_that_hangs_in_every_attempt_does_not_open_it() {
    for concurrency in [1, 16] {
        let load = load(concurrency, 30 * SECOND);
        let mut circuit = Circuit::new(CircuitBreaker::default()).under(load);
        let mut now = Instant::now();
        // Eight attempts, the default.
        for attempt in 0..8 {
            let permit = circuit.begin(now).expect("it is closed");
            now += load.timeout;
            circuit.end(permit, "a.b", Attempted::Failed, now);
            assert_eq!(circuit.gate(now), Gate::Free);
            now += SECOND * 2_u32.pow(attempt);
        }
    }
}

#[test]
fn simultaneous_failures_are_forgotten_after_the_window() {
    let mut circuit = Circuit::new(CircuitBreaker::default()).under(load(1, 30 * SECOND));
    let began = Instant::now();
    for second in 0..200 {
        let now = began + second * 2 * SECOND;
        attempt(&mut circuit, "a.b", Attempted::Failed, now);
        assert_eq!(circuit.gate(now), Gate::Free, "15 in 30 s are not 20");
    }
}

#[test]
fn a_few_that_hang_among_many_that_succeed_do_not_open_it() {
    let load = load(16, 30 * SECOND);
    let mut circuit = Circuit::new(CircuitBreaker::default()).under(load);
    let mut now = Instant::now();
    for _ in 0..50 {
        let hanging: Vec<_> = (0..15).map_while(|_| circuit.begin(now)).collect();
        for _ in 0..5 {
            now += 6 * SECOND;
            attempt(&mut circuit, "a.b", Attempted::Decided, now);
        }
        for permit in hanging {
            circuit.end(permit, "a.b", Attempted::Failed, now);
            assert_eq!(circuit.gate(now), Gate::Free, "one in four succeeds");
        }
    }
}

#[test]
fn attempts_that_hung_before_it_closed_are_forgotten() {
    let load = load(16, 30 * SECOND);
    let mut circuit = Circuit::new(CircuitBreaker::default()).under(load);
    let mut now = Instant::now();
    while circuit.gate(now) == Gate::Free {
        let permits: Vec<_> = (0..16).map_while(|_| circuit.begin(now)).collect();
        now += load.timeout;
        for permit in permits {
            circuit.end(permit, "a.b", Attempted::Failed, now);
        }
    }
    now += 5 * SECOND;
    attempt(&mut circuit, "a.b", Attempted::Decided, now);
    let permit = circuit.begin(now).expect("it is closed");
    now += load.timeout;
    circuit.end(permit, "a.b", Attempted::Failed, now);
    assert_eq!(circuit.gate(now), Gate::Free);
}

proptest! {
    /// For any sequence: an open circuit has at most one attempt running, apart from those that began before it opened,
    /// and successes can always close it.
    #[test]
    fn an_open_circuit_has_one_probe_and_can_close(
        steps in proptest::collection::vec((0u64..8_000, 0u8..4, any::<prop::sample::Index>()), 1..300),
        attempts in 1u32..8, percent in 1u8..=100,
    ) {
        let policy = CircuitBreaker::default().within(10 * SECOND, attempts).share(percent);
        let mut circuit = Circuit::new(policy);
        let mut now = Instant::now();
        let mut running: Vec<Permit> = Vec::new();
        for (millis, what, which) in steps {
            now += Duration::from_millis(millis);
            if let Gate::Until(until) = circuit.gate(now) {
                prop_assert!(until > now && until <= now + policy.longest);
                prop_assert!(circuit.begin(now).is_none());
            }
            match what {
                0 | 1 => running.extend(circuit.begin(now)),
                _ if running.is_empty() => {}
                what => {
                    let permit = running.swap_remove(which.index(running.len()));
                    let ended = if what == 2 { Attempted::Failed } else { Attempted::Decided };
                    circuit.end(permit, "a.b", ended, now);
                }
            }
            let probes = running.iter().filter(|permit| permit.probe.is_some()).count();
            prop_assert!(probes <= 1);
        }
        for permit in running {
            circuit.end(permit, "a.b", Attempted::Decided, now);
        }
        now += policy.longest;
        attempt(&mut circuit, "a.b", Attempted::Decided, now);
        prop_assert_eq!(circuit.gate(now), Gate::Free);
    }

    /// It opens exactly when the window holds enough attempts and the percentage of them has failed.
    #[test]
    fn it_opens_by_the_share_of_one_name(
        ended in proptest::collection::vec(any::<bool>(), 1..80), attempts in 1u32..40, percent in 1u8..=100,
    ) {
        let policy = CircuitBreaker::default().within(30 * SECOND, attempts).share(percent);
        let mut circuit = Circuit::new(policy);
        let now = Instant::now();
        let (mut all, mut failed) = (0u32, 0u32);
        for has_failed in ended {
            let how = if has_failed { Attempted::Failed } else { Attempted::Decided };
            let change = attempt(&mut circuit, "a.b", how, now).expect("closed until now");
            all += 1;
            failed += u32::from(has_failed);
            let is_enough = has_failed && all >= attempts && failed * 100 >= all * u32::from(percent);
            prop_assert_eq!(change.is_some(), is_enough);
            if is_enough {
                break;
            }
        }
    }
}
