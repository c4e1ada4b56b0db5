//! P7, P9: settings of durables and streams that another tool has made or changed are set back, or reported with their
//! cure; no event is lost or waits silently.

use serde_json::{Value, json};
use tidings::Bus;
use tidings_test_servers::NatsServer;

use crate::support::{
    Stream, Tool, events_stream, eventually, put_over,
    working::{Working, apply_streams, has_no_issue, publish, reports, server, subscriber},
};

fn spoilers() -> [Value; 5] {
    [
        json!({ "headers_only": true }),
        json!({ "priority_groups": ["g"], "priority_policy": "overflow" }),
        json!({ "priority_groups": ["g"], "priority_policy": "pinned_client", "priority_timeout": 5_000_000_000_u64 }),
        json!({ "max_deliver": 7, "backoff": [300_000_000, 400_000_000] }),
        json!({ "inactive_threshold": 3_600_000_000_000_u64, "ack_wait": 1_000_000_000 }),
    ]
}

async fn is_set_back(tool: &Tool, name: &str, spoiler: &Value) {
    eventually(&format!("{spoiler} of {name} is set back"), || async {
        let config = tool.durable(name).await;
        let spoiled = spoiler.as_object().unwrap();
        spoiled
            .iter()
            .all(|(setting, value)| config.get(setting) != Some(value))
    })
    .await;
}

