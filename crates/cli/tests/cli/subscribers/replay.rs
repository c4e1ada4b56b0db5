//! `tidings replay`: a subscriber handles a part of its streams again.

use std::{process::Stdio, sync::Arc};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tidings::{
    Bus, Context, Envelope, Event, EventPublisher, EventSubscriber, Failure, Worker,
    worker::WorkerError,
};
use tokio::{sync::Semaphore, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use crate::support::{Running, Store, World, eventually};

#[derive(Debug, Clone, Serialize, Deserialize, Event)]
#[event(name = "user.counted", version = 1, key = key)]
struct Counted {
    key: String,
}

/// The state of the handlers: one permit for each event.
type Gate = Arc<Semaphore>;

async fn count(_: Counted, cx: Context<Gate>) -> Result<(), Failure> {
    cx.state().acquire().await?.forget();
    Ok(())
}

/// A service with the subscriber `counts`.
struct Service {
    bus: Bus,
    gate: Gate,
    stop: CancellationToken,
    task: JoinHandle<Result<(), WorkerError>>,
}

impl Service {
    /// A service that has handled five events, one of them with the key `other`.
    async fn start(world: &World) -> Self {
        world.ok(&["streams", "apply"]).await;
        let bus = Bus::connect(world.nats.url()).await.unwrap();
        let gate = Gate::new(Semaphore::new(5));
        let subscriber = EventSubscriber::durable("counts").on(count);
        let worker = Worker::new(bus.clone(), Arc::clone(&gate)).subscribe(subscriber);
        let stop = CancellationToken::new();
        let task = tokio::spawn(worker.run(stop.clone().cancelled_owned()));
        let service = Self {
            bus,
            gate,
            stop,
            task,
        };
        for key in ["k", "k", "other", "k", "k"] {
            let key = key.to_owned();
            service.publish(&Counted { key }).await;
        }
        eventually("all is handled", || async {
            let listed = world.json(&["subscribers", "list", "--json"]).await;
            listed
                .first()
                .is_some_and(|one| one["instances"][0]["handled"] == 5)
        })
        .await;
        service
    }

    async fn publish(&self, event: &Counted) {
        EventPublisher::new(&self.bus).publish(event).await.unwrap();
    }

    async fn stop(self) {
        self.stop.cancel();
        self.task.await.unwrap().unwrap();
    }
}

async fn begin(world: &World, more: &[&str]) -> String {
    let args = [&["replay", "start", "counts", "--json", "--yes"], more].concat();
    let replay = world.json(&args).await.remove(0);
    replay["id"].as_str().unwrap().to_owned()
}

async fn shown(world: &World, id: &str) -> Value {
    world
        .json(&["replay", "show", id, "--json"])
        .await
        .remove(0)
}

#[tokio::test]
async fn a_replay_is_started_watched_to_its_end_and_listed() {
    let world = World::start(Store::Sqlite).await;
    let service = Service::start(&world).await;
    assert_eq!(
        world.ok(&["replay", "list"]).await,
        "there are no replays\n"
    );
    service.gate.add_permits(100);
    let args = [
        "replay", "start", "counts", "--from", "2", "--to", "4", "--key", "k", "--watch", "--yes",
    ];
    let said = world.ok(&args).await;
    assert!(
        said.contains("EVENTS 2 to 4: 3 events of user.counted"),
        "{said}"
    );
    let last = said.lines().last().unwrap();
    let counts = "done: 3 of 3, 2 handled, 1 left out, 0 dead letters";
    assert_eq!(last, counts, "{said}");

    let list = world.ok(&["replay", "list", "counts"]).await;
    let line: Vec<_> = list.lines().last().unwrap().split_whitespace().collect();
    assert_eq!(line[1..5], ["counts", "done", "3", "3"], "{list}");
    let show = world.ok(&["replay", "show", line[0]]).await;
    for expected in [
        "from sequence 2, to sequence 4, key k",
        "  handled",
        "  left out",
    ] {
        assert!(show.contains(expected), "{expected} is not in\n{show}");
    }
    let status = shown(&world, line[0]).await;
    assert_eq!(status["progress"]["handled"], 2);
    assert_eq!(status["progress"]["filtered"], 1);
    let over = world.refused(1, &["replay", "pause", line[0]]).await;
    assert!(over.contains("is done"), "{over}");
    service.stop().await;
}

#[tokio::test]
async fn a_rehearsal_reports_what_would_happen_and_calls_no_handler() {
    let world = World::start(Store::Sqlite).await;
    let service = Service::start(&world).await;
    let broken = Envelope::raw("user.counted", 1, Some("k"), r#"{"key":7}"#).unwrap();
    EventPublisher::new(&service.bus)
        .publish(broken)
        .await
        .unwrap();
    let args = [
        "replay",
        "start",
        "counts",
        "--from",
        "1h",
        "--dry-run",
        "--rate",
        "1/m",
    ];
    let said = world.ok(&args).await;
    let rows: Vec<Vec<&str>> = said
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert!(
        rows.contains(&vec!["user.counted", "1", "6", "5", "0", "1"]),
        "{said}"
    );
    assert!(
        said.contains("EVENTS 6: user.counted version 1: "),
        "{said}"
    );
    assert!(
        said.contains("estimated time: 5 min 0 s (at 1 per minute)"),
        "{said}"
    );
    let args = [
        "replay",
        "start",
        "counts",
        "--from",
        "1",
        "--dry-run",
        "--json",
    ];
    let found = world.json(&args).await.remove(0);
    assert_eq!(found["events"][0]["would_call"], 5);
    assert_eq!(found["estimated_seconds"], Value::Null);
    // A rehearsal of a replay with a rate estimates by that rate, not by the possible speed.
    service.gate.add_permits(100);
    let watched = [
        "replay", "start", "counts", "--from=1", "--to=5", "--watch", "--yes",
    ];
    world.ok(&[&watched[..], &["--rate=100/s"]].concat()).await;
    let found = world.json(&args).await.remove(0);
    assert_eq!(found["estimated_seconds"], Value::Null);
    world.ok(&watched).await;
    let found = world.json(&args).await.remove(0);
    assert!(found["estimated_seconds"].as_f64().is_some(), "{found}");
    service.stop().await;
}

#[tokio::test]
async fn a_paused_replay_resumes_and_a_cancelled_one_ends() {
    let world = World::start(Store::Sqlite).await;
    let service = Service::start(&world).await;
    service.gate.add_permits(100);
    let id = begin(&world, &["--from", "beginning", "--rate", "20/m"]).await;
    let said = world.ok(&["replay", "pause", &id]).await;
    assert_eq!(said, format!("the replay {id} is paused\n"));
    let other = ["replay", "start", "counts", "--from", "1", "--yes"];
    let refused = world.refused(1, &other).await;
    assert!(
        refused.contains(&id) && refused.contains("--force"),
        "{refused}"
    );
    world.ok(&["replay", "resume", &id]).await;
    eventually("it goes on", || async {
        let handled = &shown(&world, &id).await["progress"]["handled"];
        handled.as_u64().is_some_and(|handled| handled >= 2)
    })
    .await;
    let mut watching = world.spawn(&["replay", "watch", &id, "--json"]);
    let mut line = watching.line().await.unwrap();
    assert!(line.contains("\"state\":\"running\""), "{line}");
    let said = world.ok(&["replay", "cancel", &id, "--json"]).await;
    assert!(said.contains("\"state\":\"cancelled\""), "{said}");
    while let Some(next) = watching.line().await {
        line = next;
    }
    assert!(line.contains("\"state\":\"cancelled\""), "{line}");
    let refused = world.run(&["replay", "watch", &id]).await;
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.stderr.contains("is cancelled"), "{refused:?}");
    service.stop().await;
}

#[tokio::test]
async fn an_impossible_command_says_why_and_what_to_do() {
    let world = World::start(Store::Sqlite).await;
    let service = Service::start(&world).await;
    let refused = async |code, more: &[&str], expected: &[&str]| {
        let args = [&["replay", "start"], more].concat();
        let said = world.refused(code, &args).await;
        for expected in expected {
            assert!(said.contains(expected), "{expected} is not in\n{said}");
        }
    };
    let unknown = ["there is no subscriber nobody", "tidings subscribers list"];
    refused(1, &["nobody", "--from", "1"], &unknown).await;
    refused(2, &["counts"], &["--from"]).await;
    refused(2, &["counts", "--from", "yesterday"], &["write 2h, "]).await;
    refused(2, &["counts", "--from", "now"], &["--from 2h"]).await;
    let to_nothing = ["counts", "--from", "1", "--to", "beginning"];
    refused(2, &to_nothing, &["there is nothing before"]).await;
    refused(2, &["counts", "--from", "1", "--key", ""], &["--key"]).await;
    refused(
        2,
        &["counts", "--from", "1", "--rate", "fast"],
        &["write 500/s"],
    )
    .await;
    refused(
        2,
        &["counts", "--from", "1", "--name", "user.x"],
        &["user.counted"],
    )
    .await;
    refused(
        2,
        &["counts", "--from", "1", "--stream", "X"],
        &["--stream EVENTS"],
    )
    .await;
    refused(
        2,
        &["counts", "--from", "1", "--shadow", "v2"],
        &[".shadow(\"v2\""],
    )
    .await;
    refused(1, &["counts", "--from", "99"], &["nothing to replay"]).await;
    let again = "this has the handlers of counts handle 5 events again";
    refused(
        2,
        &["counts", "--from", "1"],
        &[again, "the same command with --yes"],
    )
    .await;
    assert_eq!(
        world.ok(&["replay", "list"]).await,
        "there are no replays\n"
    );
    let said = world.refused(2, &["replay", "show", "x"]).await;
    assert!(said.contains("is no id of a replay"), "{said}");
    let id = "01890a5d2c6b7000800000000000000a";
    let said = world.refused(1, &["replay", "cancel", id]).await;
    assert!(said.contains("try: tidings replay list"), "{said}");
    service.stop().await;
    let nobody = ["no instance of counts answers", "--force"];
    refused(1, &["counts", "--from", "1"], &nobody).await;
    let id = begin(&world, &["--from", "1", "--force"]).await;
    let show = world.ok(&["replay", "show", &id]).await;
    assert!(show.contains("no instance has started it"), "{show}");
    let why = "no instance of counts answers";
    eventually("it is named", || async {
        world.ok(&["replay", "show", &id]).await.contains(why)
    })
    .await;
    let list = world.ok(&["replay", "list"]).await;
    assert!(list.contains(why), "{list}");
    let mut watching = world.spawn(&["replay", "watch", &id]);
    let line = watching.line().await.unwrap();
    assert!(line.contains("it makes no progress since 20"), "{line}");
    watching.signalled("INT").await;
    world.nats.stop().await.unwrap();
    world.refused(3, &["replay", "list"]).await;
}

#[tokio::test]
async fn watching_a_replay_outlasts_an_outage() {
    let world = World::start(Store::Sqlite).await;
    let service = Service::start(&world).await;
    let id = begin(&world, &["--from", "1", "--rate", "1/m"]).await;
    world.ok(&["replay", "pause", &id]).await;
    let mut watch = world.command(&["replay", "watch", &id]);
    watch.stderr(Stdio::piped());
    let mut watching = Running::of(watch);
    let line = watching.line().await.unwrap();
    assert!(line.starts_with("paused: "), "{line}");
    world.nats.stop().await.unwrap();
    watching.says("NATS does not answer").await;
    world.nats.restart().await.unwrap();
    world.ok(&["replay", "cancel", &id]).await;
    let mut last = line;
    while let Some(line) = watching.line().await {
        last = line;
    }
    assert!(last.starts_with("cancelled: "), "{last}");
    assert_eq!(watching.left().await, Some(1));
    service.stop().await;
}
