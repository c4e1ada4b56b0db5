//! The runbooks of docs/runbooks: each failure happens for real, and the steps of its runbook end it.

mod bad_event;
mod bug;
mod database;
mod disk;
mod keys;
mod losses;
mod no_instance;
mod reader;

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, Ordering},
};

use serde::{Deserialize, Serialize};
use tidings::{
    Bus, CircuitBreaker, Context, Event, EventSubscriber, Failure, Retry, Worker,
    handler::OnExhausted, worker::WorkerError,
};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::support::{World, eventually};
use reader::Runbook;

/// The runbooks that have a test, in the order of their files.
const PERFORMED: [&str; 19] = [
    "Where to begin",
    "A bad event was published",
    "Postgres: the relay's cursor is another server's",
    "Handlers whose effects were in the database",
    "A disk is full",
    "A stream has reached its limit",
    "The storage of a nats-server is full",
    "The disk of a nats-server is full",
    "Events wait for a subscriber",
    "A handler had a bug for two days",
    "It failed",
    "It did the wrong thing",
    "NATS has lost its data",
    "The NATS was replaced",
    "A stream was deleted",
    "One key is stuck",
    "A key is parked in the outbox",
    "A key is parked by its subscriber",
    "A key is behind an event that fails",
];

const SUBSCRIBER: &str = "greeter";

#[test]
fn every_runbook_is_performed() {
    assert_eq!(reader::titles(), PERFORMED);
}

#[derive(Debug, Clone, Serialize, Deserialize, Event)]
#[event(name = "user.renamed", version = 1, key = id)]
struct Renamed {
    id: String,
    name: String,
}

/// What the subscriber has handled, and whether its handler is broken.
#[derive(Clone, Default)]
struct Desk {
    greeted: Arc<Mutex<Vec<String>>>,
    is_broken: Arc<AtomicBool>,
}

impl Desk {
    fn breaks(&self, is_broken: bool) {
        self.is_broken.store(is_broken, Ordering::SeqCst);
    }

    fn greeted(&self) -> Vec<String> {
        self.greeted.lock().unwrap().clone()
    }

    async fn has_greeted(&self, names: &[&str]) {
        eventually(&format!("{names:?} are greeted"), || async {
            self.greeted().len() >= names.len()
        })
        .await;
        assert_eq!(self.greeted(), names);
    }
}

async fn greet(event: Renamed, cx: Context<Desk>) -> Result<(), Failure> {
    if cx.state().is_broken.load(Ordering::SeqCst) {
        return Err(Failure::retry("the mail server 10.0.0.7 is down"));
    }
    cx.state().greeted.lock().unwrap().push(event.name);
    Ok(())
}

/// A subscriber that dead-letters an event at its first failure.
fn greeter() -> EventSubscriber<Desk> {
    EventSubscriber::durable(SUBSCRIBER)
        .on(greet)
        .retry(Retry::never())
        .circuit_breaker(CircuitBreaker::off())
}

/// The same, in order per key; the key of a dead-lettered event is parked.
fn ordered_greeter() -> EventSubscriber<Desk> {
    greeter()
        .ordered_by_key()
        .on_exhausted(OnExhausted::ParkKey)
}

/// A worker in the process of the test.
struct Service {
    stop: CancellationToken,
    task: JoinHandle<Result<(), WorkerError>>,
}

impl Service {
    async fn start(world: &World, desk: &Desk, subscriber: EventSubscriber<Desk>) -> Self {
        let bus = Bus::connect(world.nats.url()).await.unwrap();
        let worker = Worker::new(bus, desk.clone()).subscribe(subscriber);
        let stop = CancellationToken::new();
        let task = tokio::spawn(worker.run(stop.clone().cancelled_owned()));
        Self { stop, task }
    }

    async fn stop(self) {
        self.stop.cancel();
        self.task.await.unwrap().unwrap();
    }
}

impl World {
    /// Commits a `user.renamed`; its id.
    async fn rename(&self, key: &str, name: &str) -> String {
        let data = format!(r#"{{"id":"{key}","name":"{name}"}}"#);
        self.enqueue(key, &data, &[]).await
    }

    async fn enqueue(&self, key: &str, data: &str, more: &[&str]) -> String {
        let publish = ["publish", "user.renamed", "--key", key, "--data", data];
        let printed = self.ok(&[&publish, more].concat()).await;
        printed.trim().to_owned()
    }

    /// The sequences of the dead letters.
    async fn letters(&self) -> Vec<String> {
        let letters = self.json(&["dead-letters", "list", "--json"]).await;
        let sequence = |letter: &serde_json::Value| letter["sequence"].to_string();
        letters.iter().map(sequence).collect()
    }

    async fn has_letters(&self, count: usize) {
        eventually(&format!("{count} letters"), || async {
            self.letters().await.len() == count
        })
        .await;
    }

    async fn is_parked(&self, count: u64) {
        eventually(&format!("{count} parked"), || async {
            self.status().await["parked"] == count
        })
        .await;
    }
}
