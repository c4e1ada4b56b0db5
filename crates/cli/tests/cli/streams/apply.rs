//! `tidings streams`: plans and applies; a second run changes nothing.

use serde_json::Value;

use crate::support::{Store, World};

/// Each stream and its planned change.
fn plans(streams: &[Value]) -> Vec<(&str, &str)> {
    streams
        .iter()
        .filter_map(|stream| Some((stream["stream"].as_str()?, stream["plan"].as_str()?)))
        .collect()
}

#[tokio::test]
async fn a_dry_run_plans_apply_acts_and_a_second_apply_does_nothing() {
    let world = World::start(Store::Sqlite).await;
    let planned = world
        .json(&["streams", "apply", "--dry-run", "--json"])
        .await;
    let still = world.json(&["streams", "--json"]).await;
    let applied = world.json(&["streams", "apply", "--json"]).await;
    let again = world.json(&["streams", "apply", "--json"]).await;

    let create = [
        ("EVENTS", "create"),
        ("DEAD_LETTERS", "create"),
        ("RETRIES", "create"),
    ];
    assert_eq!(plans(&planned), create);
    assert_eq!(plans(&still), create);
    assert_eq!(plans(&applied), create);
    assert_eq!(
        plans(&again),
        [
            ("EVENTS", "unchanged"),
            ("DEAD_LETTERS", "unchanged"),
            ("RETRIES", "unchanged"),
        ]
    );
    assert_eq!(
        (&planned[0]["applied"], &applied[0]["applied"]),
        (&false.into(), &true.into())
    );
}

#[tokio::test]
async fn a_changed_setting_is_shown_as_in_the_configuration() {
    let world = World::start(Store::Sqlite).await;
    world.ok(&["streams", "apply"]).await;
    world.write(
        "tidings.toml",
        "[[stream]]\nname = \"EVENTS\"\nsubjects = [\"user.>\"]\nmax_age = \"7d\"\n",
    );

    let planned = world.ok(&["streams", "apply", "--dry-run"]).await;
    let kept = world.ok(&["streams", "apply"]).await;
    let applied = world.ok(&["streams", "apply", "--yes"]).await;
    let listed = world.ok(&["streams", "list"]).await;

    assert!(
        planned.starts_with("EVENTS (user.>): would be updated\n"),
        "{planned}"
    );
    assert!(
        planned.contains("\n  max_age: no limit -> 7d\n"),
        "{planned}"
    );
    for said in [&planned, &kept] {
        let extra = "\n  still takes payment.> (0 events stored), which is not configured: --yes removes it";
        assert!(said.contains(extra), "{said}");
    }
    assert!(kept.starts_with("EVENTS (user.>): updated\n"), "{kept}");
    assert!(
        applied.starts_with("EVENTS (user.>): updated\n  no longer takes payment.>"),
        "{applied}"
    );
    assert!(
        listed.starts_with("EVENTS (user.>): unchanged\n"),
        "{listed}"
    );
}

/// P2: a setting that the server would refuse is reported before any change, also by a dry run.
#[tokio::test]
async fn a_setting_that_the_server_refuses_ends_with_1() {
    let world = World::start(Store::Sqlite).await;
    world.ok(&["streams", "apply"]).await;
    world.write(
        "tidings.toml",
        "[[stream]]\nname = \"NEW\"\nsubjects = [\"new.>\"]\n\
         [[stream]]\nname = \"OTHER\"\nsubjects = [\"user.>\"]\n",
    );
    for arguments in [
        &["streams", "apply", "--dry-run"][..],
        &["streams", "apply", "--yes"],
    ] {
        let said = world.refused(1, arguments).await;
        assert!(
            said.contains("stream OTHER cannot be created or updated as declared"),
            "{said}"
        );
        assert!(
            said.contains("stream EVENTS takes user.>, or a part of it"),
            "{said}"
        );
        assert!(said.contains("try: change the [[stream]]"), "{said}");
    }
    let listed = world.ok(&["streams", "list"]).await;
    assert!(listed.contains("NEW (new.>): missing"), "{listed}");
    assert!(
        listed.contains("OTHER (user.>): cannot be applied"),
        "{listed}"
    );
}

/// E1: when no stream is configured, only the internal streams are changed.
#[tokio::test]
async fn without_configuration_the_streams_of_services_stay() {
    let world = World::start(Store::Sqlite).await;
    world.write(
        "tidings.toml",
        "[[stream]]\nname = \"EVENTS\"\nsubjects = [\"order.>\"]\n",
    );
    world.ok(&["streams", "apply"]).await;
    world.write("tidings.toml", "");
    let applied = world.json(&["streams", "apply", "--yes", "--json"]).await;
    assert_eq!(
        plans(&applied),
        [("DEAD_LETTERS", "unchanged"), ("RETRIES", "unchanged")]
    );
    let order = ["publish", "order.placed", "--data", "{}", "--direct"];
    world.ok(&order).await;
    let noted = world
        .refused(1, &["publish", "user.noted", "--data", "{}", "--direct"])
        .await;
    assert!(noted.contains("no stream takes user.noted"), "{noted}");
    // Without a configured stream, the events of all streams of the account are shown.
    let mut tail = world.spawn(&["tail", "--since", "beginning"]);
    let line = tail.line().await.unwrap();
    assert!(line.contains("order.placed"), "{line}");
}

/// A shorter maximum age removes older events at once.
#[tokio::test]
async fn an_age_that_removes_events_needs_confirmation() {
    let world = World::start(Store::Sqlite).await.set_up().await;
    let note = ["publish", "user.noted", "--data", "{}", "--direct"];
    world.ok(&note).await;
    let of = |age: &str| {
        format!(
            "[[stream]]\nname = \"EVENTS\"\nsubjects = [\"user.>\", \"payment.>\"]\nmax_age = \"{age}\"\n\
             duplicate_window = \"100ms\"\n"
        )
    };
    world.write("tidings.toml", &of("7d"));
    world.ok(&["streams", "apply"]).await;
    world.write("tidings.toml", &of("100ms"));
    let stored = std::time::Instant::now();
    while stored.elapsed() < std::time::Duration::from_millis(200) {
        tokio::task::yield_now().await;
    }
    let refused = world.refused(2, &["streams", "apply"]).await;
    assert!(
        refused.contains("this removes 1 event of EVENTS that are older than 100ms"),
        "{refused}"
    );
    assert!(refused.contains("--yes"), "{refused}");
    let status = world.ok(&["streams", "list"]).await;
    assert!(status.contains("max_age: 7d -> 100ms"), "{status}");
    world.ok(&["streams", "apply", "--yes"]).await;
}

#[tokio::test]
async fn a_limit_of_the_retry_stream_is_a_warning() {
    let world = World::start(Store::Sqlite).await;
    world.ok(&["streams", "apply"]).await;
    let subjects = "[\"tidings.retry.>\", \"tidings.retry-at.>\"]";
    world.write(
        "tidings.toml",
        &format!("[[stream]]\nname = \"RETRIES\"\nsubjects = {subjects}\nmax_bytes = 1000000\n"),
    );
    let applied = world.ok(&["streams", "apply"]).await;
    let warning = "\n  warning: max_bytes is ";
    assert!(applied.contains(warning), "{applied}");
    let listed = world.json(&["streams", "--json"]).await;
    let warnings = |stream: &Value| stream["warnings"].as_array().map(Vec::len);
    let retries = listed.iter().find(|stream| stream["stream"] == "RETRIES");
    assert_eq!(retries.and_then(warnings), Some(1));
}
