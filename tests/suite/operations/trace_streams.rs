//! A trace finds an event in any stream of the account, and reports a stream that cannot be read.

use serde_json::json;
use tidings::{
    Envelope, EventId, EventPublisher, StreamSpec,
    trace::{OutboxTrace, Searched, Trace, TraceTarget, Traced},
};

use crate::{
    both,
    support::{Database, Tool, User, World},
};

both!(
    an_event_in_an_unnamed_stream_is_found,
    a_row_names_the_streams_that_may_hold_its_event,
    an_unreadable_stream_is_reported_with_the_reason,
);

const NAME: &str = "nobody.listens";

/// Creates a stream that is in no configuration, and unknown to relay and subscribers.
async fn elsewhere<DB: Database>(world: &World<DB>) {
    let spec = StreamSpec::new("ELSEWHERE", ["nobody.>".parse().unwrap()]).unwrap();
    world.bus.apply_stream(&spec).await.unwrap();
}

async fn publish<DB: Database>(world: &World<DB>, envelope: Envelope) -> EventId {
    let id = envelope.id();
    let publisher = EventPublisher::new(&world.bus);
    publisher.publish(envelope).await.unwrap();
    id
}

fn event() -> Envelope {
    let envelope = Envelope::raw(NAME, 1, Some("ada"), "{}").unwrap();
    envelope.with_correlation_id("order 7").unwrap()
}

fn place<'a>(found: &'a Traced, name: &str) -> &'a Searched {
    let mut places = found.searched.iter();
    let place = places.find(|place| place.place == name);
    place.unwrap_or_else(|| panic!("{name} is not in {found:?}"))
}

async fn an_event_in_an_unnamed_stream_is_found<DB: Database>(world: World<DB>) {
    elsewhere(&world).await;
    let id = publish(&world, event()).await;
    let others = Envelope::raw("user.created", 1, Some("bob"), "{}").unwrap();
    publish(&world, others).await;
    for sought in [
        TraceTarget::Event(id),
        TraceTarget::Key("ada".to_owned()),
        TraceTarget::Correlation("order 7".to_owned()),
    ] {
        for trace in [
            Trace::new(&world.bus),
            Trace::new(&world.bus).outbox(&world.outbox),
            Trace::new(&world.bus).streams(["EVENTS"]),
        ] {
            let found = trace.run(&sought).await.unwrap();
            let [event] = &found.events[..] else {
                panic!("{sought:?}: {found:?}")
            };
            assert_eq!(event.event, id);
            assert_eq!(event.stored[0].stream, "ELSEWHERE", "{found:?}");
            assert!(event.stored[0].is_there);
            assert!(place(&found, "ELSEWHERE").was_searched);
        }
    }
}

async fn a_row_names_the_streams_that_may_hold_its_event<DB: Database>(world: World<DB>) {
    elsewhere(&world).await;
    let mut tx = world.outbox.begin().await.unwrap();
    let id = tx.publish(event()).unwrap();
    tx.commit().await.unwrap();
    // As after a relay that died before it had recorded anything.
    assert_eq!(publish(&world, event().with_id(id)).await, id);
    let trace = Trace::new(&world.bus).outbox(&world.outbox);
    let found = trace.run(&TraceTarget::Event(id)).await.unwrap();
    let [event] = &found.events[..] else {
        panic!("{found:?}")
    };
    assert!(
        matches!(event.outbox, OutboxTrace::Waiting { .. }),
        "{event:?}"
    );
    assert_eq!(event.stored[0].stream, "ELSEWHERE");
    let mut places = found.searched.iter();
    assert!(
        !places.any(|place| place.place == "EVENTS"),
        "its name is not in EVENTS: {found:?}"
    );
}

async fn an_unreadable_stream_is_reported_with_the_reason<DB: Database>(world: World<DB>) {
    elsewhere(&world).await;
    let tool = Tool::at(&world.nats).await;
    let queue = json!({ "name": "QUEUE", "subjects": ["jobs.>"], "retention": "workqueue" });
    tool.done("STREAM.CREATE.QUEUE", queue).await;
    let consumer = json!({ "durable_name": "jobs", "ack_policy": "explicit" });
    let consumer = json!({ "stream_name": "QUEUE", "config": consumer });
    tool.done("CONSUMER.CREATE.QUEUE.jobs", consumer).await;
    let id = publish(&world, event()).await;
    let trace = Trace::new(&world.bus);
    let found = trace
        .run(&TraceTarget::Key("ada".to_owned()))
        .await
        .unwrap();
    assert_eq!(found.events[0].event, id);
    let told = place(&found, "QUEUE");
    assert!(!told.was_searched && !told.is_unseen, "{found:?}");
    assert!(
        told.what.starts_with("not searched: ") && told.what.contains("100"),
        "{told:?}"
    );
    // When nothing is found, the event may be in that stream.
    let unknown = User::new("eve").id;
    let found = trace.run(&TraceTarget::Key(unknown)).await.unwrap();
    assert!(found.events.is_empty(), "{found:?}");
    assert!(place(&found, "QUEUE").is_unseen, "{found:?}");
    assert!(place(&found, "other streams").what.contains("ELSEWHERE"));
}
