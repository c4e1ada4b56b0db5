//! P9: what a scrape shows of streams and storage, what it costs however many scrape, and what it never shows.

use std::time::Duration;

use futures::{StreamExt, future::join_all};
use tidings::{Context, EventSubscriber, Failure, Relay, Worker, ops::metrics::Metrics};
use tokio::time::timeout;

use super::{Endpoints, endpoints};
use crate::{
    both,
    support::{Database, Noted, User, World, eventually, note_id},
};

both!(
    streams_and_storage_are_shown,
    many_scrapes_ask_nats_once,
    no_payload_and_no_key_is_shown,
);

/// What the servers are asked for at most once in a minute.
const ACCOUNT: &str = "$JS.API.INFO";

/// Waits until a scrape shows this, and returns what it shows.
async fn shows(at: Endpoints, path: &str, text: &str) -> String {
    eventually(text, || async { at.ask(path).await.text.contains(text) }).await;
    at.ask(path).await.text
}

async fn streams_and_storage_are_shown<DB: Database>(world: World<DB>) {
    let metrics = Metrics::new();
    metrics.outbox(&world.outbox);
    let (ops, at) = endpoints();
    let worker = Worker::new(world.bus.clone(), Noted::default())
        .subscribe(EventSubscriber::durable("mailer").on(note_id))
        .with(Relay::new(world.outbox.clone()))
        .with(metrics.clone())
        .with(ops.merge(metrics.router()));
    let running = world.run(worker);
    at.says("/readyz", 200, "mailer").await;
    let text = shows(
        at,
        "/metrics",
        "tidings_stream_has_leader{stream=\"EVENTS\"} 1",
    )
    .await;
    for series in [
        "tidings_stream_has_leader{stream=\"RETRIES\"} 1",
        "tidings_stream_bytes{stream=\"EVENTS\"} ",
        "tidings_stream_messages{stream=\"EVENTS\"} ",
        "tidings_stream_oldest_seconds{stream=\"EVENTS\"} ",
        "tidings_stream_replicas{stream=\"EVENTS\"} 1",
        "tidings_stream_replicas_current{stream=\"EVENTS\"} 1",
        "tidings_jetstream_storage_bytes ",
        "tidings_clock_offset_seconds{of=\"nats\"} ",
        "tidings_component_status{component=\"subscriber\",of=\"mailer\",state=\"stuck\"} 0",
        "tidings_component_status{component=\"process\",of=\"process\",state=\"ok\"} 1",
        "tidings_scrape_errors_total{part=\"streams\"} 0",
        "tidings_scrape_errors_total{part=\"account\"} 0",
    ] {
        assert!(text.contains(series), "{series}: {text}");
    }
    let of_outbox = [
        "tidings_outbox_storage_bytes{",
        "tidings_outbox_backlog_events{",
    ];
    for series in of_outbox {
        let text = shows(at, "/metrics", series).await;
        assert!(
            text.contains("tidings_outbox_enqueued_events_total{"),
            "{text}"
        );
    }
    let without = at.ask("/metrics?outbox=0").await;
    assert_eq!(without.status, 200, "{without:?}");
    for series in of_outbox {
        assert!(!without.text.contains(series), "{series}: {without:?}");
    }
    assert!(without.text.contains("tidings_relay_state{"), "{without:?}");
    running.stop().await.unwrap();
}

async fn many_scrapes_ask_nats_once<DB: Database>(world: World<DB>) {
    let metrics = Metrics::new();
    metrics.outbox(&world.outbox);
    let (ops, at) = endpoints();
    let subscribers = (0..50).map(|n| EventSubscriber::durable(format!("s{n}")).on(note_id));
    let worker = Worker::new(world.bus.clone(), Noted::default());
    let worker = subscribers.fold(worker, Worker::subscribe);
    let worker = worker
        .with(metrics.clone())
        .with(ops.merge(metrics.router()));
    let running = world.run(worker);
    at.says("/readyz", 200, "s49").await;
    // The checks of the start ask for it too: a settled account is asked for by scrapes only.
    let client = async_nats::connect(world.nats.url()).await.unwrap();
    let mut asked = client.subscribe(ACCOUNT).await.unwrap();
    client.flush().await.unwrap();
    let scrapes = join_all((0..20).map(|_| at.ask("/metrics")));
    let answers = scrapes.await;
    assert!(answers.iter().all(|answer| answer.status == 200));
    shows(at, "/metrics", "tidings_jetstream_storage_bytes ").await;
    let mut requests = 0;
    while let Ok(Some(_)) = timeout(Duration::from_millis(500), asked.next()).await {
        requests += 1;
    }
    // One of the scrapes, and one of the checks at the start where those were slow.
    assert!((1..=2).contains(&requests), "{requests} requests");
    running.stop().await.unwrap();
}

async fn refuses(_: User, _: Context<Noted>) -> Result<(), Failure> {
    Err(Failure::reject("no such mailbox"))
}

async fn fails(_: User, _: Context<Noted>) -> Result<(), Failure> {
    Err(Failure::retry("the mail server is away"))
}

async fn no_payload_and_no_key_is_shown<DB: Database>(world: World<DB>) {
    let metrics = Metrics::new();
    metrics.outbox(&world.outbox);
    let (ops, at) = endpoints();
    let worker = Worker::new(world.bus.clone(), Noted::default())
        .subscribe(
            EventSubscriber::durable("refuses")
                .on(refuses)
                .ordered_by_key(),
        )
        .subscribe(EventSubscriber::durable("fails").on(fails).ordered_by_key())
        .with(Relay::new(world.outbox.clone()))
        .with(metrics.clone())
        .with(ops.merge(metrics.router()));
    let running = world.run(worker);
    let secret = User {
        id: "secret-key\"} 1 # {secret=\"x\"}".to_owned(),
        email: "secret-payload@example.org".to_owned(),
    };
    world.commit_all([&secret, &secret]).await;
    let letters = "tidings_dead_letters_total{subscriber=\"refuses\"";
    shows(at, "/metrics", letters).await;
    shows(at, "/metrics", "outcome=\"retry\"} ").await;
    for path in [
        "/metrics",
        "/metrics?outbox=0",
        "/healthz",
        "/readyz",
        "/livez?verbose",
        "/scale/refuses",
    ] {
        let answer = at.ask(path).await;
        assert!(!answer.text.contains("secret"), "{path}: {answer:?}");
        assert!(!answer.text.contains("@example.org"), "{path}: {answer:?}");
    }
    running.stop().await.unwrap();
}
