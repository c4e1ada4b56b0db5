//! A subscriber does not stall: within seconds the cause is gone, or is named in the log.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use async_nats::jetstream;
use tidings::{Bus, Context, EventPublisher, EventSubscriber, Failure, NatsOptions};
use tidings_test_servers::NatsServer;

use crate::support::{
    Cluster, Noted, Proxy, User, events_stream, eventually, log, within,
    working::{Working, apply_streams, server, subscriber},
};

/// How long a stall may last: ten seconds, and the delay that a busy machine may add.
const SOON: Duration = Duration::from_secs(12);

/// A worker with one subscriber.
fn begin(bus: &Bus, name: &str) -> Working {
    Working::run(bus, [subscriber(name).concurrency(4)])
}

async fn context(url: &str) -> jetstream::Context {
    jetstream::new(async_nats::connect(url).await.expect("a connection"))
}

fn signal(server: &NatsServer, signal: &str) {
    let command = format!("kill -s {signal} {}", server.pid());
    let status = std::process::Command::new("sh")
        .args(["-c", &command])
        .status();
    assert!(status.expect("a shell").success());
}

/// Waits until the log has these words about a subscriber, and fails when that takes too long.
async fn says(subscriber: &str, words: &str) {
    let began = Instant::now();
    eventually(words, || async {
        log::said(words)
            .iter()
            .any(|line| line.contains(subscriber))
    })
    .await;
    assert!(began.elapsed() < SOON, "{words}: {:?}", began.elapsed());
}

#[tokio::test]
async fn a_deleted_consumer_is_named_and_continues_where_it_was() {
    log::listen();
    let (server, bus) = server().await;
    let worker = begin(&bus, "deleted");
    worker.handles(&bus, "before").await;
    let began = Instant::now();
    let stream = context(&server.url())
        .await
        .get_stream("EVENTS")
        .await
        .unwrap();
    stream.delete_consumer("deleted").await.unwrap();
    worker.handles(&bus, "after").await;
    assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
    says("deleted", "has no consumer deleted: it was deleted").await;
    assert_eq!(worker.noted.all(), ["before", "after"]);
    worker.end().await;
}

