//! `tidings publish`, `tidings relay` and `tidings outbox status`: the path of an event into its stream.

use crate::support::{Store, World, ended_after, user};

const USER: &str = "0190e6e4-7a3e-7c3e-9d3e-3b1f0d8a6a11";

both!(
    a_published_event_is_relayed_and_shown_by_tail,
    an_event_that_is_too_large_is_refused_with_a_cure
);

async fn a_published_event_is_relayed_and_shown_by_tail(world: World) {
    let world = world.set_up().await;
    assert_eq!(world.status().await["backlog"], 0);
    let id = world
        .ok(&[
            "publish",
            "user.created",
            "--key",
            USER,
            "--data",
            &user(USER, "ada@example.org"),
            "--header",
            "tenant=acme",
            "--correlation",
            "signup-1",
        ])
        .await;
    let ended = world.run(&["outbox", "status"]).await;
    assert_eq!(ended.code, Some(1), "no relay runs: {ended:?}");
    let waiting = ended.stdout;
    assert!(waiting.starts_with("backlog     1 event\n"), "{waiting}");

    let relay = world.spawn(&["relay"]);
    let mut tail = world.spawn(&["tail", "user.*", "--since", "beginning", "--json"]);
    let seen: serde_json::Value = serde_json::from_str(&tail.line().await.unwrap()).unwrap();

    assert_eq!(seen["id"], id.trim());
    assert_eq!(seen["name"], "user.created");
    assert_eq!(seen["key"], USER);
    assert_eq!(seen["payload"]["email"], "ada@example.org");
    assert_eq!(seen["headers"]["tenant"], "acme");
    assert_eq!(seen["correlation_id"], "signup-1");
    world.backlog_is(0).await;
    assert_eq!(relay.signalled("TERM").await, Some(0));
    assert_eq!(tail.signalled("INT").await, Some(0));
    let status = world.status().await;
    assert_eq!(status["last_batch"]["events"], 1);
    assert_eq!(status["lease"]["owner"], serde_json::Value::Null);
}

async fn an_event_that_is_too_large_is_refused_with_a_cure(world: World) {
    let world = world.set_up().await;
    let large = format!("\"{}\"", "x".repeat(1 << 20));
    world.write("large.json", &large);
    let arguments = ["publish", "user.noted", "--data", "@large.json"];
    let outbox = world.refused(1, &arguments).await;
    let direct = world
        .refused(1, &[&arguments[..], &["--direct"]].concat())
        .await;
    for said in [outbox, direct] {
        assert!(said.contains("the limit is 1048576"), "{said}");
        assert!(said.contains("\n  try: "), "{said}");
    }
    assert_eq!(world.status().await["backlog"], 0);
}

#[tokio::test]
async fn a_direct_event_is_confirmed_once_and_needs_no_database() {
    let world = World::start(Store::Sqlite).await;
    world.ok(&["streams", "apply"]).await;
    let id = "01890000-0000-7000-8000-000000000001";
    let payload = user(USER, "ada@example.org");
    let publish = [
        "publish",
        "user.created",
        "--key",
        USER,
        "--data",
        &payload,
        "--direct",
    ];
    let with_id = [&publish[..], &["--id", id]].concat();

    let first = world.ok(&with_id).await;
    let second = world.ok(&with_id).await;
    let other = world.ok(&publish).await;

    assert_eq!(first, format!("{id} confirmed\n"));
    assert_eq!(second, first);
    let mut tail = world.spawn(&["tail", "--since", "beginning"]);
    let line = tail.line().await.unwrap();
    assert!(
        line.contains(&format!("  user.created  {USER}  {id}  {{")),
        "{line}"
    );
    let other = other.strip_suffix(" confirmed\n").unwrap();
    assert!(tail.line().await.unwrap().contains(other));
    assert!(!world.has("tidings.db"));
}

#[tokio::test]
async fn an_event_that_no_subscriber_could_read_is_refused() {
    let world = World::start(Store::Sqlite).await.set_up().await;
    std::fs::write(world.path("latin1.json"), b"\"Zo\xeb\"").unwrap();
    for (arguments, what) in [
        (
            &["publish", "User.created", "--data", "{}"][..],
            "is not an event name",
        ),
        (
            &["publish", "user.noted", "--data", "{"],
            "the payload is not JSON",
        ),
        (
            &["publish", "user.noted", "--data", "@latin1.json"],
            "the payload is not UTF-8",
        ),
        (
            &["publish", "user.noted", "--data", "{}", "--key", " "],
            "the key \" \" of user.noted is refused",
        ),
        (
            &[
                "publish",
                "user.noted",
                "--data",
                "{}",
                "--header",
                "ce-id=1",
            ],
            "is reserved",
        ),
    ] {
        let said = world.refused(2, arguments).await;
        assert!(said.contains(what), "{said}");
        assert!(said.contains("\n  try: "), "{said}");
    }
    let file = world
        .refused(2, &["publish", "user.noted", "--data", "@none.json"])
        .await;
    assert!(file.contains("@none.json"), "{file}");
    let nobodys = ["publish", "user.noted", "--data", "{}", "--correlation", ""];
    let said = world.refused(2, &nobodys).await;
    assert!(said.contains("--correlation <ID>"), "{said}");
    assert_eq!(world.status().await["backlog"], 0);
}

#[tokio::test]
async fn an_unknown_event_is_taken_from_stdin_unchanged() {
    let world = World::start(Store::Sqlite).await.set_up().await;
    let arguments = [
        "publish",
        "user.noted",
        "--data",
        "-",
        "--version",
        "3",
        "--json",
    ];
    let ended = ended_after(world.command(&arguments), b" {\"b\": 1,\n \"a\": 2}\n").await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let printed: serde_json::Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!(printed["confirmed"], false);
    assert_eq!(world.status().await["backlog"], 1);
}

#[tokio::test]
async fn a_subject_that_no_stream_takes_is_refused_with_a_cure() {
    let world = World::start(Store::Sqlite).await;
    let said = world
        .refused(1, &["publish", "user.noted", "--data", "{}", "--direct"])
        .await;
    assert!(said.contains("no stream takes user.noted"), "{said}");
    assert!(said.contains("try: tidings streams apply"), "{said}");
}
