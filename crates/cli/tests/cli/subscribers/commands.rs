//! `tidings subscribers`: the state of subscribers, and pausing and resetting them.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tidings::{
    Bus, Context, Event, EventPublisher, EventSubscriber, Failure, Retry, Worker,
    worker::WorkerError,
};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::support::{Store, World, eventually};

#[derive(Debug, Clone, Serialize, Deserialize, Event)]
#[event(name = "user.counted", version = 1, key = key)]
struct Counted {
    key: String,
}

type Handled = Arc<AtomicUsize>;

async fn count(_: Counted, cx: Context<Handled>) -> Result<(), Failure> {
    cx.state().fetch_add(1, SeqCst);
    Ok(())
}

/// A service with the subscriber `counts`, and what it has handled.
struct Service {
    bus: Bus,
    handled: Handled,
    stop: CancellationToken,
    task: JoinHandle<Result<(), WorkerError>>,
}

impl Service {
    async fn start(world: &World) -> Self {
        world.ok(&["streams", "apply"]).await;
        let bus = Bus::connect(world.nats.url()).await.unwrap();
        let handled = Handled::default();
        let second = Duration::from_secs(1);
        let subscriber = EventSubscriber::durable("counts")
            .on(count)
            .retry(Retry::exponential(second, 300 * second).attempts(5));
        let worker = Worker::new(bus.clone(), Arc::clone(&handled)).subscribe(subscriber);
        let stop = CancellationToken::new();
        let task = tokio::spawn(worker.run(stop.clone().cancelled_owned()));
        eventually("an instance that works", || async {
            let shown = world.run(&["subscribers", "show", "counts"]).await;
            shown.stdout.contains("activity         active")
        })
        .await;
        Self {
            bus,
            handled,
            stop,
            task,
        }
    }

    async fn publish(&self) {
        let key = "k".to_owned();
        let publisher = EventPublisher::new(&self.bus);
        publisher.publish(&Counted { key }).await.unwrap();
    }

    async fn handles(&self, count: usize) {
        eventually("it is handled", || async {
            self.handled.load(SeqCst) == count
        })
        .await;
    }

    async fn stop(self) {
        self.stop.cancel();
        self.task.await.unwrap().unwrap();
    }
}

async fn listed(world: &World) -> Value {
    let mut listed = world.json(&["subscribers", "list", "--json"]).await;
    assert_eq!(listed.len(), 1);
    listed.remove(0)
}

#[tokio::test]
async fn subscribers_are_listed_and_shown_with_all_details() {
    let world = World::start(Store::Sqlite).await;
    // Before the streams are set up, the account looks like another one.
    let said = world.refused(1, &["subscribers", "list"]).await;
    assert!(said.contains("has no stream at all"), "{said}");
    world.ok(&["streams", "apply"]).await;
    assert_eq!(
        world.ok(&["subscribers", "list"]).await,
        "there are no subscribers\n"
    );
    let service = Service::start(&world).await;
    service.publish().await;
    service.handles(1).await;

    let list = world.ok(&["subscribers", "list"]).await;
    let lines: Vec<Vec<&str>> = list
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(
        lines[1],
        ["counts", "0", "0", "0", "0", "-", "1", "-"],
        "{list}"
    );
    let shown = world.ok(&["subscribers", "show", "counts"]).await;
    for expected in [
        "stream             EVENTS",
        "stream             RETRIES",
        "max_ack_pending = 10000",
        "5 attempts: after 1 s, 2 s, 4 s, 8 s (each 50 to 100 %), then dead letter",
        "1 handled, 0 failed attempts, 0 dead letters",
        "16 at once, no rate limit, 67108864 bytes, 30s an attempt",
        "not ordered",
    ] {
        assert!(shown.contains(expected), "{expected} is not in\n{shown}");
    }
    let json = world
        .json(&["subscribers", "show", "counts", "--json"])
        .await
        .remove(0);
    assert_eq!(json["instances"][0]["handled"], 1);
    assert_eq!(json["consumers"][0]["config"]["durable_name"], "counts");
    service.stop().await;
    let shown = world.ok(&["subscribers", "show", "counts"]).await;
    assert!(shown.contains("none answers"), "{shown}");
}

