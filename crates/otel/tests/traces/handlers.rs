//! The `process` spans of handlers, without servers: a link always, a parent when the event is prompt.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use opentelemetry::{
    Context as Current,
    trace::{SpanContext, SpanKind, Status, TraceContextExt},
};
use opentelemetry_sdk::trace::SpanData;
use tidings::{
    Batching, Context, Enqueue, Envelope, EventId, EventSubscriber, Failure,
    handler::{BatchContext, BatchResult, Item},
    testing::TestWorker,
};
use tracing_subscriber::layer::SubscriberExt;

use crate::{
    spans::{attribute, created_by, is_child, is_kind, is_linked_root, spans},
    support::User,
};

/// What a handler does with an event.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Act {
    Nothing,
    Retry,
    Reject,
    Panic,
    Hang,
}

async fn act(_: User, cx: Context<Act>) -> Result<(), Failure> {
    match cx.state() {
        Act::Nothing => Ok(()),
        Act::Retry if cx.attempt() > 1 => Ok(()),
        Act::Retry => Err(Failure::retry("ada@example.org is not known")),
        Act::Reject => Err(Failure::reject("never")),
        Act::Panic => panic!("at the disco"),
        Act::Hang => std::future::pending().await,
    }
}

fn worker(act_as: Act) -> TestWorker<Act> {
    let subscriber = EventSubscriber::durable("welcome").on(act);
    TestWorker::new(subscriber.timeout(Duration::from_millis(50)), act_as)
}

/// The span of a request of this test.
fn request() -> SpanContext {
    spans().request().span().span_context().clone()
}

async fn processed(worker: &mut TestWorker<Act>, event: Envelope) -> SpanData {
    // The observer is installed first.
    let (spans, id) = (spans(), event.id());
    worker.deliver(event).await;
    spans.of("process", id).pop().unwrap()
}

#[tokio::test]
async fn a_prompt_event_is_handled_in_the_trace_of_its_creator() {
    let request = request();
    let event = created_by(&request, "ada");
    let (id, correlation) = (event.id().to_string(), event.correlation_id());
    let size = event.payload().len().to_string();
    let span = processed(&mut worker(Act::Nothing), event).await;
    assert_eq!(span.name, "process user.created");
    assert!(is_kind(&span, &SpanKind::Consumer) && is_child(&span, &request));
    assert_eq!(span.links.len(), 1);
    assert_eq!(span.links[0].span_context.span_id(), request.span_id());
    for (key, value) in [
        ("messaging.system", "nats"),
        ("messaging.operation.name", "process"),
        ("messaging.operation.type", "process"),
        ("messaging.destination.name", "user.created"),
        ("messaging.consumer.group.name", "welcome"),
        ("messaging.message.id", &*id),
        ("messaging.message.conversation_id", &*correlation),
        ("messaging.message.body.size", &*size),
        ("tidings.stream", "TEST"),
        ("tidings.sequence", "1"),
        ("tidings.attempt", "1"),
        ("tidings.version", "1"),
        ("tidings.outcome", "ack"),
    ] {
        assert_eq!(attribute(&span, key).as_deref(), Some(value), "{key}");
    }
    let scope = &span.instrumentation_scope;
    assert_eq!(
        scope.schema_url(),
        Some("https://opentelemetry.io/schemas/1.44.0")
    );
}

#[tokio::test]
async fn no_span_has_payload_key_or_error_text() {
    let request = request();
    let event = created_by(&request, "ada")
        .header("tenant", "acme")
        .unwrap();
    let span = processed(&mut worker(Act::Retry), event).await;
    let told = format!("{span:?}");
    for secret in ["example.org", "\"ada\"", "acme", "not known"] {
        assert!(!told.contains(secret), "{secret} in {told}");
    }
}

#[tokio::test]
async fn an_event_without_a_context_begins_a_trace() {
    let event = Envelope::of(&User::new("ada")).unwrap();
    let span = processed(&mut worker(Act::Nothing), event).await;
    assert_eq!(span.parent_span_id, opentelemetry::SpanId::INVALID);
    assert_eq!(span.links.len(), 0);
}

#[tokio::test]
async fn a_replayed_event_has_a_link_alone() {
    let request = request();
    let mut worker = worker(Act::Nothing);
    let replay = worker.as_replay().to_string();
    let span = processed(&mut worker, created_by(&request, "ada")).await;
    assert!(is_linked_root(&span, &request));
    assert_eq!(attribute(&span, "tidings.replay"), Some(replay));
}

/// An id that was made so long ago.
fn made_before(seconds: u64) -> EventId {
    let made = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap() - Duration::from_secs(seconds);
    let made = uuid::Timestamp::from_unix(uuid::NoContext, made.as_secs(), made.subsec_nanos());
    uuid::Uuid::new_v7(made).into()
}

#[tokio::test]
async fn a_delayed_event_has_a_link_alone() {
    let request = request();
    let event = created_by(&request, "ada").with_id(made_before(30));
    let span = processed(&mut worker(Act::Nothing), event).await;
    assert!(is_linked_root(&span, &request));
}

