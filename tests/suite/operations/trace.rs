//! A trace finds an event wherever it is, and reports an unknown event as unknown.

use std::time::Duration;

use async_nats::jetstream;
use chrono::{TimeDelta, Utc};
use tidings::{
    CircuitBreaker, Context, Envelope, EventId, EventPublisher, EventSubscriber, Failure,
    InboxTransaction, Retry, StartFrom, Worker,
    dead_letters::{DeadLetterSelection, DeadLetters},
    handler::Cause,
    replays::{ReplayRequest, ReplayState, Replays},
    trace::{
        DeliveryTrace, InboxTrace, OutboxTrace, SubscriberTrace, Trace, TraceTarget, Traced,
        TracedEvent, TracedOutcome,
    },
};

use crate::{
    both,
    support::{Counted, Database, User, World, eventually},
};

both!(
    a_committed_event_waits_for_the_relay,
    a_relayed_event_has_batch_and_position_and_no_subscriber,
    a_handled_event_is_known_by_the_inbox_or_the_ack_floor,
    a_failing_event_is_traced_from_retry_to_dead_letter,
    dead_lettered_and_replayed_events_are_traced,
    a_parked_event_is_traced_with_reason_and_cure,
    a_delayed_event_is_traced_with_its_time,
    a_lost_event_is_traced_with_the_reason,
    events_of_a_key_or_correlation_are_found_in_order,
    an_event_outside_the_outbox_is_found_in_its_stream,
    an_unknown_event_is_reported_as_unknown,
);

const HOUR: Duration = Duration::from_secs(3600);

/// Waits until a subscriber has this outcome for an event.
async fn becomes<DB: Database>(
    world: &World<DB>,
    id: EventId,
    subscriber: &str,
    outcome: TracedOutcome,
) -> TracedEvent {
    eventually(&format!("{subscriber}: {outcome:?}"), || async {
        let found = world.trace().run(&TraceTarget::Event(id)).await.unwrap();
        let event = found.events.first();
        let at = event.and_then(|event| find(event, subscriber));
        at.is_some_and(|at| at.outcome == outcome)
    })
    .await;
    world.traced(id).await
}

fn one(found: Traced) -> TracedEvent {
    assert_eq!(found.events.len(), 1, "{found:?}");
    found.events.into_iter().next().unwrap()
}

fn find<'a>(event: &'a TracedEvent, subscriber: &str) -> Option<&'a SubscriberTrace> {
    let mut subscribers = event.subscribers.iter();
    subscribers.find(|one| one.subscriber == subscriber)
}

fn at<'a>(event: &'a TracedEvent, subscriber: &str) -> &'a SubscriberTrace {
    find(event, subscriber).unwrap_or_else(|| panic!("no {subscriber} in {event:?}"))
}

async fn events<DB: Database>(world: &World<DB>) -> jetstream::stream::Stream {
    let client = async_nats::connect(world.nats.url()).await.unwrap();
    jetstream::new(client).get_stream("EVENTS").await.unwrap()
}

async fn fail(_: User, _: Context<()>) -> Result<(), Failure> {
    Err(Failure::retry("the mail server is down"))
}

async fn pass(_: User, _: Context<()>) -> Result<(), Failure> {
    Ok(())
}

async fn pass_once<DB: Database>(
    _: User,
    _: InboxTransaction<DB>,
    _: Context<()>,
) -> Result<(), Failure> {
    Ok(())
}

async fn a_committed_event_waits_for_the_relay<DB: Database>(world: World<DB>) {
    let id = world.commit("ada").await;
    let event = world.traced(id).await;
    let OutboxTrace::Waiting { row, relay, .. } = &event.outbox else {
        panic!("{event:?}")
    };
    assert_eq!(*row, 1);
    assert!(
        relay.contains(&"no relay is active".to_owned()),
        "{relay:?}"
    );
    assert!(relay.contains(&"the backlog is 1".to_owned()), "{relay:?}");
    assert!(event.stored.is_empty() && event.batches.is_empty());
    let why = event.unstored.unwrap();
    assert!(why.contains("has not published the event"), "{why}");
}

