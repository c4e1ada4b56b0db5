//! P9: `tidings subscribers list` and `show` end with 1 when events are held up, with 3 when a source did not answer,
//! and with 0 otherwise; `remove` deletes a subscriber that is no longer needed. A pause is not an issue.

use std::time::Duration;

use async_nats::jetstream;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tidings::{
    Bus, CircuitBreaker, Context, Event, EventPublisher, EventSubscriber, Failure, Worker,
    worker::WorkerError,
};
use tidings_test_servers::NatsServer;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::support::{Ended, Store, World, eventually, says};

const NAME: &str = "stuck";
const LIST: [&str; 2] = ["subscribers", "list"];

#[derive(Debug, Clone, Serialize, Deserialize, Event)]
#[event(name = "user.stuck", version = 1, key = key)]
struct Stuck {
    key: String,
}

async fn handle(event: Stuck, _: Context<()>) -> Result<(), Failure> {
    match &*event.key {
        "later" => Err(Failure::retry_after(
            Duration::from_secs(3600),
            "in an hour",
        )),
        "fails" => Err(Failure::retry("the mail server is down")),
        _ => Ok(()),
    }
}

/// A worker with one subscriber, in the process of the test.
struct Service {
    bus: Bus,
    stop: CancellationToken,
    task: JoinHandle<Result<(), WorkerError>>,
}

impl Service {
    async fn start(world: &World) -> Self {
        world.ok(&["streams", "apply"]).await;
        let bus = Bus::connect(world.nats.url()).await.unwrap();
        let subscriber = EventSubscriber::durable(NAME).on(handle);
        let subscriber = subscriber.circuit_breaker(CircuitBreaker::default());
        let worker = Worker::new(bus.clone(), ()).subscribe(subscriber);
        let stop = CancellationToken::new();
        let task = tokio::spawn(worker.run(stop.clone().cancelled_owned()));
        eventually("it works", || async {
            let shown = world.run(&["subscribers", "show", NAME]).await;
            shown.stdout.contains("activity         active")
        })
        .await;
        Self { bus, stop, task }
    }

    async fn publish(&self, key: &str) {
        let key = key.to_owned();
        let publisher = EventPublisher::new(&self.bus);
        publisher.publish(&Stuck { key }).await.unwrap();
    }

    async fn stop(self) {
        self.stop.cancel();
        self.task.await.unwrap().unwrap();
    }
}

impl World {
    async fn jetstream(&self) -> jetstream::Context {
        jetstream::new(async_nats::connect(self.nats.url()).await.unwrap())
    }

    /// Runs the list until it ends with this code.
    async fn list_ends(&self, code: i32) -> Ended {
        let mut last = self.run(&LIST).await;
        let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
        while last.code != Some(code) {
            assert!(
                tokio::time::Instant::now() < deadline,
                "never ended with {code}: {last:?}"
            );
            // real time: the workers and the relay are other processes
            tokio::time::sleep(Duration::from_millis(20)).await;
            last = self.run(&LIST).await;
        }
        last
    }
}

#[tokio::test]
async fn events_without_an_instance_end_with_1_and_a_pause_with_0() {
    let world = World::start(Store::Sqlite).await;
    let service = Service::start(&world).await;
    assert_eq!(world.run(&LIST).await.code, Some(0));
    service.publish("k").await;
    eventually("it is handled", || async {
        let shown = world.ok(&["subscribers", "show", NAME]).await;
        shown.contains("1 handled")
    })
    .await;
    let bus = service.bus.clone();
    service.stop().await;
    assert_eq!(world.list_ends(0).await.code, Some(0), "nothing waits");
    let publisher = EventPublisher::new(&bus);
    let key = "k".to_owned();
    publisher.publish(&Stuck { key }).await.unwrap();
    eventually("its pulls have ended", || async {
        world
            .run(&LIST)
            .await
            .stdout
            .contains("an instance was last seen")
    })
    .await;
    let ended = world.list_ends(1).await;
    says(&ended.stdout, &["no instance answers"]);
    says(
        &ended.stderr,
        &[
            "stuck: events wait (1 pending)",
            "try: start or restart its worker",
        ],
    );
    let shown = world.run(&["subscribers", "show", NAME]).await;
    assert_eq!(shown.code, Some(1), "{shown:?}");
    says(&shown.stdout, &["issue", "none answers", "last seen"]);
    world.ok(&["subscribers", "pause", NAME]).await;
    assert_eq!(
        world.run(&LIST).await.code,
        Some(0),
        "somebody wanted it so"
    );
}