#[tokio::test]
async fn an_old_event_has_a_link_alone() {
    let (request, id) = (request(), made_before(301));
    let written = chrono::Utc::now() - chrono::TimeDelta::seconds(301);
    let event = created_by(&request, "ada").with_id(id).at(written);
    let span = processed(&mut worker(Act::Nothing), event).await;
    assert!(is_linked_root(&span, &request));
}

#[tokio::test]
async fn each_attempt_has_a_span_with_its_outcome() {
    let (request, mut worker) = (request(), worker(Act::Retry));
    let event = created_by(&request, "ada");
    let id = event.id();
    worker.deliver(event).await;
    worker.settle().await;
    let both = spans().of("process", id);
    let told = both.iter().map(|span| {
        let of = |key| attribute(span, key);
        (
            of("tidings.attempt"),
            of("tidings.outcome"),
            of("error.type"),
        )
    });
    let text = |text: &str| Some(text.to_owned());
    let expected = [
        (text("1"), text("retry"), text("retry")),
        (text("2"), text("ack"), None),
    ];
    assert_eq!(told.collect::<Vec<_>>(), expected);
    assert!(both.iter().all(|span| is_child(span, &request)));
}

#[tokio::test]
async fn each_kind_of_failure_has_a_word() {
    for (act_as, word) in [
        (Act::Reject, "rejected"),
        (Act::Panic, "panic"),
        (Act::Hang, "timeout"),
    ] {
        let event = created_by(&request(), "ada");
        let span = processed(&mut worker(act_as), event).await;
        assert_eq!(attribute(&span, "error.type").as_deref(), Some(word));
        assert_eq!(span.status, Status::error(word));
    }
    let unreadable = Envelope::raw("user.created", 1, None, "7").unwrap();
    let span = processed(&mut worker(Act::Nothing), unreadable).await;
    assert_eq!(
        attribute(&span, "error.type").as_deref(),
        Some("undecodable")
    );
}

#[tokio::test]
async fn an_event_that_is_handed_back_has_a_span() {
    let event = created_by(&request(), "ada");
    let id = event.id();
    worker(Act::Hang).deliver_halted(event).await;
    let span = spans().of("process", id).pop().unwrap();
    assert_eq!(
        attribute(&span, "tidings.outcome").as_deref(),
        Some("handed-back")
    );
}

#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Vec<String>>>);

async fn follow_up(user: User, cx: Context<Kept>) -> Result<(), Failure> {
    let statement = Enqueue::postgres().statement(&user)?;
    cx.state().0.lock().unwrap().push(statement.headers);
    Ok(())
}

#[tokio::test]
async fn a_follow_up_is_created_by_the_process_span() {
    let kept = Kept::default();
    let event = created_by(&request(), "ada");
    let id = event.id();
    let subscriber = EventSubscriber::durable("welcome").on(follow_up);
    TestWorker::new(subscriber, kept.clone())
        .deliver(event)
        .await;
    let span = spans().of("process", id).pop().unwrap();
    let headers = kept.0.lock().unwrap().pop().unwrap();
    let headers: serde_json::Value = serde_json::from_str(&headers).unwrap();
    let span = span.span_context;
    let expected = format!("00-{}-{}-01", span.trace_id(), span.span_id());
    assert_eq!(headers["traceparent"], expected);
    assert_eq!(headers["ce-causationid"], id.to_string());
}

async fn instrumented(_: User, _: Context<Act>) -> Result<(), Failure> {
    let span = tracing::info_span!("mail the user");
    span.in_scope(|| tracing::info!("mailed"));
    Ok(())
}

/// With the layer of `tracing-opentelemetry`, which is the application's.
#[tokio::test]
async fn spans_of_tracing_are_inside_the_process_span() {
    let layer = tracing_opentelemetry::layer().with_tracer(spans().tracer());
    let layers = tracing_subscriber::registry().with(layer);
    let _subscriber = tracing::subscriber::set_default(layers);
    let request = request();
    let event = created_by(&request, "ada");
    let id = event.id();
    let subscriber = EventSubscriber::durable("welcome").on(instrumented);
    TestWorker::new(subscriber, Act::Nothing)
        .deliver(event)
        .await;
    let process = spans().of("process", id).pop().unwrap().span_context;
    let trace = process.trace_id();
    let handler = spans().named("handler", trace).pop().unwrap();
    let mail = spans().named("mail the user", trace).pop().unwrap();
    assert!(is_child(&handler, &process));
    assert!(is_child(&mail, &handler.span_context));
}

async fn many(events: Vec<Item<User>>, _: BatchContext<()>) -> Result<BatchResult, Failure> {
    assert!(!events.is_empty() && Current::current().has_active_span());
    Ok(BatchResult::done())
}

#[tokio::test]
async fn an_event_alone_in_a_batch_handler_has_one_span() {
    let event = created_by(&request(), "ada");
    let id = event.id();
    let subscriber = EventSubscriber::durable("many").on_batch(Batching::of(10), many);
    TestWorker::new(subscriber, ()).deliver(event).await;
    assert_eq!(spans().of("process", id).len(), 1);
}
