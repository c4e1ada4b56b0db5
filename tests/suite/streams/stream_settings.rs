//! P7, P9: settings with which nothing is delivered, events are redelivered without end, or messages are confirmed but
//! not stored.

use serde_json::json;
use tidings::{
    Context, EventSubscriber, Failure,
    dead_letters::{DeadLetterSelection, DeadLetters},
    subscribers::Subscribers,
};

use crate::support::{
    Noted, Tool, User, eventually,
    working::{Working, apply_streams, publish, server, subscriber},
};

async fn refuse(event: User, cx: Context<Noted>) -> Result<(), Failure> {
    cx.state().note(event.id);
    Err(Failure::reject("no such mailbox"))
}

/// Waits until the list has this text about the only subscriber.
async fn reports(bus: &tidings::Bus, text: &str) {
    eventually(text, || async {
        let overview = Subscribers::new(bus).overview().await;
        let mut issues = overview.subscribers.iter().flat_map(|one| &one.issues);
        issues.any(|issue| issue.cause.contains(text))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_that_starts_beyond_its_stream_is_named() {
    let (server, bus) = server().await;
    let tool = Tool::at(&server).await;
    let config = json!({
        "durable_name": "welcome", "ack_policy": "explicit", "filter_subject": "user.created",
        "deliver_policy": "by_start_sequence", "opt_start_seq": 1000
    });
    tool.write_durable("welcome", config, "create").await;
    let working = Working::run(&bus, [subscriber("welcome")]);
    publish(&bus, "waits").await;
    let text = "from sequence 1000 on";
    reports(&bus, text).await;
    working.end().await;
    reports(&bus, text).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_republish_into_an_internal_stream_is_named() {
    let (server, bus) = server().await;
    let tool = Tool::at(&server).await;
    let working = Working::run(&bus, [subscriber("welcome")]);
    for (stream, source, destination) in [
        ("DEAD_LETTERS", "dead-letter.*.user.created", "user.created"),
        ("EVENTS", "user.created", "dead-letter.welcome.user.created"),
        (
            "EVENTS",
            "user.created",
            "tidings.retry.welcome.user.created",
        ),
        ("RETRIES", "tidings.retry.*.user.created", "user.created"),
        ("KV_TIDINGS", "$KV.TIDINGS.*.*", "user.created"),
    ] {
        if stream == "KV_TIDINGS" {
            bus.apply_bucket().await.expect("the bucket");
        }
        let republish = json!({ "src": source, "dest": destination });
        tool.change_stream(stream, &json!({ "republish": republish }))
            .await;
        reports(
            &bus,
            &format!("republish of {stream} has the destination {destination}"),
        )
        .await;
        tool.change_stream(stream, &json!({ "republish": null }))
            .await;
    }
    let copy = json!({ "src": "user.created", "dest": "copy.user.created" });
    tool.change_stream("EVENTS", &json!({ "republish": copy }))
        .await;
    eventually("nothing is wrong", || async {
        let overview = Subscribers::new(&bus).overview().await;
        overview.subscribers.iter().all(|one| one.issues.is_empty())
    })
    .await;
    working.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_event_is_acked_whose_dead_letter_would_not_be_stored() {
    let (server, bus) = server().await;
    let tool = Tool::at(&server).await;
    tool.change_stream("DEAD_LETTERS", &json!({ "retention": "interest" }))
        .await;
    let refusing = EventSubscriber::durable("welcome").on(refuse);
    let working = Working::run(&bus, [refusing]);
    publish(&bus, "bad").await;
    working.has("bad").await;
    reports(&bus, "retention of DEAD_LETTERS").await;
    apply_streams(&bus).await;
    eventually("the letter is kept", || async {
        let letters = DeadLetters::new(&bus);
        let mut letters = letters.read(DeadLetterSelection::default()).await.unwrap();
        letters.next().await.unwrap().is_some()
    })
    .await;
    working.end().await;
}
