//! A nats-server with the streams, and a worker on it whose handlers record the ids of users; without an outbox.

use std::time::Duration;

use tidings::{Bus, EventPublisher, EventSubscriber, StreamSpec, Worker, subscribers::Subscribers};
use tidings_test_servers::NatsServer;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{Noted, User, events_stream, eventually, note_id, within};

/// A worker beside the test.
pub struct Working {
    pub noted: Noted,
    stop: CancellationToken,
    pub task: JoinHandle<Result<(), tidings::worker::WorkerError>>,
}

pub fn subscriber(name: &str) -> EventSubscriber<Noted> {
    EventSubscriber::durable(name).on(note_id)
}

impl Working {
    pub fn run(bus: &Bus, subscribers: impl IntoIterator<Item = EventSubscriber<Noted>>) -> Self {
        let (noted, stop) = (Noted::default(), CancellationToken::new());
        let worker = Worker::new(bus.clone(), noted.clone());
        let worker = subscribers.into_iter().fold(worker, Worker::subscribe);
        let task = tokio::spawn(worker.run(stop.clone().cancelled_owned()));
        Self { noted, stop, task }
    }

    pub async fn has(&self, id: &str) {
        eventually(id, || async { self.noted.all().iter().any(|n| n == id) }).await;
    }

    /// Waits until the worker handles an event that is published now.
    pub async fn handles(&self, bus: &Bus, id: &str) {
        let publisher = EventPublisher::new(bus);
        within("it is stored", async {
            while publisher.publish(&User::new(id)).await.is_err() {
                // real time: a server that starts
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        })
        .await;
        self.has(id).await;
    }

    /// Aborts the worker like a dying process: nothing is handed over.
    pub async fn kill(self) {
        self.task.abort();
        let ended = within("its death", self.task).await;
        assert!(ended.is_err_and(|error| error.is_cancelled()));
    }

    pub async fn end(self) {
        self.stop.cancel();
        let ended = within("a clean stop", self.task).await;
        ended.expect("no panic").expect("a clean end");
    }
}

pub async fn publish(bus: &Bus, id: &str) {
    let publishing = EventPublisher::new(bus);
    publishing
        .publish(&User::new(id))
        .await
        .expect("it is stored");
}

pub async fn apply_streams(bus: &Bus) {
    for stream in StreamSpec::internal().into_iter().chain([events_stream()]) {
        bus.apply_stream(&stream).await.expect("a stream");
    }
}

pub async fn server() -> (NatsServer, Bus) {
    let server = NatsServer::start().await.expect("nats-server starts");
    let bus = Bus::connect(server.url()).await.expect("a connection");
    apply_streams(&bus).await;
    (server, bus)
}

/// The issues that the instances of a subscriber report.
pub async fn issues(bus: &Bus, name: &str) -> Vec<String> {
    let Ok(state) = Subscribers::new(bus).find(name).await else {
        return Vec::new();
    };
    let instances = state.instances.into_iter();
    instances.filter_map(|instance| instance.issue).collect()
}

/// Waits until an instance reports an issue with all of these words.
pub async fn reports(bus: &Bus, name: &str, words: &[&str]) {
    eventually(&format!("{name} reports {words:?}"), || async {
        let reported = issues(bus, name).await;
        let has_all = |issue: &String| words.iter().all(|word| issue.contains(word));
        reported.iter().any(has_all)
    })
    .await;
}

pub async fn has_no_issue(bus: &Bus, name: &str) {
    eventually(&format!("{name} has no issue"), || async {
        let state = Subscribers::new(bus).find(name).await;
        state.is_ok_and(|state| {
            !state.instances.is_empty() && state.instances.iter().all(|one| one.issue.is_none())
        })
    })
    .await;
}
