//! The bucket of the workers, created or changed by another tool: set back, or reported with its cure; and invalid
//! entries in it, which affect only themselves.

use serde_json::{Value, json};
use tidings::{
    StartFrom,
    dead_letters::{DeadLetterSelection, DeadLetters},
    replays::{ReplayRequest, Replays},
};

use crate::support::{
    Tool, eventually,
    working::{Working, has_no_issue, publish, reports, server, subscriber},
};

const BUCKET: &str = "KV_TIDINGS";

fn bucket(settings: Value) -> Value {
    let mut config = json!({ "name": BUCKET, "subjects": ["$KV.TIDINGS.>"], "max_msgs_per_subject": 1, "discard": "new" });
    for (setting, value) in settings.as_object().unwrap() {
        config[setting] = value.clone();
    }
    config
}

async fn is_as_it_should_be(tool: &Tool) {
    eventually("the bucket is set back", || async {
        let config = tool.stream(BUCKET).await;
        let is = |setting: &str, value: Value| config.get(setting) == Some(&value);
        is("max_age", json!(0))
            && is("max_msgs", json!(-1))
            && is("max_msgs_per_subject", json!(1))
            && is("max_msg_size", json!(-1))
            && is("discard", json!("new"))
            && is("allow_direct", json!(true))
            && is("allow_msg_ttl", json!(true))
            && !is("no_ack", json!(true))
            && config.get("subject_transform").is_none()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_made_or_changed_by_another_tool_is_restored() {
    let (server, bus) = server().await;
    let tool = Tool::at(&server).await;
    let spoiled = json!({
        "max_age": 5_000_000_000_u64, "max_msgs": 3, "max_msgs_per_subject": 5, "max_msg_size": 100, "discard": "old",
        "no_ack": true, "subject_transform": { "src": "$KV.TIDINGS.>", "dest": "x.>" }
    });
    tool.done(&format!("STREAM.CREATE.{BUCKET}"), bucket(spoiled.clone()))
        .await;
    let worker = Working::run(&bus, [subscriber("ordered").ordered_by_key()]);
    publish(&bus, "first").await;
    worker.has("first").await;
    is_as_it_should_be(&tool).await;

    tool.change_stream(BUCKET, &spoiled).await;
    is_as_it_should_be(&tool).await;
    publish(&bus, "second").await;
    worker.has("second").await;
    has_no_issue(&bus, "ordered").await;
    worker.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_refuses_entries_is_an_issue_of_each_instance() {
    for (settings, words) in [
        (json!({ "max_bytes": 2_000 }), "max_bytes"),
        (json!({ "sealed": true }), "is sealed"),
        (
            json!({ "retention": "workqueue" }),
            "retention of KV_TIDINGS",
        ),
        (json!({ "storage": "memory" }), "KV_TIDINGS is in memory"),
    ] {
        let (server, bus) = server().await;
        let tool = Tool::at(&server).await;
        let is_sealed = settings.get("sealed").is_some();
        let made = if is_sealed {
            json!({})
        } else {
            settings.clone()
        };
        tool.done(&format!("STREAM.CREATE.{BUCKET}"), bucket(made))
            .await;
        tool.put("$KV.TIDINGS.filler", &[], &"x".repeat(1_900))
            .await;
        if is_sealed {
            let sealed = json!({ "sealed": true, "deny_delete": true, "deny_purge": true });
            tool.change_stream(BUCKET, &sealed).await;
        }
        let of = || Working::run(&bus, [subscriber("stands").ordered_by_key()]);
        let workers = [of(), of()];
        reports(&bus, "stands", &[words, "KV_TIDINGS"]).await;
        if words == "max_bytes" || words == "is sealed" {
            reports(&bus, "stands", &["the lease cannot be acquired"]).await;
        }
        for worker in workers {
            worker.end().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn forged_entry_headers_stop_no_ordered_subscriber() {
    let (server, bus) = server().await;
    let tool = Tool::at(&server).await;
    let worker = Working::run(&bus, [subscriber("forged").ordered_by_key()]);
    publish(&bus, "before").await;
    worker.has("before").await;
    worker.end().await;
    let forged = [
        ("Nats-Sequence", "9999"),
        ("Nats-Subject", "$KV.TIDINGS.other"),
        ("Nats-Time-Stamp", "2000-01-01T00:00:00Z"),
        ("Nats-Stream", "OTHER"),
        ("Nats-Last-Sequence", "1"),
        ("Nats-Num-Pending", "0"),
    ];
    for entry in [
        "lease.forged",
        "lease.forged",
        "crash-marker.forged.x",
        "replay.forged.x",
    ] {
        tool.put(&format!("$KV.TIDINGS.{entry}"), &forged, "{}")
            .await;
    }
    let worker = Working::run(&bus, [subscriber("forged").ordered_by_key()]);
    publish(&bus, "after").await;
    worker.has("after").await;
    worker.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invalid_entry_breaks_no_other_and_is_named() {
    let (server, bus) = server().await;
    let tool = Tool::at(&server).await;
    let worker = Working::run(&bus, [subscriber("busy").ordered_by_key()]);
    publish(&bus, "first").await;
    worker.has("first").await;
    let replays = Replays::new(&bus);
    let request = ReplayRequest::new(StartFrom::Beginning);
    let replay = replays.start("busy", &request).await.unwrap();
    let entry = serde_json::to_value(&replay).unwrap();
    let mut nameless = entry.clone();
    let id = "019b0000000070008000000000000001";
    nameless["id"] = json!(id);
    nameless["ranges"][0]["stream"] = json!("no name > *");
    let huge = "x".repeat(900_000);
    let bad = [
        ("replay.busy.garbage".to_owned(), "\u{1}not json".to_owned()),
        ("replay.busy.number".to_owned(), "7".to_owned()),
        ("replay.busy.list".to_owned(), "[]".to_owned()),
        ("replay.busy.huge".to_owned(), huge),
        // This entry hides the real one from a search for the last entry of this id.
        (format!("replay.other.{}", replay.id), entry.to_string()),
        ("replay.busy.copy".to_owned(), entry.to_string()),
        (format!("replay.busy.{id}"), nameless.to_string()),
        ("parked.busy.garbage".to_owned(), "{".to_owned()),
        ("parked.busy.a.b.c".to_owned(), "{}".to_owned()),
        (
            format!("replay-progress.busy.{}", replay.id),
            "{".to_owned(),
        ),
    ];
    for (entry, value) in &bad {
        tool.put(&format!("$KV.TIDINGS.{entry}"), &[], value).await;
    }

    let listed = replays.list(None).await.unwrap();
    assert_eq!(
        listed.iter().map(|one| one.id).collect::<Vec<_>>(),
        [replay.id]
    );
    assert_eq!(replays.list(Some("busy")).await.unwrap().len(), 1);
    let status = replays.find(replay.id).await.unwrap();
    assert_eq!(status.replay.subscriber, "busy");
    let letters = DeadLetters::new(&bus);
    let parked = letters.parked_keys(&DeadLetterSelection::default()).await;
    assert!(parked.unwrap().is_empty());
    let cure = "nats kv del TIDINGS replay.busy.garbage";
    reports(
        &bus,
        "busy",
        &["replay.busy.garbage", "cannot be read", cure],
    )
    .await;
    reports(
        &bus,
        "busy",
        &["replay.busy.copy", "named after another replay"],
    )
    .await;
    reports(&bus, "busy", &["no name > *"]).await;
    worker.noted.reach(2).await;
    eventually("the replay ends", || async {
        let found = replays.find(replay.id).await.unwrap();
        found.replay.state.is_final()
    })
    .await;
    worker.end().await;

    // The next active instance reads them again.
    let worker = Working::run(&bus, [subscriber("busy").ordered_by_key()]);
    publish(&bus, "second").await;
    worker.has("second").await;
    reports(&bus, "busy", &["parked.busy.garbage", "parked.busy.a.b.c"]).await;
    for (entry, _) in &bad {
        let purge = json!({ "filter": format!("$KV.TIDINGS.{entry}") });
        tool.done(&format!("STREAM.PURGE.{BUCKET}"), purge).await;
    }
    has_no_issue(&bus, "busy").await;
    worker.end().await;
}
