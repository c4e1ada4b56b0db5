//! The executor with handlers that hang, in virtual time.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
};

use chrono::Utc;
use tidings_contract::{Event, wire::ReadError};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::throttle::Begin;
use super::*;
use crate::{
    observer::{Observation, Observer},
    policy::breaker::{CircuitState, Permit},
    position::Position,
};

#[derive(serde::Serialize, serde::Deserialize)]
struct Created;

impl Event for Created {
    const NAME: &'static str = "user.created";
    const VERSION: u32 = 1;

    fn key(&self) -> Option<String> {
        None
    }
}

/// Confirms every answer at once.
struct Confirms;

impl Acknowledger for Confirms {
    async fn ack(&self) -> Result<(), AckError> {
        Ok(())
    }
    async fn retry(&self, _: Duration, _: &Past) -> Result<(), AckError> {
        Ok(())
    }
    async fn hand_back(&self, _: Duration) -> Result<(), AckError> {
        Ok(())
    }
    async fn dead_letter(&self, _: &DeadLetter) -> Result<u64, AckError> {
        Ok(0)
    }
}

fn delivery(sequence: u64) -> Delivery {
    let envelope = Envelope::raw("user.created", 1, None, "null").unwrap();
    Delivery {
        envelope: Ok(envelope.into()),
        subject: "user.created".into(),
        stream: "EVENTS".into(),
        sequence,
        stored_at: Utc::now(),
        position: Position::from((sequence, 0)),
        consumer_sequence: sequence,
        delivered: 1,
        is_suspect: false,
        past: Past::default(),
        replay: None,
    }
}

/// P9: with all defaults of a subscriber, a dependency that hangs opens the circuit, and dead-letters no event.
#[tokio::test(start_paused = true)]
async fn the_circuit_opens_by_default_when_every_handler_hangs() {
    async fn hang(_: Created, _: Context<()>) -> Result<(), Failure> {
        std::future::pending().await
    }
    let subscriber = EventSubscriber::durable("w").on(hang);
    let at_once = subscriber.concurrency;
    let executor = Arc::new(Executor::new(
        Arc::new(subscriber),
        Arc::new(()),
        &Observers::default(),
    ));
    let events: VecDeque<Delivery> = (1..=400).map(delivery).collect();
    let events = Arc::new(Mutex::new(events));
    let began = tokio::time::Instant::now();
    let mut attempts = JoinSet::new();
    for _ in 0..at_once {
        let (executor, events) = (Arc::clone(&executor), Arc::clone(&events));
        attempts.spawn(async move {
            let mut most = 0;
            let next = || events.lock().unwrap().pop_front();
            // The probes of an open circuit are not part of this test.
            while executor.throttle().circuit() == CircuitState::Closed
                && let Begin::Begun(mut event, permit) = executor.throttle().begin(next)
            {
                let attempt = Attempt {
                    delivery: &mut event,
                    ack: &Confirms,
                    halt: &CancellationToken::new(),
                    permit,
                };
                executor.run(attempt).await;
                most = most.max(event.past.failures);
                events.lock().unwrap().push_back(event);
                if executor.throttle().circuit() == CircuitState::Open {
                    return (most, began.elapsed().as_secs());
                }
            }
            (most, u64::MAX)
        });
    }
    let ended = attempts.join_all().await;
    let most = ended.iter().map(|(most, _)| *most).max();
    let opened = ended.iter().map(|(_, opened)| *opened).min();
    assert_eq!(most, Some(1), "no event has failed more than once");
    assert_eq!(opened, Some(60), "with the second round");
}

/// Notes the ends that it is told.
#[derive(Default)]
struct Told(Mutex<Vec<&'static str>>);

impl Observer for Told {
    fn observe(&self, observation: &Observation<'_>) {
        let Observation::Delivery(of, end) = observation else {
            return;
        };
        assert_eq!(of.subscriber, "w");
        self.0.lock().unwrap().push(match end {
            DeliveryEnd::Decided { outcome, .. } => outcome.as_str(),
            DeliveryEnd::DeadLettered {
                is_stored: true, ..
            } => "dead-lettered",
            DeliveryEnd::HandedBack => "handed back",
            DeliveryEnd::Unhandled { .. } => "unhandled",
            _ => "another end",
        });
    }
}

#[tokio::test]
async fn an_observer_gets_each_end_of_a_delivery_once() {
    async fn handle(_: Created, _: Context<()>) -> Result<(), Failure> {
        Ok(())
    }
    let told: Arc<Told> = Arc::default();
    let observers = Observers::default().and(Arc::clone(&told) as _);
    let subscriber = Arc::new(EventSubscriber::durable("w").on(handle));
    let executor = Executor::new(subscriber, Arc::new(()), &observers);
    let unreadable = Delivery {
        envelope: Err(ReadError::Malformed("no event".to_owned())),
        ..delivery(2)
    };
    let unhandled = Delivery {
        subject: "user.renamed".into(),
        ..delivery(3)
    };
    let (runs, halted) = (CancellationToken::new(), CancellationToken::new());
    halted.cancel();
    let deliveries = [
        (delivery(1), &runs),
        (unreadable, &runs),
        (unhandled, &runs),
        (delivery(4), &halted),
    ];
    for (mut delivery, halt) in deliveries {
        let attempt = Attempt {
            delivery: &mut delivery,
            ack: &Confirms,
            halt,
            permit: Permit::default(),
        };
        executor.run(attempt).await;
    }
    let ends = ["ack", "reject", "dead-lettered", "unhandled", "handed back"];
    assert_eq!(*told.0.lock().unwrap(), ends);
}
