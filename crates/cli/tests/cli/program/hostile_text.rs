//! Output of foreign text: no command ends because of it, and no terminal executes it.

use crate::support::{Store, World, eventually};

/// Characters that control a terminal, or that a reader cannot see.
const HOSTILE: [char; 7] = [
    '\u{1b}', '\u{7f}', '\u{9b}', '\u{202e}', '\u{2028}', '\u{85}', '\u{2066}',
];

fn is_neutral(said: &str) {
    let found = said.find(HOSTILE);
    assert_eq!(found, None, "{:?}", found.map(|at| &said[at..]));
}

#[tokio::test]
async fn refused_arguments_are_printed_without_terminal_commands() {
    let world = World::start(Store::Sqlite).await.set_up().await;
    for value in ["\u{1b}[2J", "a\u{202e}b", "\u{9b}31m"] {
        for arguments in [
            &["trace", "--key", value][..],
            &["trace", "--correlation", value],
            &["trace", value],
            &["dead-letters", "list", "--since", value],
            &["subscribers", "show", value],
            &["publish", value, "--data", "{}"],
            &[
                "publish",
                "user.noted",
                "--data",
                "{}",
                "--key",
                value,
                "--header",
                value,
            ],
            &["outbox", "status", "--config", value],
            &["outbox", "status", "--database-url", value],
        ] {
            let ended = world.run(arguments).await;
            assert!(!ended.stderr.is_empty(), "{arguments:?}: {ended:?}");
            is_neutral(&ended.stderr);
            is_neutral(&ended.stdout);
        }
    }
}

#[tokio::test]
async fn an_event_of_any_size_and_text_is_shown_as_table_and_json() {
    let world = World::start(Store::Sqlite).await.set_up().await;
    let text = format!(
        "{}{}",
        "x".repeat(70_000),
        HOSTILE.iter().collect::<String>()
    );
    let payload = serde_json::to_string(&text).unwrap();
    world.write("large.json", &payload);
    let publish = [
        "publish",
        "nobody.listens",
        "--key",
        "k",
        "--data",
        "@large.json",
    ];
    world.ok(&publish).await;
    let relay = world.spawn(&["relay"]);
    eventually("it is parked", || async {
        world.status().await["parked"] == 1
    })
    .await;
    let listed = world.json(&["outbox", "parked", "--json"]).await.remove(0);
    let row = listed["id"].to_string();
    let shown = world.ok(&["outbox", "show", &row]).await;
    assert!(
        shown.contains(&"x".repeat(70_000)),
        "{} characters",
        shown.len()
    );
    is_neutral(&shown);
    let json = world.ok(&["outbox", "show", &row, "--json"]).await;
    is_neutral(&json);
    assert_eq!(relay.signalled("TERM").await, Some(0));
}

#[tokio::test]
async fn a_destructive_command_says_how_much_and_asks() {
    let world = World::start(Store::Sqlite).await.set_up().await;
    for _ in 0..3 {
        world
            .ok(&["publish", "nobody.listens", "--data", "{}"])
            .await;
    }
    let relay = world.spawn(&["relay"]);
    eventually("they are parked", || async {
        world.status().await["parked"] == 3
    })
    .await;
    let said = world.refused(2, &["outbox", "discard", "--all"]).await;
    assert!(said.contains("this discards 3 events for good"), "{said}");
    assert!(
        said.contains("try: run the same command with --yes"),
        "{said}"
    );
    assert_eq!(world.status().await["parked"], 3);
    assert_eq!(
        world
            .json(&["outbox", "discard", "--all", "--yes"])
            .await
            .len(),
        3
    );
    assert_eq!(relay.signalled("TERM").await, Some(0));
}

#[tokio::test]
async fn invalid_settings_are_named_and_end_with_2() {
    let world = World::start(Store::Sqlite).await;
    let nats = |text: &str| format!("[nats]\nurl = \"{}\"\n{text}\n", world.nats.url());
    let tls = |servers: &str| format!("[nats]\nurl = {servers}\n");
    for (file, what) in [
        (nats("nkey_seed = \"x\""), "nats.nkey_seed"),
        (nats("tls_roots = \"nowhere.pem\""), "nats.tls_roots"),
        (nats("tls_roots = \"tidings.toml\""), "-----BEGIN"),
        (nats("credentials = \"nowhere.creds\""), "nats.credentials"),
        (nats("inbox_prefix = \"a.>\""), "nats.inbox_prefix"),
        (tls("\"ws://127.0.0.1:1\""), "WebSocket is not supported"),
        (
            tls("[\"tls://127.0.0.1:1\", \"nats://127.0.0.1:1\"]"),
            "write tls:// for all",
        ),
    ] {
        world.write("tidings.toml", &file);
        let mut command = world.command(&["streams"]);
        command.env_remove("TIDINGS_NATS_URL");
        let ended = crate::support::ended(command).await;
        assert_eq!(ended.code, Some(2), "{file}: {ended:?}");
        assert!(ended.stderr.contains(what), "{file}: {ended:?}");
    }
    world.write(
        "tidings.toml",
        "[database]\nurl = \"postgres://ada@h/db?sslmod=s3cret\"\n",
    );
    let mut command = world.command(&["outbox", "status"]);
    command.env_remove("TIDINGS_DATABASE_URL");
    let ended = crate::support::ended(command).await;
    assert_eq!(ended.code, Some(2), "{ended:?}");
    assert!(
        ended.stderr.contains("\"sslmod\" is not known"),
        "{ended:?}"
    );
    assert!(!ended.stderr.contains("s3cret"), "{ended:?}");
}

/// An empty argument, as the shell passes it for an unset variable.
#[tokio::test]
async fn an_empty_text_selects_nothing_and_is_refused() {
    let world = World::start(Store::Sqlite).await.set_up().await;
    for arguments in [
        &["trace", "--key", ""][..],
        &["trace", "--correlation", ""],
        &["dead-letters", "list", "--subscriber", ""],
        &["dead-letters", "redrive", "--key", ""],
        &["dead-letters", "discard", "--yes", "--fingerprint", ""],
        &["dead-letters", "export", "--cause", ""],
        &["outbox", "parked", "--key", ""],
        &["outbox", "unpark", "--key", ""],
        &["outbox", "discard", "--yes", "--key", ""],
        &["outbox", "delayed", "--key", ""],
        &["outbox", "republish", "--from", "1", "--key", ""],
        &["replay", "start", "mail", "--from", "1", "--key", ""],
    ] {
        world.refused(2, arguments).await;
    }
}
