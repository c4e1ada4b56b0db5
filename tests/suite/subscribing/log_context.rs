//! P9: each line that is logged inside a handler names the event, the subscriber, the attempt and the trace.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use serde_json::Value;
use tidings::{
    Batching, Context, Envelope, EventPublisher, EventSubscriber, Failure, Worker,
    handler::{BatchContext, BatchResult, Item},
    testing::TestWorker,
};

use crate::support::{Database, Noted, User, World, both, log};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

/// The lines of the log of this thread.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lines.extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Lines {
    /// Records what this thread logs, as JSON.
    fn record(&self) -> tracing::subscriber::DefaultGuard {
        let lines = self.clone();
        let subscriber = tracing_subscriber::fmt().json();
        let subscriber = subscriber.with_writer(move || lines.clone());
        tracing::subscriber::set_default(subscriber.finish())
    }

    /// The spans of each line with this message, the outermost first.
    fn spans(&self, message: &str) -> Vec<Vec<Value>> {
        let lines = self.0.lock().unwrap();
        let lines = std::str::from_utf8(&lines).unwrap().lines();
        let lines = lines.map(|line| serde_json::from_str::<Value>(line).unwrap());
        let lines = lines.filter(|line| line["fields"]["message"] == message);
        lines
            .map(|line| line["spans"].as_array().cloned().unwrap_or_default())
            .collect()
    }
}

fn traced(id: &str) -> Envelope {
    let event = Envelope::of(&User::new(id)).unwrap();
    event
        .traced(format!("00-{TRACE}-b7ad6b7169203331-01"))
        .unwrap()
}

async fn log_once(_: User, cx: Context<()>) -> Result<(), Failure> {
    tracing::info!("before");
    tokio::task::yield_now().await;
    tracing::info!("after");
    match cx.attempt() {
        1 => Err(Failure::retry("not yet")),
        _ => Ok(()),
    }
}

#[tokio::test]
async fn a_line_inside_a_handler_has_event_and_trace() {
    let lines = Lines::default();
    let _recording = lines.record();
    let event = traced("ada");
    let mut worker = TestWorker::new(EventSubscriber::durable("welcome").on(log_once), ());
    worker.deliver(event.clone()).await;
    worker.settle().await;
    for message in ["before", "after"] {
        let spans = lines.spans(message);
        assert_eq!(spans.len(), 2, "two attempts");
        for (attempt, spans) in spans.iter().enumerate() {
            let [span] = &spans[..] else {
                panic!("one span: {spans:?}");
            };
            assert_eq!(span["trace_id"], TRACE);
            assert_eq!(span["event.id"], event.id().to_string());
            assert_eq!(span["event.name"], "user.created");
            assert_eq!(span["subscriber"], "welcome");
            assert_eq!(span["attempt"], attempt + 1);
        }
    }
}

#[tokio::test]
async fn an_event_without_a_trace_is_logged_without_one() {
    let lines = Lines::default();
    let _recording = lines.record();
    let mut worker = TestWorker::new(EventSubscriber::durable("welcome").on(log_once), ());
    worker.deliver(&User::new("ada")).await;
    let spans = lines.spans("after");
    assert_eq!(spans[0][0]["event.name"], "user.created");
    assert_eq!(spans[0][0].get("trace_id"), None);
    // What the worker itself logs about the attempt stands outside.
    assert_eq!(lines.spans("retry scheduled"), [Vec::<Value>::new()]);
}

async fn log_batch(
    events: Vec<Item<User>>,
    _: BatchContext<Noted>,
) -> Result<BatchResult, Failure> {
    let ids: Vec<&str> = events.iter().map(|event| &*event.id).collect();
    tracing::info!("batch of {}", ids.join("+"));
    match ids.len() {
        1 => Ok(BatchResult::done()),
        _ => Err(Failure::retry("it is halved")),
    }
}

#[tokio::test]
async fn an_event_alone_in_a_batch_is_named_once() {
    let lines = Lines::default();
    let _recording = lines.record();
    let batching = Batching::of(10);
    let subscriber = EventSubscriber::durable("mails").on_batch(batching, log_batch);
    let mut worker = TestWorker::new(subscriber, Noted::default());
    worker.deliver(traced("ada")).await;
    let spans = lines.spans("batch of ada");
    assert_eq!((spans.len(), spans[0].len()), (1, 1));
    assert_eq!(spans[0][0]["trace_id"], TRACE);
}

/// Each call of a batch handler is named by what it is called with.
async fn a_line_inside_a_batch_handler_has_its_size<DB: Database>(world: World<DB>) {
    log::listen();
    let names = format!("mails-{}", tidings::EventId::now());
    let batching = Batching::of(2).linger(Duration::from_secs(20));
    let subscriber = EventSubscriber::durable(&*names).on_batch(batching, log_batch);
    let worker = Worker::new(world.bus.clone(), Noted::default()).subscribe(subscriber);
    let worker = world.run(worker);
    let publisher = EventPublisher::new(&world.bus);
    let ids = ["ada", "bob"].map(|name| format!("{name}-{names}"));
    for id in &ids {
        publisher.publish(traced(id)).await.unwrap();
    }
    let both = format!("batch of {}", ids.join("+"));
    crate::support::eventually("both alone", || async {
        let alone = |id: &String| !log::said(&format!("batch of {id}")).is_empty();
        ids.iter().rev().all(alone)
    })
    .await;
    worker.stop().await.unwrap();
    let line = log::said(&both).pop().unwrap();
    for part in [
        "handler{events=2 ",
        "event.name=\"user.created\"",
        &format!("subscriber=\"{names}\""),
    ] {
        assert!(line.contains(part), "{part} in {line}");
    }
    assert!(!line.contains("trace_id"), "{line}");
    let alone = log::said(&format!("batch of {}", ids[1])).pop().unwrap();
    assert!(alone.contains(&format!("trace_id=\"{TRACE}\"")), "{alone}");
}

both!(a_line_inside_a_batch_handler_has_its_size);