#[tokio::test]
async fn a_deleted_consumer_ends_with_1_and_an_unknown_backlog() {
    let world = World::start(Store::Sqlite).await;
    Service::start(&world).await.stop().await;
    let stream = world.jetstream().await.get_stream("EVENTS").await.unwrap();
    stream.delete_consumer(NAME).await.unwrap();
    let ended = world.list_ends(1).await;
    says(
        &ended.stdout,
        &["stuck", "unknown", "no longer has a consumer of EVENTS"],
    );
    let json = world.run(&["subscribers", "list", "--json"]).await;
    assert_eq!(json.code, Some(1));
    let first: Value = serde_json::from_str(json.stdout.lines().next().unwrap()).unwrap();
    assert_eq!(first["known_pending"], Value::Null);
    assert_eq!(first["missing"][0]["stream"], "EVENTS");
    assert_eq!(first["issues"][0]["kind"], "no-consumer");
    let shown = world.run(&["subscribers", "show", NAME]).await;
    assert_eq!(shown.code, Some(1));
    says(
        &shown.stdout,
        &["no consumer: the number of waiting events is not known"],
    );
}

#[tokio::test]
async fn deleted_streams_end_with_1() {
    let world = World::start(Store::Sqlite).await;
    let service = Service::start(&world).await;
    let context = world.jetstream().await;
    context.delete_stream("DEAD_LETTERS").await.unwrap();
    let ended = world.list_ends(1).await;
    says(
        &ended.stderr,
        &["DEAD_LETTERS is gone", "try: tidings streams apply"],
    );
    world.ok(&["streams", "apply"]).await;
    world.list_ends(0).await;
    context.delete_stream("RETRIES").await.unwrap();
    let ended = world.list_ends(1).await;
    says(&ended.stdout, &[NAME, "RETRIES is gone"]);
    world.ok(&["streams", "apply"]).await;
    world.list_ends(0).await;
    service.stop().await;
}

#[tokio::test]
async fn an_open_circuit_ends_with_1() {
    let world = World::start(Store::Sqlite).await;
    let service = Service::start(&world).await;
    for _ in 0..30 {
        service.publish("fails").await;
    }
    let ended = world.list_ends(1).await;
    says(&ended.stderr, &["the circuit is"]);
    service.stop().await;
}

#[tokio::test]
async fn distant_retries_are_listed_and_shown() {
    let world = World::start(Store::Sqlite).await;
    let service = Service::start(&world).await;
    for _ in 0..3 {
        service.publish("later").await;
    }
    eventually("three wait", || async {
        let listed = world.ok(&LIST).await;
        listed.contains("3, until 20")
    })
    .await;
    let shown = world.ok(&["subscribers", "show", NAME]).await;
    says(
        &shown,
        &[
            "retries",
            "0 due, 3 later: the next at 20",
            "the last at 20",
        ],
    );
    let json = world.json(&["subscribers", "show", NAME, "--json"]).await;
    assert_eq!(json[0]["retries"]["scheduled"], 3);
    assert!(json[0]["retries"]["farthest_at"].is_string());
    service.stop().await;
}