#[tokio::test]
async fn a_pause_lasts_until_it_is_resumed_or_over() {
    let world = World::start(Store::Sqlite).await;
    let service = Service::start(&world).await;
    let said = world.ok(&["subscribers", "prune", "counts"]).await;
    assert!(
        said.contains("gets only the events that its instances handle"),
        "{said}"
    );
    let said = world.ok(&["subscribers", "pause", "counts"]).await;
    assert_eq!(
        said,
        "counts is paused until `tidings subscribers resume counts`\n"
    );
    service.publish().await;
    let is_waiting = || async { listed(&world).await["consumers"][0]["pending"] == 1 };
    eventually("it waits", is_waiting).await;
    assert!(
        world
            .ok(&["subscribers", "list"])
            .await
            .contains("  it is resumed  ")
    );
    let said = world
        .ok(&["subscribers", "resume", "counts", "--json"])
        .await;
    assert_eq!(
        said,
        "{\"paused_until\":null,\"subscriber\":\"counts\",\"was_paused\":true}\n"
    );
    service.handles(1).await;
    let resume = ["subscribers", "resume", "counts"];
    assert_eq!(world.ok(&resume).await, "counts was not paused\n");

    let args = ["subscribers", "pause", "counts", "--for", "2s", "--json"];
    let paused = world.json(&args).await.remove(0);
    assert_eq!(paused["subscriber"], "counts");
    assert!(paused["paused_until"].is_string());
    service.publish().await;
    service.handles(2).await;
    assert_eq!(listed(&world).await["paused_until"], Value::Null);
    let until = [
        "subscribers",
        "pause",
        "counts",
        "--until",
        "2100-01-01T00:00:00Z",
    ];
    let said = world.ok(&until).await;
    assert!(
        said.starts_with("counts is paused until 2100-01-01T00:00:00Z, or "),
        "{said}"
    );
    assert_eq!(listed(&world).await["paused_until"], "2100-01-01T00:00:00Z");
    assert_eq!(world.ok(&resume).await, "counts is resumed\n");
    service.stop().await;
}

#[tokio::test]
async fn a_reset_first_shows_what_is_redelivered() {
    let world = World::start(Store::Sqlite).await;
    let service = Service::start(&world).await;
    for count in 1..=4 {
        service.publish().await;
        service.handles(count).await;
    }
    let to = |place, more| ["subscribers", "reset", "counts", "--to", place, more];
    let said = world.ok(&to("2", "--dry-run")).await;
    for expected in [
        "  position  from sequence 5 to 2",
        "  events    3 again, stored from ",
        "  name      3 user.counted",
        "tidings replay start counts",
        "nothing is changed",
    ] {
        assert!(said.contains(expected), "{expected} is not in\n{said}");
    }
    let args = ["subscribers", "reset", "counts", "--to", "2"];
    let refused = world.refused(2, &args).await;
    assert!(refused.contains("no terminal to confirm on"), "{refused}");
    assert!(refused.contains("--yes"), "{refused}");
    assert_eq!(service.handled.load(SeqCst), 4);

    let said = world.ok(&to("2", "--yes")).await;
    assert!(said.ends_with("counts is reset\n"), "{said}");
    service.handles(7).await;
    let args = ["--json", "--yes"].map(|more| more.to_owned());
    let mut args: Vec<&str> = args.iter().map(String::as_str).collect();
    args.splice(
        0..0,
        ["subscribers", "reset", "counts", "--to", "beginning"],
    );
    let done = world.json(&args).await.remove(0);
    assert_eq!((&done["done"], &done["again"]), (&true.into(), &4.into()));
    assert_eq!(done["streams"][0]["names"]["user.counted"], 4);
    service.handles(11).await;
    service.stop().await;
}

#[tokio::test]
async fn a_reset_to_an_impossible_position_is_refused() {
    let world = World::start(Store::Sqlite).await;
    let service = Service::start(&world).await;
    service.publish().await;
    let refused = async |code, more: &[&str]| {
        let args = [&["subscribers", "reset", "counts", "--yes"], more].concat();
        world.refused(code, &args).await
    };
    let said = refused(2, &["--to", "3"]).await;
    assert!(said.contains("EVENTS ends with sequence 1"), "{said}");
    let said = refused(2, &["--to", "now", "--stream", "USERS"]).await;
    assert!(said.contains("try: --stream EVENTS"), "{said}");
    let said = refused(2, &["--to", "yesterday"]).await;
    assert!(said.contains("write 2h, "), "{said}");
    let args = ["subscribers", "reset", "nobody", "--to", "1", "--yes"];
    let said = world.refused(1, &args).await;
    assert!(said.contains("there is no subscriber nobody"), "{said}");
    service.stop().await;
}

#[tokio::test]
async fn an_impossible_command_says_why_and_what_to_do() {
    let world = World::start(Store::Sqlite).await;
    let said = world.refused(1, &["subscribers", "show", "nobody"]).await;
    assert!(said.contains("there is no subscriber nobody"), "{said}");
    assert!(said.contains("try: tidings subscribers list"), "{said}");
    let said = world.refused(1, &["subscribers", "prune", "nobody"]).await;
    assert!(said.contains("there is no subscriber nobody"), "{said}");
    let past = [
        "subscribers",
        "pause",
        "x",
        "--until",
        "2001-01-01T00:00:00Z",
    ];
    let said = world.refused(2, &past).await;
    assert!(said.contains("is not in the future"), "{said}");
    world
        .refused(2, &["subscribers", "pause", "x", "--for", "0s"])
        .await;
    world.nats.stop().await.unwrap();
    world.refused(3, &["subscribers", "list"]).await;
}
