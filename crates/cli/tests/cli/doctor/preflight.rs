//! What the doctor finds of the configuration, and what a relay says of it at its start.

use async_nats::jetstream::{self, stream::RetentionPolicy};
use serde_json::Value;
use tidings::judge::CHECKS;

use super::has;
use crate::support::{EVENTS, Store, World};

both!(
    a_danger_is_found_until_it_is_allowed,
    a_refusal_ends_the_program_with_its_cure,
);

async fn a_danger_is_found_until_it_is_allowed(world: World) {
    world.write(
        "tidings.toml",
        &format!("{EVENTS}duplicate_window = \"30s\"\n"),
    );
    let world = world.set_up().await;
    let relay = world.spawn(&["relay"]);
    world.commits("user.renamed", "x").await;
    let finding = world.finds("nats/window/EVENTS", "danger", 1).await;
    has(&finding, "cause", "duplicate_window of EVENTS is 30s");
    has(&finding, "cure", "tidings streams apply");
    // Its notes are shown on request only.
    let all = world.doctor().await;
    assert!(all.finding("nats/unsynced/account").is_none());
    let part = world.run(&["doctor", "preflight", "--json"]).await;
    let verdict: Value = serde_json::from_str(&part.stdout).unwrap();
    let findings = verdict["findings"].as_array().unwrap();
    let kinds: Vec<&str> = findings
        .iter()
        .map(|one| one["kind"].as_str().unwrap())
        .collect();
    assert_eq!(part.code, Some(1));
    for kind in ["window", "unsynced", "no-limit"] {
        assert!(kinds.contains(&kind), "{kinds:?}");
    }
    assert!(!kinds.contains(&"no-relay"), "{kinds:?}");
    // The settings of the file stand above its streams.
    world.write(
        "tidings.toml",
        &format!("[doctor]\nallow = [\"window\"]\n{EVENTS}duplicate_window = \"30s\"\n"),
    );
    world
        .says("that all is well", |said| {
            said.code == Some(0) && said.finding("nats/window/EVENTS").is_none()
        })
        .await;
    assert_eq!(relay.signalled("TERM").await, Some(0));
}

async fn a_refusal_ends_the_program_with_its_cure(world: World) {
    let world = world.set_up().await;
    let relay = world.spawn(&["relay"]);
    world.commits("user.renamed", "x").await;
    world.backlog_is(0).await;
    assert_eq!(relay.signalled("TERM").await, Some(0));
    let client = async_nats::connect(world.nats.url()).await.unwrap();
    let context = jetstream::new(client);
    let stream = context.get_stream("EVENTS").await.unwrap();
    let mut config = stream.cached_info().config.clone();
    config.retention = RetentionPolicy::Interest;
    context.update_stream(&config).await.unwrap();
    let said = world.refused(1, &["relay"]).await;
    assert!(said.contains("retention of EVENTS is interest"), "{said}");
    assert!(said.contains("or --force"), "{said}");
    let id = "nats/retention-policy/EVENTS";
    world.finds(id, "refused", 2).await;
    let forced = world.spawn(&["relay", "--force"]);
    world.commits("user.renamed", "y").await;
    world.backlog_is(0).await;
    assert_eq!(forced.signalled("TERM").await, Some(0));
}

#[tokio::test]
async fn a_check_that_there_is_not_is_an_error_with_the_known_ones() {
    let world = World::start(Store::Sqlite).await;
    world.write("tidings.toml", "[doctor]\nallow = [\"one-cpy\"]\n");
    let said = world.refused(2, &["doctor"]).await;
    assert!(said.contains("there is no check \"one-cpy\""), "{said}");
    assert!(said.contains("one-copy"), "{said}");
}

#[test]
fn every_check_is_documented() {
    let docs = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs");
    let page = std::fs::read_to_string(docs.join("operate/preflight.md")).unwrap();
    let (_, table) = page.split_once("## Checks").unwrap();
    let rows: Vec<&str> = table
        .lines()
        .filter(|line| line.starts_with("| `"))
        .collect();
    let known: Vec<String> = CHECKS
        .iter()
        .map(|check| {
            format!(
                "| `{}` | {} | {} |",
                check.kind, check.severity, check.looks_at
            )
        })
        .collect();
    assert_eq!(rows, known);
}
