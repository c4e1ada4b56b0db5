//! Attempts of a user of `deploy/nats/permissions.conf` to affect other users with its own rights: the server refuses
//! them, or they affect no other user. Also checks what NATS cannot isolate, according to the document.

use async_nats::{HeaderMap, jetstream};
use serde_json::{Value, json};

use super::{
    documented::{DOCUMENT, Guarded},
    isolation::{Intruder, consumers, with_root},
};
use crate::support::eventually;

/// A user's own right, used for another user's consumer: the server compares the subject with the body of the request.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_own_subject_does_not_reach_another_consumer() {
    let guarded = Guarded::start_under(&with_root()).await;
    guarded.ok("streams apply").await;
    let workers = guarded.workers().await;
    let root = Intruder::connect(&guarded.server, "root").await;
    eventually("all consumers are there", || async {
        consumers(&root).await.len() == 4
    })
    .await;
    let before = consumers(&root).await;
    let directory = "$JS.API.CONSUMER.CREATE.EVENTS.replay-user-directory";
    let with_name = "$JS.API.CONSUMER.CREATE.EVENTS.replay-welcome-email.user.created";
    let relay = "$JS.API.CONSUMER.CREATE.EVENTS.relay-tidings-1";
    let consumer = |stream: &str, name: &str, filter: Value| {
        let mut config = json!({ "name": name, "durable_name": name, "ack_policy": "explicit" });
        config
            .as_object_mut()
            .unwrap()
            .extend(filter.as_object().unwrap().clone());
        json!({ "stream_name": stream, "config": config })
    };
    for (user, subject, body) in [
        // another user's consumer
        (
            "user-directory",
            directory,
            consumer(
                "EVENTS",
                "welcome-email",
                json!({ "filter_subject": "payment.>" }),
            ),
        ),
        (
            "welcome-email",
            with_name,
            consumer(
                "EVENTS",
                "user-directory",
                json!({ "filter_subject": "user.created" }),
            ),
        ),
        (
            "relay",
            relay,
            consumer("EVENTS", "welcome-email", json!({})),
        ),
        // another stream
        (
            "user-directory",
            directory,
            consumer("RETRIES", "welcome-email", json!({})),
        ),
        (
            "relay",
            relay,
            consumer("RETRIES", "relay-tidings-1", json!({})),
        ),
        // other events than those in the subject
        (
            "welcome-email",
            with_name,
            consumer("EVENTS", "replay-welcome-email", json!({})),
        ),
        (
            "welcome-email",
            with_name,
            consumer(
                "EVENTS",
                "replay-welcome-email",
                json!({ "filter_subject": ">" }),
            ),
        ),
        (
            "welcome-email",
            with_name,
            consumer(
                "EVENTS",
                "replay-welcome-email",
                json!({ "filter_subjects": ["payment.>"] }),
            ),
        ),
    ] {
        let intruder = Intruder::connect(&guarded.server, user).await;
        let refusal = intruder.refusal(subject, &body).await;
        assert!(refusal > 0, "{user} {subject} {body}");
    }
    assert_eq!(consumers(&root).await, before);
    for worker in workers {
        worker.stop().await;
    }
}

/// A user who may write one entry of the bucket cannot remove another one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_own_entry_removes_no_other_entry() {
    let guarded = Guarded::start_under(&with_root()).await;
    guarded.ok("streams apply").await;
    let workers = guarded.workers().await;
    let root = Intruder::connect(&guarded.server, "root").await;
    let lease = || async {
        let get = "$JS.API.DIRECT.GET.KV_TIDINGS.$KV.TIDINGS.lease.user-directory";
        let answer = root.client.request(get, "".into()).await.unwrap();
        answer.status.is_none()
    };
    eventually("the lease is taken", lease).await;
    let intruder = Intruder::connect(&guarded.server, "welcome-email").await;
    for rollup in ["all", "sub"] {
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Rollup", rollup);
        let entry = "$KV.TIDINGS.crash-marker.welcome-email.1";
        let asking = intruder
            .client
            .request_with_headers(entry, headers, "{}".into());
        let answer: Value = serde_json::from_slice(&asking.await.unwrap().payload).unwrap();
        assert!(
            answer["error"]["err_code"].as_u64().is_some(),
            "{rollup}: {answer}"
        );
    }
    assert!(lease().await);
    for worker in workers {
        worker.stop().await;
    }
}

