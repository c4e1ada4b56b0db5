//! The way of an event over real servers: the relay's `send`, also of a relay that dies; batches; redrives.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, SystemTime},
};

use opentelemetry::{
    SpanId,
    trace::{FutureExt, SpanContext, SpanKind, TraceContextExt},
};
use tidings::{
    Batching, Context, EventId, EventSubscriber, Failure, Retry, Worker,
    dead_letters::{DeadLetterSelection, DeadLetters},
    handler::{BatchContext, BatchResult, Item},
    testing::failpoint::{self, Point},
};

use crate::{
    both,
    spans::{attribute, created_by, has_link, is_child, is_kind, is_linked_root, spans},
    support::{Database, Noted, User, World, eventually, note_id, within},
};

both!(
    a_sampled_event_has_a_span_from_commit_to_confirmation,
    an_event_that_is_not_sampled_has_no_span_of_the_relay,
    a_killed_relay_leaves_no_gap_in_the_trace,
    a_batch_has_a_trace_of_its_own_with_links,
    a_redriven_event_has_a_link_alone,
);

fn request() -> SpanContext {
    spans().request().span().span_context().clone()
}

async fn a_sampled_event_has_a_span_from_commit_to_confirmation<DB: Database>(world: World<DB>) {
    let request = spans().request();
    let creator = request.span().span_context().clone();
    let before = SystemTime::now();
    let id = world.commit("ada").with_context(request).await;
    let relay = world.relay();
    let sent = spans().reach("send", id, 1).await.remove(0);
    relay.stop().await.unwrap();
    assert!(is_kind(&sent, &SpanKind::Client) && is_child(&sent, &creator));
    // The clock of a database may be a little behind.
    assert!(sent.start_time + Duration::from_secs(1) > before);
    assert!(sent.start_time <= sent.end_time && sent.end_time <= SystemTime::now());
    assert_eq!(
        attribute(&sent, "tidings.stream").as_deref(),
        Some("EVENTS")
    );
    assert_eq!(attribute(&sent, "tidings.sequence").as_deref(), Some("1"));
    let wait = attribute(&sent, "tidings.outbox.wait_ms").unwrap();
    assert!(wait.parse::<i64>().unwrap() >= 0);
    assert_eq!(attribute(&sent, "tidings.found"), None);
}

async fn an_event_that_is_not_sampled_has_no_span_of_the_relay<DB: Database>(world: World<DB>) {
    let creator = request();
    let unsampled = SpanContext::new(
        creator.trace_id(),
        creator.span_id(),
        opentelemetry::TraceFlags::default(),
        true,
        opentelemetry::trace::TraceState::NONE,
    );
    let (first, second) = (created_by(&unsampled, "ada"), created_by(&creator, "bob"));
    let ids = [first.id(), second.id()];
    world.commit_all([first, second]).await;
    let relay = world.relay();
    spans().reach("send", ids[1], 1).await;
    world.backlog_is_gone().await;
    relay.stop().await.unwrap();
    assert_eq!(spans().of("send", ids[0]).len(), 0);
}

/// The relay dies when the stream has answered, before it knows.
async fn a_killed_relay_leaves_no_gap_in_the_trace<DB: Database>(world: World<DB>) {
    let creator = request();
    let event = created_by(&creator, "ada");
    let id = event.id();
    let relay = world.new_relay();
    let armed = failpoint::arm(relay.owner(), Point::Answered, 1);
    let relay = world.run_relay(relay);
    world.commit_all([event]).await;
    within("its death", armed.reached()).await;
    relay.kill().await;
    assert_eq!(spans().of("send", id).len(), 0);
    let noted = Noted::default();
    let worker = Worker::new(world.bus.clone(), noted.clone());
    let worker = world.run(worker.subscribe(EventSubscriber::durable("welcome").on(note_id)));
    let next = world.relay();
    let sent = spans().reach("send", id, 1).await.remove(0);
    let processed = spans().reach("process", id, 1).await.remove(0);
    next.stop().await.unwrap();
    worker.stop().await.unwrap();
    assert!(is_child(&sent, &creator) && is_child(&processed, &creator));
    assert_eq!(attribute(&sent, "tidings.found").as_deref(), Some("true"));
    assert_eq!(world.stored().await.len(), 1);
}

async fn take(events: Vec<Item<User>>, cx: BatchContext<Noted>) -> Result<BatchResult, Failure> {
    cx.state().note(events.len().to_string());
    Ok(BatchResult::done())
}

async fn a_batch_has_a_trace_of_its_own_with_links<DB: Database>(world: World<DB>) {
    let creators: Vec<SpanContext> = (0..3).map(|_| request()).collect();
    let events: Vec<_> = creators
        .iter()
        .map(|span| created_by(span, "ada"))
        .collect();
    let ids: Vec<EventId> = events.iter().map(|event| event.id()).collect();
    world.commit_all(events).await;
    world.publish_all().await;
    let batching = Batching::of(3).linger(Duration::from_secs(20));
    let subscriber = EventSubscriber::durable("many").on_batch(batching, take);
    let noted = Noted::default();
    let worker = world.run(Worker::new(world.bus.clone(), noted.clone()).subscribe(subscriber));
    eventually("the span", || async { spans().of_batch(ids[0]).is_some() }).await;
    worker.stop().await.unwrap();
    assert_eq!(noted.all(), ["3"]);
    let span = spans().of_batch(ids[0]).unwrap();
    assert_eq!(span.name, "process user.created");
    assert_eq!(span.parent_span_id, SpanId::INVALID);
    assert!(creators.iter().all(|creator| has_link(&span, creator)));
    assert_eq!(span.links.len(), 3);
    assert_eq!(
        attribute(&span, "messaging.batch.message_count").as_deref(),
        Some("3")
    );
    assert_eq!(attribute(&span, "messaging.message.id"), None);
}

async fn refuse_once(_: User, cx: Context<AtomicBool>) -> Result<(), Failure> {
    match cx.state().swap(true, Ordering::SeqCst) {
        false => Err(Failure::reject("not now")),
        true => Ok(()),
    }
}

async fn a_redriven_event_has_a_link_alone<DB: Database>(world: World<DB>) {
    let creator = request();
    let event = created_by(&creator, "ada");
    let id = event.id();
    world.commit_all([event]).await;
    world.publish_all().await;
    let subscriber = EventSubscriber::durable("welcome").on(refuse_once);
    let worker = Worker::new(world.bus.clone(), AtomicBool::new(false));
    let worker = world.run(worker.subscribe(subscriber.retry(Retry::never())));
    world.has_dead_letters(1).await;
    let letters = DeadLetters::new(&world.bus);
    let mut found = letters.read(DeadLetterSelection::default()).await.unwrap();
    let letter = found.next().await.unwrap().unwrap();
    let redriver = letters.redriver().await.unwrap();
    redriver.redrive(&letter).await.unwrap();
    let both = spans().reach("process", id, 2).await;
    worker.stop().await.unwrap();
    assert!(is_child(&both[0], &creator));
    assert!(is_linked_root(&both[1], &creator));
    assert_eq!(
        attribute(&both[1], "tidings.redrives").as_deref(),
        Some("1")
    );
}