async fn a_relayed_event_has_batch_and_position_and_no_subscriber<DB: Database>(world: World<DB>) {
    // The subscriber exists before the event, and is deleted when the event arrives.
    let worker =
        Worker::new(world.bus.clone(), ()).subscribe(EventSubscriber::durable("mail").on(pass));
    let running = world.run(worker);
    let first = world.commit("ada").await;
    world.publish_all().await;
    becomes(&world, first, "mail", TracedOutcome::Acknowledged).await;
    running.stop().await.unwrap();
    let before = Utc::now() - TimeDelta::seconds(60);
    let ids = [world.commit("bob").await, world.commit("eve").await];
    world.publish_all().await;
    for (id, place) in ids.into_iter().zip(2..) {
        let event = world.traced(id).await;
        let OutboxTrace::Relayed { row, written_at } = event.outbox else {
            panic!("{event:?}")
        };
        assert!(row == place && written_at > before);
        let stored = &event.stored[0];
        assert_eq!(
            (&*stored.stream, stored.sequence, stored.is_there),
            ("EVENTS", place as u64, true)
        );
        assert!(stored.stored_at.unwrap() > before);
        assert_eq!(event.stored.len(), 1);
        let batch = &event.batches[0];
        assert_eq!(event.batches.len(), 1);
        assert!(
            (batch.first_row..=batch.last_row).contains(&place),
            "{batch:?}"
        );
        assert!(
            (batch.first_sequence..=batch.last_sequence).contains(&(place as u64)),
            "{batch:?}"
        );
        assert_eq!(batch.epoch, 2, "the second relay's");
        let mail = at(&event, "mail");
        assert_eq!(mail.outcome, TracedOutcome::NotDelivered);
        assert_eq!(mail.delivery, DeliveryTrace::NotYet { delivered: 1 });
        assert_eq!(event.unstored, None);
    }
}

async fn a_handled_event_is_known_by_the_inbox_or_the_ack_floor<DB: Database>(world: World<DB>) {
    let worker = Worker::new(world.bus.clone(), ())
        .subscribe(EventSubscriber::durable("mail").on(pass))
        .subscribe(
            EventSubscriber::durable("books").on_transactional(&world.outbox, pass_once::<DB>),
        );
    let running = world.run(worker);
    let id = world.commit("ada").await;
    world.publish_all().await;
    becomes(&world, id, "mail", TracedOutcome::Acknowledged).await;
    let event = becomes(&world, id, "books", TracedOutcome::Handled).await;
    running.stop().await.unwrap();
    assert!(
        at(&event, "books").inbox == Some(InboxTrace::Handled)
            && at(&event, "mail").inbox.is_none()
    );
    // A consumer that began after the event has an ack floor after it, too, and never got it.
    let consumer = jetstream::consumer::pull::Config {
        durable_name: Some("late".to_owned()),
        filter_subject: "user.created".to_owned(),
        deliver_policy: jetstream::consumer::DeliverPolicy::New,
        ..Default::default()
    };
    events(&world)
        .await
        .create_consumer(consumer)
        .await
        .unwrap();
    let event = world.traced(id).await;
    assert_eq!(at(&event, "late").outcome, TracedOutcome::Before);
}

async fn a_failing_event_is_traced_from_retry_to_dead_letter<DB: Database>(world: World<DB>) {
    let run = |retry: Retry| {
        let subscriber = EventSubscriber::durable("mail").on(fail).retry(retry);
        let subscriber = subscriber.circuit_breaker(CircuitBreaker::off());
        world.run(Worker::new(world.bus.clone(), ()).subscribe(subscriber))
    };
    let running = run(Retry::exponential(HOUR, HOUR).attempts(3));
    let id = world.commit("ada").await;
    world.publish_all().await;
    let event = becomes(&world, id, "mail", TracedOutcome::WaitsForRetry).await;
    running.stop().await.unwrap();
    let retry = at(&event, "mail").retry.clone().unwrap();
    assert_eq!((retry.failures, retry.redrives), (1, 0));
    assert!(
        retry.due.unwrap() > Utc::now() + TimeDelta::minutes(20),
        "{retry:?}"
    );
    assert!(retry.first_failed_at.unwrap() <= Utc::now());

    let running = run(Retry::never());
    let second = world.commit("bob").await;
    world.publish_all().await;
    let event = becomes(&world, second, "mail", TracedOutcome::DeadLetter).await;
    running.stop().await.unwrap();
    let letter = &at(&event, "mail").dead_letters[0];
    assert_eq!((letter.attempts, letter.redrives), (Some(1), 0));
    assert_eq!(letter.cause, Some(Cause::Exhausted));
    assert_eq!(letter.error, "the mail server is down");

    let letters = DeadLetters::new(&world.bus);
    let redriver = letters.redriver().await.unwrap();
    let mut reader = letters.read(DeadLetterSelection::default()).await.unwrap();
    let letter = reader.next().await.unwrap().unwrap();
    redriver.redrive(&letter).await.unwrap();
    let event = world.traced(second).await;
    let mail = at(&event, "mail");
    assert_eq!(mail.outcome, TracedOutcome::WaitsForRetry);
    let retry = mail.retry.clone().unwrap();
    assert_eq!((retry.failures, retry.redrives, retry.due), (0, 1, None));

    let running = run(Retry::never());
    let event = becomes(&world, second, "mail", TracedOutcome::DeadLetter).await;
    running.stop().await.unwrap();
    assert_eq!(at(&event, "mail").dead_letters[0].redrives, 1);
    assert_eq!(at(&event, "mail").dead_letters.len(), 1);
}