async fn no_dead_letter(server: &NatsServer) {
    let letters = Stream::read(&server.url(), "DEAD_LETTERS").await;
    assert_eq!(letters.0.len(), 0, "an event became a dead letter");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_changed_at_work_is_restored_and_loses_nothing() {
    let (server, bus) = server().await;
    let tool = Tool::at(&server).await;
    for (at, spoiler) in spoilers().iter().enumerate() {
        for ordered in [false, true] {
            let name = format!("spoiled-{at}-{ordered}");
            let subscriber = subscriber(&name);
            let subscriber = if ordered {
                subscriber.ordered_by_key()
            } else {
                subscriber
            };
            let worker = Working::run(&bus, [subscriber]);
            publish(&bus, &format!("{name} before")).await;
            worker.has(&format!("{name} before")).await;
            tool.change_durable(&name, spoiler).await;
            for n in 0..5 {
                publish(&bus, &format!("{name} {n}")).await;
            }
            is_set_back(&tool, &name, spoiler).await;
            publish(&bus, &format!("{name} after")).await;
            for what in ["0", "4", "after"] {
                worker.has(&format!("{name} {what}")).await;
            }
            worker.end().await;
        }
    }
    no_dead_letter(&server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_changed_before_the_start_is_restored() {
    let (server, bus) = server().await;
    let tool = Tool::at(&server).await;
    for (at, spoiler) in spoilers().iter().enumerate() {
        let name = format!("made-{at}");
        let mut config = json!({
            "durable_name": name, "ack_policy": "explicit", "max_deliver": 7, "deliver_policy": "new",
            "filter_subject": "user.created"
        });
        put_over(&mut config, spoiler);
        tool.write_durable(&name, config, "create").await;
        let worker = Working::run(&bus, [subscriber(&name)]);
        publish(&bus, &name).await;
        worker.has(&name).await;
        is_set_back(&tool, &name, spoiler).await;
        has_no_issue(&bus, &name).await;
        worker.end().await;
    }
    no_dead_letter(&server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_marked_as_without_payload_affects_only_itself() {
    let (server, bus) = server().await;
    let tool = Tool::at(&server).await;
    let worker = Working::run(&bus, [subscriber("forged")]);
    let forged = [("Nats-Msg-Size", "99")];
    tool.put("user.created", &forged, "").await;
    publish(&bus, "after").await;
    worker.has("after").await;
    let letters = || async { Stream::read(&server.url(), "DEAD_LETTERS").await.0.len() };
    eventually("it is a dead letter", || async { letters().await == 1 }).await;
    worker.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unusable_consumer_is_named_and_the_others_work() {
    let (server, bus) = server().await;
    let tool = Tool::at(&server).await;
    let made = [
        (
            "pushed",
            json!({ "deliver_subject": "x.y" }),
            "deliver_subject",
        ),
        ("acked", json!({ "ack_policy": "none" }), "ack_policy"),
    ];
    for (name, settings, _) in &made {
        let mut config = json!({
            "durable_name": name, "ack_policy": "explicit", "filter_subject": "user.created"
        });
        put_over(&mut config, settings);
        tool.write_durable(name, config, "create").await;
    }
    for ordered in [false, true] {
        let of = |name| match ordered {
            true => subscriber(name).ordered_by_key(),
            false => subscriber(name),
        };
        let worker = Working::run(&bus, ["pushed", "acked", "other"].map(of));
        publish(&bus, &format!("ordered {ordered}")).await;
        worker.has(&format!("ordered {ordered}")).await;
        for (name, _, setting) in &made {
            let delete = format!("nats consumer rm EVENTS {name}");
            reports(&bus, name, &[setting, &delete]).await;
        }
        worker.end().await;
    }
    let worker = Working::run(&bus, [subscriber("pushed")]);
    reports(&bus, "pushed", &["deliver_subject"]).await;
    assert_eq!(worker.noted.len(), 0);
    worker.end().await;
    tool.done("CONSUMER.DELETE.EVENTS.pushed", json!({})).await;
    let worker = Working::run(&bus, [subscriber("pushed")]);
    worker.noted.reach(2).await;
    has_no_issue(&bus, "pushed").await;
    worker.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pulls_that_end_for_an_unknown_reason_are_an_issue_with_code() {
    // A user who may not change the durable cannot set it back. `no_auth_user` cannot be reloaded.
    let users = r#"authorization { users: [
        { user: all, password: p }
        { user: few, password: p, permissions { publish { deny: ["$JS.API.CONSUMER.CREATE.>"] } } }
    ] }
    no_auth_user: all"#;
    let server = NatsServer::options().config(users).start().await;
    let server = server.expect("nats-server starts");
    let bus = Bus::connect(server.url()).await.expect("a connection");
    apply_streams(&bus).await;
    let tool = Tool::at(&server).await;
    let worker = Working::run(&bus, [subscriber("denied")]);
    publish(&bus, "before").await;
    worker.has("before").await;
    worker.end().await;
    let spoiler = json!({ "priority_groups": ["g"], "priority_policy": "overflow" });
    tool.change_durable("denied", &spoiler).await;
    let url_of = |user: &str| server.url().replace("nats://", &format!("nats://{user}@"));
    let bus_of_few = Bus::connect(url_of("few:p")).await.expect("a user");
    let worker = Working::run(&bus_of_few, [subscriber("denied")]);
    publish(&bus, "waits").await;
    reports(&bus, "denied", &["400", "Priority Group missing"]).await;
    reports(
        &bus,
        "denied",
        &[
            "cannot be set back",
            "$JS.API.CONSUMER.CREATE.EVENTS.denied",
        ],
    )
    .await;
    reports(&bus, "denied", &["events wait"]).await;
    worker.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_stream_settings_are_reported_by_its_subscribers() {
    let (server, bus) = server().await;
    let tool = Tool::at(&server).await;
    let worker = Working::run(&bus, [subscriber("told")]);
    has_no_issue(&bus, "told").await;
    let transform = json!({ "src": "user.>", "dest": "elsewhere.>" });
    for (stream, change, back, words) in [
        (
            "EVENTS",
            json!({ "subject_transform": transform }),
            json!({ "subject_transform": null }),
            "subject_transform of EVENTS",
        ),
        (
            "EVENTS",
            json!({ "no_ack": true }),
            json!({ "no_ack": false }),
            "no_ack of EVENTS",
        ),
        (
            "EVENTS",
            json!({ "subjects": ["count.>"] }),
            json!({ "subjects": ["user.>", "count.>"] }),
            "no longer takes user.created",
        ),
        (
            "RETRIES",
            json!({ "max_age": 3_600_000_000_000_u64 }),
            json!({ "max_age": 0 }),
            "max_age of RETRIES",
        ),
        (
            "DEAD_LETTERS",
            json!({ "max_msg_size": 1_000 }),
            json!({ "max_msg_size": -1 }),
            "max_msg_size of DEAD_LETTERS",
        ),
    ] {
        tool.change_stream(stream, &change).await;
        reports(&bus, "told", &[words]).await;
        tool.change_stream(stream, &back).await;
        has_no_issue(&bus, "told").await;
    }
    tool.change_stream(
        "EVENTS",
        &json!({ "sealed": true, "deny_purge": true, "deny_delete": true }),
    )
    .await;
    reports(&bus, "told", &["EVENTS is sealed"]).await;
    worker.end().await;
}

#[tokio::test]
async fn apply_removes_settings_that_block_subscribers() {
    let (server, bus) = server().await;
    let tool = Tool::at(&server).await;
    let transform = json!({ "src": "user.>", "dest": "elsewhere.>" });
    let spoiled =
        json!({ "subject_transform": transform, "no_ack": true, "max_msgs_per_subject": 1 });
    tool.change_stream("EVENTS", &spoiled).await;
    bus.apply_stream(&events_stream()).await.unwrap();
    let config = tool.stream("EVENTS").await;
    assert!(config.get("subject_transform").is_none(), "{config}");
    assert_ne!(config.get("no_ack"), Some(&json!(true)));
    assert_eq!(config["max_msgs_per_subject"], -1);
}
