//! `tidings publish --at`, `--in`, `tidings outbox delayed` and `tidings outbox cancel`.

use serde_json::{Value, json};

use crate::support::World;

both!(
    a_delayed_event_is_listed_counted_and_cancelled,
    a_delayed_event_is_relayed_when_it_is_due,
    an_id_that_is_already_delayed_is_refused_with_a_reason,
);

fn note<'a>(key: &'a str, when: &[&'a str]) -> Vec<&'a str> {
    let publish = ["publish", "user.noted", "--data", "{}", "--key", key];
    [&publish[..], when].concat()
}

async fn a_delayed_event_is_listed_counted_and_cancelled(world: World) {
    let world = world.set_up().await;
    let at = ["--at", "2126-01-31T12:00:00+02:00", "--json"];
    let last = world.json(&note("a", &at)).await.remove(0);
    assert_eq!(last["due"], "2126-01-31T10:00:00Z");
    assert_eq!(last["confirmed"], false);
    let first = world.ok(&note("b", &["--in", "18h"])).await;
    let (first, last) = (first.trim(), last["id"].as_str().unwrap());

    let listed = world.ok(&["outbox", "delayed"]).await;
    let lines: Vec<&str> = listed.lines().collect();
    assert!(
        lines[0].ends_with(&format!("  user.noted  b  {first}")),
        "{listed}"
    );
    assert_eq!(
        lines[1],
        format!("2126-01-31T10:00:00.000Z  user.noted  a  {last}")
    );
    let of_key = world
        .json(&["outbox", "delayed", "--json", "--key", "a"])
        .await;
    assert_eq!((of_key.len(), &of_key[0]["id"]), (1, &Value::from(last)));
    assert_eq!(of_key[0]["due"], "2126-01-31T10:00:00Z");
    let one = world.ok(&["outbox", "delayed", "--limit", "1"]).await;
    assert_eq!(one.trim_end(), lines[0]);

    let status = world.status().await;
    assert_eq!(
        (&status["delayed"], &status["backlog"]),
        (&2.into(), &0.into())
    );
    let told = world.ok(&["outbox", "status"]).await;
    assert!(
        told.contains("\ndelayed     2 events, the next in 64"),
        "{told}"
    );

    let cancelled = world.ok(&["outbox", "cancel", last, "--yes"]).await;
    assert_eq!(cancelled, format!("{last} cancelled\n"));
    let cancel = ["outbox", "cancel", last, first, "--json", "--yes"];
    let ended = world.run(&cancel).await;
    assert_eq!(ended.code, Some(1), "{ended:?}");
    let said: Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!(said, json!({ "cancelled": [first], "missing": [last] }));
    let what = format!("error: not delayed, or published meanwhile: {last}\n");
    assert!(ended.stderr.starts_with(&what), "{ended:?}");
    assert_eq!(world.status().await["delayed"], 0);
    assert_eq!(world.ok(&["outbox", "delayed"]).await, "");
}

async fn a_delayed_event_is_relayed_when_it_is_due(world: World) {
    let world = world.set_up().await;
    let id = world.ok(&note("a", &["--in", "500ms"])).await;
    let relay = world.spawn(&["relay"]);
    let mut tail = world.spawn(&["tail", "user.*", "--since", "beginning", "--json"]);
    let seen: Value = serde_json::from_str(&tail.line().await.unwrap()).unwrap();
    assert_eq!(seen["id"], id.trim());
    assert_eq!(relay.signalled("TERM").await, Some(0));
    assert_eq!(world.status().await["delayed"], 0);
}

#[tokio::test]
async fn an_invalid_time_is_refused() {
    let world = World::start(crate::support::Store::Sqlite).await;
    for when in [
        &["--at", "tomorrow"][..],
        &["--in", "soon"],
        &["--in", "400000000000000d"],
        &["--in", "100000000000d"],
        &["--in", "1s", "--at", "2126-01-31T12:00:00Z"],
        &["--in", "1s", "--direct"],
        &["--at", "2126-01-31T12:00:00Z", "--direct"],
    ] {
        world.refused(2, &note("a", when)).await;
    }
}

async fn an_id_that_is_already_delayed_is_refused_with_a_reason(world: World) {
    let world = world.set_up().await;
    let id = "01890000-0000-7000-8000-000000000007";
    let publish = note("a", &["--in", "18h", "--id", id]);
    world.ok(&publish).await;
    let said = world.refused(1, &publish).await;
    assert!(said.contains(&format!("{id} is already delayed")), "{said}");
    for raw in ["UNIQUE", "duplicate key", "constraint"] {
        assert!(!said.contains(raw), "{said}");
    }
    assert_eq!(world.status().await["delayed"], 1);
}