async fn dead_lettered_and_replayed_events_are_traced<DB: Database>(world: World<DB>) {
    async fn refuse<DB: Database>(
        _: User,
        _: InboxTransaction<DB>,
        _: Context<()>,
    ) -> Result<(), Failure> {
        Err(Failure::reject("no mailbox"))
    }
    let books = EventSubscriber::durable("books").on_transactional(&world.outbox, refuse::<DB>);
    let running = world.run(Worker::new(world.bus.clone(), ()).subscribe(books));
    let id = world.commit("ada").await;
    world.publish_all().await;
    becomes(&world, id, "books", TracedOutcome::DeadLetter).await;
    running.stop().await.unwrap();
    let letters = DeadLetters::new(&world.bus);
    let mut reader = letters.read(DeadLetterSelection::default()).await.unwrap();
    let letter = reader.next().await.unwrap().unwrap();
    letters.discard(&letter).await.unwrap();
    let other = world.commit("bob").await;
    world.publish_all().await;
    let of_ada = ReplayRequest::new(StartFrom::Beginning).key("ada").force();
    let replay = Replays::new(&world.bus)
        .start("books", &of_ada)
        .await
        .unwrap();

    let event = world.traced(id).await;
    let at_books = at(&event, "books");
    assert_eq!(at_books.outcome, TracedOutcome::DeadLetter);
    assert!(at_books.dead_letters.is_empty());
    let Some(InboxTrace::DeadLettered {
        cause,
        error,
        at: when,
    }) = &at_books.inbox
    else {
        panic!("{event:?}")
    };
    assert_eq!((cause, &**error), (&Cause::Rejected, "no mailbox"));
    assert!(when.unwrap() <= Utc::now());
    let [told] = &at_books.replays[..] else {
        panic!("{event:?}")
    };
    assert_eq!(
        (&told.id, told.state),
        (&replay.id.to_string(), Some(ReplayState::Running))
    );
    let event = world.traced(other).await;
    assert!(at(&event, "books").replays.is_empty(), "it has another key");
}

async fn a_parked_event_is_traced_with_reason_and_cure<DB: Database>(world: World<DB>) {
    let mut tx = world.outbox.begin().await.unwrap();
    let nowhere = Envelope::raw("nowhere.at_all", 1, Some("ada"), "{}").unwrap();
    let id = tx.publish(nowhere).unwrap();
    tx.commit().await.unwrap();
    world.publish_all().await;
    let event = world.traced(id).await;
    let OutboxTrace::Parked {
        row,
        blocked_on,
        unpark_requested_at,
        error,
        ..
    } = &event.outbox
    else {
        panic!("{event:?}")
    };
    assert_eq!((*row, *unpark_requested_at), (1, None));
    assert_eq!(blocked_on.as_deref(), Some("subject nowhere.at_all"));
    assert!(error.contains("no stream"), "{error}");
    assert!(event.stored.is_empty());
    assert_eq!(event.unstored.as_deref(), Some("the event is parked"));
}

async fn a_delayed_event_is_traced_with_its_time<DB: Database>(world: World<DB>) {
    let due = Utc::now() + TimeDelta::hours(2);
    let mut tx = world.outbox.begin().await.unwrap();
    let id = tx.publish_at(&User::new("ada"), due).unwrap();
    tx.commit().await.unwrap();
    for sought in [TraceTarget::Event(id), TraceTarget::Key("ada".to_owned())] {
        // A waiting event is found, however long ago it was written.
        let trace = world.trace().since(Utc::now());
        let event = one(trace.run(&sought).await.unwrap());
        let OutboxTrace::Delayed { due: told, .. } = event.outbox else {
            panic!("{event:?}")
        };
        assert_eq!(told.timestamp_micros(), due.timestamp_micros());
        assert_eq!(event.unstored.as_deref(), Some("the event is not due yet"));
    }
}

async fn a_lost_event_is_traced_with_the_reason<DB: Database>(world: World<DB>) {
    let ids = [
        world.commit("ada").await,
        world.commit("bob").await,
        world.commit("eve").await,
        world.commit("zoe").await,
    ];
    world.publish_all().await;
    let stream = events(&world).await;
    stream.delete_message(3).await.unwrap();
    let event = world.traced(ids[2]).await;
    let why = event.unstored.clone().unwrap();
    assert!(
        why.contains("EVENTS confirmed the event at 3") && why.contains("was deleted from"),
        "{why}"
    );
    assert_eq!(
        (event.stored[0].sequence, event.stored[0].is_there),
        (3, false)
    );
    stream.purge().sequence(2).await.unwrap();
    let why = world.traced(ids[0]).await.unstored.unwrap();
    assert!(why.contains("a limit of the stream or a purge"), "{why}");
    let why = world.traced(ids[2]).await.unstored.unwrap();
    assert!(why.contains("was deleted from"), "{why}");
    let client = async_nats::connect(world.nats.url()).await.unwrap();
    jetstream::new(client)
        .delete_stream("EVENTS")
        .await
        .unwrap();
    let why = world.traced(ids[3]).await.unstored.unwrap();
    assert!(why.contains("the stream is gone"), "{why}");
    world
        .bus
        .apply_stream(&crate::support::events_stream())
        .await
        .unwrap();
    let why = world.traced(ids[3]).await.unstored.unwrap();
    assert!(why.contains("another stream of that name"), "{why}");
}

