//! What an event gets where it is created: the current context, unless it has one; and the span of a direct publisher.

use opentelemetry::{
    Context,
    trace::{FutureExt, SpanContext, SpanKind, TraceContextExt, TraceState},
};
use serde_json::Value;
use tidings::{Enqueue, Envelope, EventPublisher};

use crate::{
    both,
    spans::{attribute, created_by, has_link, is_child, is_kind, spans},
    support::{Database, User, World},
};

/// The header of an event that is enqueued in this context.
fn stored(context: Context, event: Envelope) -> (Option<String>, Option<String>) {
    let _current = context.attach();
    let statement = Enqueue::postgres().statement(event).unwrap();
    let headers: Value = serde_json::from_str(&statement.headers).unwrap();
    let header = |name: &str| headers[name].as_str().map(str::to_owned);
    (header("traceparent"), header("tracestate"))
}

fn event() -> Envelope {
    Envelope::of(&User::new("ada")).unwrap()
}

fn traceparent(span: &SpanContext) -> String {
    let flags = if span.is_sampled() { "01" } else { "00" };
    format!("00-{}-{}-{flags}", span.trace_id(), span.span_id())
}

#[test]
fn an_event_is_stored_with_the_current_context() {
    let request = spans().request();
    let span = request.span().span_context().clone();
    let expected = (Some(traceparent(&span)), None);
    assert_eq!(stored(request, event()), expected);
    assert_eq!(stored(Context::new(), event()), (None, None));
}

#[test]
fn flag_and_state_of_another_service_are_kept() {
    spans();
    let state = TraceState::from_key_value([("vendor", "7")]).unwrap();
    let remote = SpanContext::new(
        opentelemetry::TraceId::from_hex("0af7651916cd43dd8448eb211c80319c").unwrap(),
        opentelemetry::SpanId::from_hex("b7ad6b7169203331").unwrap(),
        opentelemetry::TraceFlags::default(),
        true,
        state,
    );
    let context = Context::new().with_remote_span_context(remote);
    let (parent, state) = stored(context, event());
    assert_eq!(
        parent.as_deref(),
        Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00")
    );
    assert_eq!(state.as_deref(), Some("vendor=7"));
}

#[test]
fn what_the_caller_has_set_is_not_replaced() {
    let own = "00-11111111111111111111111111111111-2222222222222222-01";
    let event = event().traced(own).unwrap();
    let (parent, state) = stored(spans().request(), event);
    assert_eq!((parent.as_deref(), state), (Some(own), None));
}

async fn each_form_of_enqueueing_stores_the_context<DB: Database>(world: World<DB>) {
    let request = spans().request();
    let span = request.span().span_context().clone();
    let enqueueing = async {
        let outbox = &world.outbox;
        let mut tx = outbox.begin().await.unwrap();
        tx.publish(&User::new("published")).unwrap();
        tx.publish_all([&User::new("bulk")]).unwrap();
        let due = chrono::Utc::now();
        tx.publish_at(&User::new("delayed"), due).unwrap();
        tx.commit().await.unwrap();
        let mut tx = outbox.pool().begin().await.unwrap();
        outbox.enqueue(&mut tx, &User::new("one")).await.unwrap();
        let many = [&User::new("many")];
        outbox.enqueue_all(&mut tx, many).await.unwrap();
        let later = &User::new("later");
        outbox.enqueue_at(&mut tx, later, due).await.unwrap();
        tx.commit().await.unwrap();
        let alone = User::new("alone");
        outbox.publish_alone(&alone, None).await.unwrap();
    };
    enqueueing.with_context(request).await;
    let relay = world.relay();
    crate::support::eventually("seven events", || async { world.stored().await.len() == 7 }).await;
    relay.stop().await.unwrap();
    for stored in world.stored().await.0 {
        assert_eq!(stored.header("traceparent"), traceparent(&span));
    }
}

async fn a_publisher_makes_a_span_and_sends_its_context<DB: Database>(world: World<DB>) {
    let request = spans().request();
    let span = request.span().span_context().clone();
    let publisher = EventPublisher::new(&world.bus);
    let user = User::new("ada");
    let publishing = publisher.publish(&user);
    let id = publishing.with_context(request).await.unwrap();
    let sent = spans().of("send", id).pop().unwrap();
    assert!(is_kind(&sent, &SpanKind::Producer) && is_child(&sent, &span));
    assert_eq!(
        attribute(&sent, "messaging.operation.type").as_deref(),
        Some("send")
    );
    let stored = &world.stored().await.0[0];
    assert_eq!(
        stored.header("traceparent"),
        traceparent(&sent.span_context)
    );
}

async fn a_publisher_links_to_a_context_of_the_caller<DB: Database>(world: World<DB>) {
    let (request, other) = (spans().request(), spans().request());
    let ambient = request.span().span_context().clone();
    let own = other.span().span_context().clone();
    let event = created_by(&own, "ada");
    let publisher = EventPublisher::new(&world.bus);
    let id = publisher
        .publish(event)
        .with_context(request)
        .await
        .unwrap();
    let sent = spans().of("send", id).pop().unwrap();
    assert!(is_child(&sent, &ambient) && has_link(&sent, &own));
    let stored = &world.stored().await.0[0];
    assert_eq!(stored.header("traceparent"), traceparent(&own));
}

async fn a_refused_event_ends_its_span_with_the_kind<DB: Database>(world: World<DB>) {
    spans();
    let event = Envelope::raw("nowhere.at_all", 1, None, "{}").unwrap();
    let id = event.id();
    let refused = EventPublisher::new(&world.bus).publish(event).await;
    assert!(refused.is_err());
    let sent = spans().of("send", id).pop().unwrap();
    assert_eq!(attribute(&sent, "error.type").as_deref(), Some("no-stream"));
}

both!(
    each_form_of_enqueueing_stores_the_context,
    a_publisher_makes_a_span_and_sends_its_context,
    a_publisher_links_to_a_context_of_the_caller,
    a_refused_event_ends_its_span_with_the_kind,
);