/// The server publishes a schedule to any subject of its stream, also to the retries of another subscriber.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retry_scheduled_by_another_user_is_a_dead_letter() {
    let guarded = Guarded::start().await;
    guarded.ok("streams apply").await;
    let workers = guarded.workers().await;
    let intruder = Intruder::connect(&guarded.server, "welcome-email").await;
    let schedule = async |spoofs: bool| -> Value {
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Schedule", "@at 2026-01-01T00:00:00Z");
        let target = "tidings.retry.user-directory.payment.settled";
        headers.insert("Nats-Schedule-Target", target);
        headers.insert("ce-specversion", "1.0");
        headers.insert("ce-id", "0190e6e4-7a3e-7c3e-9d3e-3b1f0d8a6a11");
        headers.insert("ce-source", "shop");
        headers.insert("ce-type", "payment.settled.v1");
        headers.insert("ce-partitionkey", "forged");
        if spoofs {
            headers.insert("Nats-Scheduler", "tidings.retry-at.user-directory.1");
        }
        let payload = json!({ "id": "forged", "count": 1 }).to_string();
        let client = &intruder.client;
        let asking = client.request_with_headers(
            "tidings.retry-at.welcome-email.1",
            headers,
            payload.into(),
        );
        serde_json::from_slice(&asking.await.unwrap().payload).unwrap()
    };
    let answer = schedule(true).await;
    assert!(
        answer["error"]["err_code"].is_u64(),
        "the server says itself who has scheduled: {answer}"
    );
    let answer = schedule(false).await;
    assert!(answer["error"].is_null(), "{answer}");
    eventually("it is a dead letter", || async {
        guarded.ok("dead-letters list --json").await.lines().count() == 1
    })
    .await;
    let letters = guarded.ok("dead-letters show 1").await;
    assert!(
        letters.contains("schedule tidings.retry-at.welcome-email.1"),
        "{letters}"
    );
    assert!(!guarded.notes().iter().any(|note| note.contains("forged")));
    for worker in workers {
        worker.stop().await;
    }
}

/// What the document states about answers: they are sent to the reply subject of the request, also into a stream.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_goes_where_its_request_says_as_documented() {
    assert!(DOCUMENT.contains("NATS does not check the reply subject of a request"));
    let guarded = Guarded::start_under(&with_root()).await;
    guarded.ok("streams apply").await;
    let root = Intruder::connect(&guarded.server, "root").await;
    let intruder = Intruder::connect(&guarded.server, "producer").await;
    let context = jetstream::new(root.client.clone());
    let letters = || async {
        let mut stream = context.get_stream("DEAD_LETTERS").await.unwrap();
        stream.info().await.unwrap().state.messages
    };
    assert_eq!(letters().await, 0);
    let answer_to = "dead-letter.welcome-email.user.created";
    let publishing = intruder
        .client
        .publish_with_reply("user.created", answer_to, "{}".into());
    publishing.await.unwrap();
    eventually(
        "the confirmation is stored as if it were a letter",
        || async { letters().await == 1 },
    )
    .await;
}

/// A relay reads the end of the stream with a consumer name that its user may use, even while a dead relay's consumer
/// still has the first of these names.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_takes_over_from_one_that_left_its_reader() {
    let guarded = Guarded::start_under(&with_root()).await;
    guarded.ok("streams apply").await;
    let root = Intruder::connect(&guarded.server, "root").await;
    let context = jetstream::new(root.client.clone());
    let stored = |events: u64| {
        let context = context.clone();
        async move {
            let mut stream = context.get_stream("EVENTS").await.unwrap();
            stream.info().await.unwrap().state.messages == events
        }
    };
    let relay = guarded.relay().await;
    guarded.settles(1..=3).await;
    eventually("the first ones are stored", || stored(3)).await;
    relay.stop().await;
    // The next relay looks at messages that it has not published itself.
    let publishing = root.client.publish("user.created", "{}".into());
    publishing.await.unwrap();
    eventually("it is stored", || stored(4)).await;
    let left = json!({ "stream_name": "EVENTS", "config": {
        "name": "relay-tidings-1", "ack_policy": "none", "mem_storage": true, "inactive_threshold": 60_000_000_000_u64,
    }});
    let create = "$JS.API.CONSUMER.CREATE.EVENTS.relay-tidings-1";
    assert_eq!(root.refusal(create, &left).await, 0);
    let relay = guarded.relay().await;
    guarded.settles(4..=6).await;
    eventually("the others are stored", || stored(7)).await;
    relay.stop().await;
    let log = guarded.log();
    assert!(
        log.contains("[PUB $JS.API.CONSUMER.MSG.NEXT.EVENTS.relay-tidings-2"),
        "it has read under the second name"
    );
    assert!(
        log.contains("[PUB $JS.API.CONSUMER.DELETE.EVENTS.relay-tidings-2"),
        "and has given it back"
    );
    assert!(!log.contains("Violation"));
}