async fn events_of_a_key_or_correlation_are_found_in_order<DB: Database>(world: World<DB>) {
    let count = |key: &str, count| {
        let envelope = Envelope::of(&Counted {
            key: key.to_owned(),
            count,
        })
        .unwrap();
        envelope.with_correlation_id("order \"4\u{e9}2\"").unwrap()
    };
    let mut tx = world.outbox.begin().await.unwrap();
    let mut ids = vec![tx.publish(count("ada", 1)).unwrap()];
    tx.publish(&User::new("bob")).unwrap();
    ids.push(tx.publish(count("ada", 2)).unwrap());
    tx.commit().await.unwrap();
    world.publish_all().await;
    // One event that the relay has not published yet, and one without the outbox.
    let mut tx = world.outbox.begin().await.unwrap();
    ids.push(tx.publish(count("ada", 3)).unwrap());
    tx.commit().await.unwrap();
    ids.push(
        EventPublisher::new(&world.bus)
            .publish(count("ada", 4))
            .await
            .unwrap(),
    );
    let correlation = "order \"4\u{e9}2\"".to_owned();
    for sought in [
        TraceTarget::Key("ada".to_owned()),
        TraceTarget::Correlation(correlation),
    ] {
        let found = world.trace().run(&sought).await.unwrap();
        let told: Vec<EventId> = found.events.iter().map(|event| event.event).collect();
        assert_eq!(told, ids, "{sought:?}");
        let is_stored: Vec<usize> = found.events.iter().map(|e| e.stored.len()).collect();
        assert_eq!(is_stored, [1, 1, 0, 1]);
        assert_eq!(found.events[1].batches.len(), 1);
        let newest = world.trace().limit(2).run(&sought).await.unwrap();
        let told: Vec<EventId> = newest.events.iter().map(|event| event.event).collect();
        assert_eq!(told, ids[2..]);
        let later = world.trace().since(Utc::now() + TimeDelta::minutes(1));
        assert!(later.run(&sought).await.unwrap().events.is_empty());
    }
    // The first event of a conversation without a name is found by its own id.
    let own = world.commit("eve").await;
    let found = world
        .trace()
        .run(&TraceTarget::Correlation(own.to_string()))
        .await
        .unwrap();
    assert_eq!(one(found).event, own);
}

async fn an_event_outside_the_outbox_is_found_in_its_stream<DB: Database>(world: World<DB>) {
    world.commit("bob").await;
    let id = EventPublisher::new(&world.bus)
        .publish(&User::new("ada"))
        .await
        .unwrap();
    let event = world.traced(id).await;
    assert!(
        matches!(event.outbox, OutboxTrace::Absent { .. }),
        "{event:?}"
    );
    assert_eq!(
        (event.stored[0].sequence, &*event.name),
        (1, "user.created")
    );
    let alone = Trace::new(&world.bus).streams(["EVENTS"]);
    let event = one(alone.run(&TraceTarget::Event(id)).await.unwrap());
    assert!(
        matches!(event.outbox, OutboxTrace::NotSearched { .. }),
        "{event:?}"
    );
    assert_eq!(event.stored.len(), 1);
    // When the outbox does not answer, the trace reports what it knows.
    world.outbox.pool().close().await;
    let found = world.trace().run(&TraceTarget::Event(id)).await.unwrap();
    let said = &found
        .searched
        .iter()
        .find(|one| one.place == "outbox")
        .unwrap()
        .what;
    assert!(said.contains("not searched"), "{said}");
    assert_eq!(one(found).stored.len(), 1);
}

async fn an_unknown_event_is_reported_as_unknown<DB: Database>(world: World<DB>) {
    world.commit("ada").await;
    world.publish_all().await;
    let found = world
        .trace()
        .run(&TraceTarget::Event(EventId::now()))
        .await
        .unwrap();
    assert!(found.events.is_empty(), "{found:?}");
    let places: Vec<&str> = found.searched.iter().map(|one| &*one.place).collect();
    assert_eq!(places, ["outbox", "EVENTS", "RETRIES", "DEAD_LETTERS"]);
}
