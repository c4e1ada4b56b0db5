//! `tidings streams`: plans, applies, and never does a thing twice.

use serde_json::Value;

use crate::support::{Store, World};

/// Each stream and what is done with it.
fn plans(streams: &[Value]) -> Vec<(&str, &str)> {
    streams
        .iter()
        .filter_map(|stream| Some((stream["stream"].as_str()?, stream["plan"].as_str()?)))
        .collect()
}

#[tokio::test]
async fn a_dry_run_tells_and_an_apply_does_and_a_second_one_changes_nothing() {
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
async fn a_changed_setting_is_shown_before_and_after_in_words_of_the_configuration() {
    let world = World::start(Store::Sqlite).await;
    world.ok(&["streams", "apply"]).await;
    world.write(
        "tidings.toml",
        "[[stream]]\nname = \"EVENTS\"\nsubjects = [\"user.>\"]\nmax_age = \"7d\"\n",
    );

    let planned = world.ok(&["streams", "apply", "--dry-run"]).await;
    let applied = world.ok(&["streams", "apply"]).await;
    let listed = world.ok(&["streams", "list"]).await;

    assert!(
        planned.starts_with("EVENTS (user.>): would be updated\n"),
        "{planned}"
    );
    assert!(
        planned.contains("\n  max_age: no limit -> 7d\n"),
        "{planned}"
    );
    assert!(
        planned.contains("[\"user.>\",\"payment.>\"] -> [\"user.>\"]"),
        "{planned}"
    );
    assert!(
        applied.starts_with("EVENTS (user.>): updated\n"),
        "{applied}"
    );
    assert!(
        listed.starts_with("EVENTS (user.>): unchanged\n"),
        "{listed}"
    );
}

#[tokio::test]
async fn what_the_server_refuses_ends_with_1() {
    let world = World::start(Store::Sqlite).await;
    world.ok(&["streams", "apply"]).await;
    world.write(
        "tidings.toml",
        "[[stream]]\nname = \"OTHER\"\nsubjects = [\"user.>\"]\n",
    );
    let said = world.refused(1, &["streams", "apply"]).await;
    assert!(said.contains("overlap"), "{said}");
    assert!(
        said.contains("try: subjects that no other stream takes"),
        "{said}"
    );
}

#[tokio::test]
async fn a_limit_of_the_retries_is_warned_of() {
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