#[tokio::test]
async fn a_deleted_stream_is_named_and_a_new_one_read_from_its_start() {
    log::listen();
    let (server, bus) = server().await;
    let worker = begin(&bus, "streamless");
    worker.handles(&bus, "before").await;
    context(&server.url())
        .await
        .delete_stream("EVENTS")
        .await
        .unwrap();
    says("streamless", "there is no stream EVENTS").await;
    bus.apply_stream(&events_stream()).await.unwrap();
    let began = Instant::now();
    worker.handles(&bus, "after").await;
    assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
    worker.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumer_that_changes_its_leader_continues() {
    let cluster = Cluster::start().await;
    let bus = cluster.bus().await;
    cluster.apply_all(&bus, Duration::from_secs(120)).await;
    let worker = begin(&bus, "led");
    worker.handles(&bus, "before").await;
    let client = async_nats::connect(cluster.urls()).await.unwrap();
    for round in 0..3 {
        let began = Instant::now();
        let subject = "$JS.API.CONSUMER.LEADER.STEPDOWN.EVENTS.led";
        client.request(subject, "".into()).await.unwrap();
        worker.handles(&bus, &format!("after {round}")).await;
        assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
    }
    worker.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_leaves_a_server_in_lame_duck_mode() {
    let cluster = Cluster::start().await;
    let bus = cluster.bus().await;
    cluster.apply_all(&bus, Duration::from_secs(120)).await;
    // Only one seed: the client learns the other servers from the cluster.
    let [first, ..] = &cluster.nodes;
    let one = Bus::connect(first.url()).await.unwrap();
    let worker = begin(&one, "duck");
    worker.handles(&bus, "before").await;
    let began = Instant::now();
    // The server keeps its connections for ten more seconds, and then closes them one by one.
    signal(first, "USR2");
    eventually("the connection is to another server", || async {
        // The name of a server ends with its port.
        let of_first = format!("-{}", first.port());
        one.is_connected() && !one.server_name().ends_with(&of_first)
    })
    .await;
    assert!(
        began.elapsed() < Duration::from_secs(8),
        "{:?}",
        began.elapsed()
    );
    worker.handles(&bus, "after").await;
    assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
    worker.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_half_open_link_is_replaced_before_the_client_notices() {
    let (server, bus) = server().await;
    let proxy = Proxy::to(server.port()).await;
    let through = format!("nats://127.0.0.1:{}", proxy.port);
    let through = Bus::connect(through).await.unwrap();
    let worker = begin(&through, "half-open");
    worker.handles(&bus, "before").await;
    let began = Instant::now();
    proxy.silence();
    // An event that the server has sent into the dead link is redelivered after the ack wait.
    let publisher = EventPublisher::new(&bus);
    eventually("new ones are handled", || async {
        publisher.publish(&User::new("after")).await.unwrap();
        worker.noted.len() > 1
    })
    .await;
    // The NATS client itself takes 20 to 30 seconds.
    assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
    worker.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_half_open_link_is_replaced_while_all_slots_are_in_use() {
    async fn hold(event: User, cx: Context<Noted>) -> Result<(), Failure> {
        cx.state().note(event.id);
        cx.cancelled().cancelled().await;
        Ok(())
    }
    log::listen();
    let (server, bus) = server().await;
    let proxy = Proxy::to(server.port()).await;
    let through = format!("nats://127.0.0.1:{}", proxy.port);
    let through = Bus::connect(through).await.unwrap();
    let subscriber = EventSubscriber::durable("busy").on(hold).concurrency(1);
    let worker = Working::run(&through, [subscriber]);
    worker.handles(&bus, "held").await;
    let began = Instant::now();
    let before = proxy.connections();
    proxy.silence();
    eventually("another connection", || async {
        proxy.connections() > before
    })
    .await;
    assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
    worker.task.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_link_is_not_replaced() {
    let (server, bus) = server().await;
    let proxy = Proxy::to(server.port()).await;
    let through = format!("nats://127.0.0.1:{}", proxy.port);
    let through = Bus::connect(through).await.unwrap();
    let worker = begin(&through, "slow");
    worker.handles(&bus, "before").await;
    let before = proxy.connections();
    proxy.slow(Duration::from_millis(900));
    worker.handles(&bus, "slowly").await;
    // real time: as long as the watchdog needs to close a silent link
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(proxy.connections(), before);
    proxy.slow(Duration::ZERO);
    worker.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_workers_of_a_durable_continue_after_a_server_crash() {
    let (server, bus) = server().await;
    let other = Bus::connect(server.url()).await.unwrap();
    let workers = [begin(&bus, "both"), begin(&other, "both")];
    let publisher = EventPublisher::new(&bus);
    // Each of the two workers handles some events, not one worker all of them.
    let both_handle = async |round: &str| {
        for worker in &workers {
            eventually("both handle some", || async {
                let more = User::new(&format!("{round} more"));
                let _ = publisher.publish(&more).await;
                worker.noted.all().iter().any(|id| id.starts_with(round))
            })
            .await;
        }
    };
    both_handle("first").await;
    for round in ["second", "third", "fourth"] {
        let began = Instant::now();
        server.kill().unwrap();
        server.restart().await.unwrap();
        let mut published = HashSet::new();
        for n in 0..40 {
            let id = format!("{round} {n}");
            while publisher.publish(&User::new(&id)).await.is_err() {
                // real time: a server that starts
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            published.insert(id);
        }
        eventually("all are handled", || async {
            let handled = workers.iter().flat_map(|worker| worker.noted.all());
            published.is_subset(&handled.collect())
        })
        .await;
        both_handle(round).await;
        assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
    }
    for worker in workers {
        worker.end().await;
    }
}

/// A server with a user `limited`, who has all rights of a worker except those that the test removes.
async fn limited(less: &str) -> (NatsServer, Bus, Bus) {
    let server = NatsServer::options().config(users(less)).start().await;
    let server = server.expect("nats-server starts");
    let as_user = |user: &str| {
        let options = NatsOptions::servers([server.url()]);
        Bus::connect(options.auth(tidings::nats::Auth::user(user, "secret")))
    };
    let all = as_user("all").await.expect("a connection");
    apply_streams(&all).await;
    let limited = as_user("limited").await.expect("a connection");
    (server, all, limited)
}

fn users(less: &str) -> String {
    format!(
        "authorization {{ users: [ {{ user: all, password: secret }}, {{ user: limited, password: secret, permissions: {{ {less} }} }} ] }}"
    )
}

#[tokio::test]
async fn a_denied_pull_names_its_permission_and_resumes_once_allowed() {
    log::listen();
    let deny = "publish: { deny: [\"$JS.API.CONSUMER.MSG.NEXT.EVENTS.not-pulling\"] }";
    let (server, all, bus) = limited(deny).await;
    let worker = begin(&bus, "not-pulling");
    says(
        "not-pulling",
        "allow it to publish to $JS.API.CONSUMER.MSG.NEXT.EVENTS.not-pulling",
    )
    .await;
    server.reload(users("publish: { allow: [\">\"] }")).unwrap();
    let began = Instant::now();
    worker.handles(&all, "allowed").await;
    assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
    let said = log::said("allow it to publish to $JS.API.CONSUMER.MSG.NEXT.EVENTS.not-pulling");
    assert!(said.len() < 20, "{} lines", said.len());
    worker.end().await;
}

#[tokio::test]
async fn a_worker_denied_to_ack_reports_it() {
    log::listen();
    let deny = "publish: { deny: [\"$JS.ACK.EVENTS.not-acking.>\"] }";
    let (_server, all, bus) = limited(deny).await;
    let worker = begin(&bus, "not-acking");
    worker.handles(&all, "handled").await;
    says(
        "not-acking",
        "allow it to publish to $JS.ACK.EVENTS.not-acking.>",
    )
    .await;
    worker.task.abort();
}

#[tokio::test]
async fn a_worker_denied_its_consumer_does_not_start_and_says_why() {
    for api in ["CONSUMER.INFO", "CONSUMER.CREATE"] {
        let deny = format!("publish: {{ deny: [\"$JS.API.{api}.>\"] }}");
        let (_server, _all, bus) = limited(&deny).await;
        let began = Instant::now();
        let worker = begin(&bus, "not-starting");
        let error = within("it ends", worker.task).await.unwrap().unwrap_err();
        let cause = std::error::Error::source(&error)
            .expect("a cause")
            .to_string();
        assert!(
            cause.contains(&format!(
                "allow it to publish to $JS.API.{api}.EVENTS.not-starting"
            )),
            "{cause}"
        );
        assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
    }
}

#[tokio::test]
async fn a_worker_denied_to_read_answers_reports_it() {
    let deny = "subscribe: { deny: [\"_INBOX.>\"] }";
    let (_server, _all, bus) = limited(deny).await;
    let began = Instant::now();
    let worker = begin(&bus, "not-hearing");
    let error = within("it ends", worker.task).await.unwrap().unwrap_err();
    let cause = std::error::Error::source(&error)
        .expect("a cause")
        .to_string();
    assert!(
        cause.contains("allow it to subscribe to _INBOX.>"),
        "{cause}"
    );
    assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
}

async fn pause(server: &NatsServer, consumer: &str, until: &str) {
    let client = async_nats::connect(server.url()).await.unwrap();
    let subject = format!("$JS.API.CONSUMER.PAUSE.EVENTS.{consumer}");
    let body = format!("{{\"pause_until\":\"{until}\"}}");
    let answer = client.request(subject, body.into()).await.unwrap();
    let said = String::from_utf8_lossy(&answer.payload);
    assert!(!said.contains("error"), "{said}");
}

#[tokio::test]
async fn a_paused_subscriber_is_reported_and_is_no_stall() {
    log::listen();
    let (server, bus) = server().await;
    let worker = begin(&bus, "paused");
    worker.handles(&bus, "before").await;
    pause(&server, "paused", "2999-01-01T00:00:00Z").await;
    EventPublisher::new(&bus)
        .publish(&User::new("waits"))
        .await
        .unwrap();
    says("paused", "subscriber paused").await;
    assert_eq!(worker.noted.all(), ["before"]);
    let began = Instant::now();
    pause(&server, "paused", "2000-01-01T00:00:00Z").await;
    worker.has("waits").await;
    assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
    says("paused", "subscriber resumed").await;
    assert!(log::said("events are waiting, and none is delivered").is_empty());
    worker.end().await;
}
