//! The Grafana board. `tools/grafana-board` writes it, and `.ci/run` has Prometheus read its queries.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::text;

/// The panels, those of collapsed rows too.
fn panels() -> Vec<Value> {
    let board: Value = serde_json::from_str(&text("deploy/grafana/tidings.json")).unwrap();
    let panels = board["panels"].as_array().unwrap();
    let inner = panels
        .iter()
        .filter_map(|panel| panel["panels"].as_array())
        .flatten();
    panels.iter().chain(inner).cloned().collect()
}

fn whole(value: &Value) -> i64 {
    value.as_i64().unwrap()
}

#[test]
fn every_panel_has_a_title_and_a_query() {
    for panel in panels() {
        let title = panel["title"].as_str().unwrap();
        assert!(!title.is_empty());
        if panel["type"] == "row" {
            continue;
        }
        assert!(
            panel["description"]
                .as_str()
                .is_some_and(|text| !text.is_empty()),
            "{title}"
        );
        assert_eq!(panel["datasource"]["uid"], "${datasource}", "{title}");
        let targets = panel["targets"].as_array().unwrap();
        assert!(!targets.is_empty(), "{title}");
        for target in targets {
            assert!(
                target["expr"]
                    .as_str()
                    .is_some_and(|query| !query.is_empty()),
                "{title}"
            );
        }
    }
}

#[test]
fn panels_have_an_id_and_a_place_of_their_own() {
    let mut ids = BTreeSet::new();
    let mut cells = BTreeSet::new();
    for panel in panels() {
        let title = &panel["title"];
        assert!(
            ids.insert(whole(&panel["id"])),
            "{title} has the id of another panel"
        );
        let place = &panel["gridPos"];
        let (x, y) = (whole(&place["x"]), whole(&place["y"]));
        assert!(
            x + whole(&place["w"]) <= 24,
            "{title} is beyond the right edge"
        );
        for column in x..x + whole(&place["w"]) {
            for line in y..y + whole(&place["h"]) {
                assert!(
                    cells.insert((column, line)),
                    "{title} lies on another panel"
                );
            }
        }
    }
}

#[test]
fn queries_use_the_variables_of_the_board() {
    let text = text("deploy/grafana/tidings.json");
    let board: Value = serde_json::from_str(&text).unwrap();
    let variables = board["templating"]["list"].as_array().unwrap().iter();
    let mut known: BTreeSet<_> = variables
        .map(|one| one["name"].as_str().unwrap().to_owned())
        .collect();
    assert!(
        ["outbox", "subscriber", "stream"]
            .iter()
            .all(|name| known.contains(*name))
    );
    known.insert("__rate_interval".to_owned());
    for panel in panels() {
        for target in panel["targets"].as_array().into_iter().flatten() {
            let query = target["expr"].as_str().unwrap();
            for used in query.split('$').skip(1) {
                let end = used.find(|c: char| !c.is_alphanumeric() && c != '_');
                let name = &used[..end.unwrap_or(used.len())];
                assert!(known.contains(name), "{}: ${name}", panel["title"]);
            }
        }
    }
}
