//! Limits of servers, accounts and streams: obeyed, or reported with their cure.

use serde_json::json;
use tidings::{Bus, NatsOptions, StartFrom, StreamSpec, event::Pattern};
use tidings_test_servers::NatsServer;

use crate::support::{
    Tool, events_stream, within,
    working::{Working, apply_streams, has_no_issue, publish, reports, server, subscriber},
};

async fn handles_many(bus: &Bus, name: &str) {
    for ordered in [false, true] {
        let name = format!("{name}-{ordered}");
        let subscriber = subscriber(&name).concurrency(32);
        let subscriber = if ordered {
            subscriber.ordered_by_key()
        } else {
            subscriber
        };
        let worker = Working::run(bus, [subscriber]);
        for n in 0..60 {
            publish(bus, &format!("{name} {n}")).await;
        }
        worker.noted.reach(60).await;
        worker.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_of_the_server_are_obeyed() {
    let limits = "limits { max_request_batch: 5, max_ack_pending: 40 }";
    let server = NatsServer::options()
        .jetstream(limits)
        .start()
        .await
        .unwrap();
    let bus = Bus::connect(server.url()).await.unwrap();
    apply_streams(&bus).await;
    handles_many(&bus, "few").await;
    let tool = Tool::at(&server).await;
    assert_eq!(tool.durable("few-false").await["max_ack_pending"], 40);
    let worker = Working::run(&bus, [subscriber("few-false")]);
    has_no_issue(&bus, "few-false").await;
    worker.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_that_a_tool_has_set_for_pulls_are_obeyed() {
    let (server, bus) = server().await;
    let tool = Tool::at(&server).await;
    for (name, limits) in [
        ("batch", json!({ "max_batch": 3 })),
        ("expires", json!({ "max_expires": 1_000_000_000 })),
        ("bytes", json!({ "max_bytes": 500 })),
        ("waiting", json!({ "max_waiting": 1 })),
    ] {
        let mut config = json!({
            "durable_name": name, "ack_policy": "explicit", "filter_subject": "user.created", "deliver_policy": "new"
        });
        for (setting, value) in limits.as_object().unwrap() {
            config[setting] = value.clone();
        }
        tool.write_durable(name, config, "create").await;
        let worker = Working::run(&bus, [subscriber(name)]);
        for n in 0..40 {
            publish(&bus, &format!("{name} {n}")).await;
        }
        worker.noted.reach(40).await;
        has_no_issue(&bus, name).await;
        worker.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_run_in_an_account_with_every_limit() {
    let account = r"
        accounts { A {
            jetstream { max_file: 1G, max_mem: 10M, max_streams: 10, max_consumers: 20, max_ack_pending: 30, max_bytes: true }
            users: [{ user: a, password: a }]
        } }
        no_auth_user: a";
    let server = NatsServer::options().config(account).start().await.unwrap();
    let unbounded = Bus::connect(server.url()).await.unwrap();
    for mut stream in StreamSpec::internal().into_iter().chain([events_stream()]) {
        let refused = unbounded
            .apply_stream(&stream)
            .await
            .unwrap_err()
            .to_string();
        assert!(refused.contains("10113"), "{refused}");
        stream.max_bytes = Some(10_000_000);
        unbounded.apply_stream(&stream).await.unwrap();
    }
    let worker = Working::run(&unbounded, [subscriber("unbounded").ordered_by_key()]);
    reports(
        &unbounded,
        "unbounded",
        &["bucket TIDINGS", "nats.bucket_max_bytes"],
    )
    .await;
    worker.end().await;
    let options = NatsOptions::from(server.url()).bucket_max_bytes(1_000_000);
    let bus = Bus::connect(options).await.unwrap();
    handles_many(&bus, "bounded").await;
    let tool = Tool::at(&server).await;
    assert_eq!(tool.stream("KV_TIDINGS").await["max_bytes"], 1_000_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn consumer_limits_of_a_stream_are_obeyed_or_named() {
    let server = NatsServer::start().await.unwrap();
    let bus = Bus::connect(server.url()).await.unwrap();
    apply_streams(&bus).await;
    let tool = Tool::at(&server).await;
    let limits = json!({ "max_ack_pending": 20, "inactive_threshold": 4_000_000_000_u64 });
    tool.change_stream("EVENTS", &json!({ "consumer_limits": limits }))
        .await;
    handles_many(&bus, "limited").await;

    let worker = Working::run(&bus, [subscriber("limited-false")]);
    let cure = "nats stream edit EVENTS --limit-consumer-inactive=0";
    reports(&bus, "limited-false", &["inactive_threshold", "4s", cure]).await;
    // The reader of tail, trace, verify and rehearsals.
    let all = Pattern::parse("user.>").unwrap();
    let mut reader = bus
        .read("EVENTS", &[all], StartFrom::Beginning)
        .await
        .unwrap();
    let first = within("an event", reader.next()).await.unwrap();
    assert_eq!(first.sequence, 1);
    let at = StartFrom::Time(first.stored_at);
    let both = ["user.created", "count.ed"].map(|name| Pattern::parse(name).unwrap());
    let mut reader = bus.read("EVENTS", &both, at).await.unwrap();
    assert_eq!(within("an event", reader.next()).await.unwrap().sequence, 1);

    let path = json!({ "consumer_limits": {} });
    tool.change_stream("EVENTS", &path).await;
    worker.end().await;
    let worker = Working::run(&bus, [subscriber("limited-false")]);
    has_no_issue(&bus, "limited-false").await;
    let config = tool.durable("limited-false").await;
    assert!(config.get("inactive_threshold").is_none(), "{config}");
    assert_eq!(config["max_ack_pending"], 10_000);
    worker.end().await;
}