#[tokio::test]
async fn another_account_is_not_shown_as_an_empty_list() {
    let mut world = World::start(Store::Sqlite).await;
    let accounts = "accounts {
        SHOP { jetstream: enabled, users: [ { user: shop, password: s } ] }
        EMPTY { jetstream: enabled, users: [ { user: empty, password: s } ] }
        PLAIN { users: [ { user: plain, password: s } ] }
    }";
    world
        .replace_nats(NatsServer::options().config(accounts))
        .await;
    let url = |user: &str| {
        world
            .nats
            .url()
            .replace("nats://", &format!("nats://{user}:s@"))
    };
    let run = async |user: &str, arguments: &[&str]| {
        let mut command = world.command(arguments);
        command.env("TIDINGS_NATS_URL", url(user));
        crate::support::ended(command).await
    };
    let applied = run("shop", &["streams", "apply"]).await;
    assert_eq!(applied.code, Some(0), "{applied:?}");
    let none = run("shop", &LIST).await;
    assert_eq!(
        (none.code, &*none.stdout),
        (Some(0), "there are no subscribers\n")
    );
    let elsewhere = run("empty", &LIST).await;
    assert_eq!(elsewhere.code, Some(1), "{elsewhere:?}");
    says(
        &elsewhere.stderr,
        &[
            "has no stream at all",
            "compare nats.url and the credentials",
        ],
    );
    let json = run("empty", &["subscribers", "list", "--json"]).await;
    assert_eq!(json.code, Some(1));
    says(&json.stdout, &["\"kind\":\"elsewhere\""]);
    let plain = run("plain", &LIST).await;
    assert_eq!(plain.code, Some(3), "{plain:?}");
    says(&plain.stdout, &["not seen: streams and consumers", "10039"]);
}

#[tokio::test]
async fn removal_of_a_subscriber_first_shows_what_waits() {
    let world = World::start(Store::Sqlite).await;
    let service = Service::start(&world).await;
    service.publish("later").await;
    eventually("it waits", || async {
        world.ok(&LIST).await.contains("1, until 20")
    })
    .await;
    let runs = world
        .refused(1, &["subscribers", "remove", NAME, "--yes"])
        .await;
    says(
        &runs,
        &["stuck still runs: process", "stop its workers first"],
    );
    let bus = service.bus.clone();
    service.stop().await;
    let publisher = EventPublisher::new(&bus);
    let key = "k".to_owned();
    publisher.publish(&Stuck { key }).await.unwrap();

    let dry = ["subscribers", "remove", NAME, "--dry-run"];
    eventually("its pulls are over", || async {
        world.run(&dry).await.code == Some(0)
    })
    .await;
    let said = world.ok(&dry).await;
    says(
        &said,
        &[
            "of EVENTS: 1 pending",
            "1, until 20",
            "each becomes a dead letter",
            "0; they are kept",
            "nothing is changed",
        ],
    );
    let asked = world.refused(2, &["subscribers", "remove", NAME]).await;
    says(
        &asked,
        &[
            "this removes stuck for good",
            "no terminal to confirm on",
            "--yes",
        ],
    );
    let done = world
        .json(&["subscribers", "remove", NAME, "--yes", "--json"])
        .await;
    assert_eq!(done[0]["done"], true);
    assert_eq!(done[0]["dead_letters_made"], 1);
    assert_eq!(done[0]["removal"]["retries"]["scheduled"], 1);
    assert_eq!(world.ok(&LIST).await, "there are no subscribers\n");
    let letters = world
        .json(&["dead-letters", "list", "--cause", "removed", "--json"])
        .await;
    assert_eq!(letters.len(), 1, "{letters:?}");
    assert_eq!(letters[0]["subscriber"], NAME);
    let again = world
        .refused(1, &["subscribers", "remove", NAME, "--yes"])
        .await;
    says(&again, &["there is no subscriber stuck"]);
}

#[tokio::test]
async fn durables_of_other_applications_are_listed_separately() {
    let world = World::start(Store::Sqlite).await;
    let service = Service::start(&world).await;
    let stream = world.jetstream().await.get_stream("EVENTS").await.unwrap();
    let foreign = jetstream::consumer::pull::Config {
        durable_name: Some("reporting".to_owned()),
        ..Default::default()
    };
    stream.create_consumer(foreign).await.unwrap();
    let listed = world.ok(&LIST).await;
    says(
        &listed,
        &["durables of other applications: reporting of EVENTS"],
    );
    let json = world.json(&["subscribers", "list", "--json"]).await;
    assert_eq!(json[1]["foreign"][0]["name"], "reporting");
    let refused = world
        .refused(1, &["subscribers", "remove", "reporting", "--yes"])
        .await;
    says(&refused, &["another application has created the durable"]);
    service.stop().await;
}
