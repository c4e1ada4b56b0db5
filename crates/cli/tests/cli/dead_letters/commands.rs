//! `tidings dead-letters`: finding dead letters and redriving them.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tidings::{
    Bus, Context, Event, EventPublisher, EventSubscriber, Failure, Retry, Worker,
    worker::WorkerError,
};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::support::{Running, Store, World, ended_after, eventually, signal};

#[derive(Debug, Clone, Serialize, Deserialize, Event)]
#[event(name = "user.counted", version = 1, key = key)]
struct Counted {
    key: String,
    count: u32,
}

/// Records what the subscriber `counts` has handled; the handler fails until it is repaired.
#[derive(Clone, Default)]
pub struct Shop {
    done: Arc<Mutex<Vec<String>>>,
    pub is_repaired: Arc<AtomicBool>,
}

impl Shop {
    fn done(&self) -> Vec<String> {
        self.done.lock().unwrap().clone()
    }

    async fn reaches(&self, count: usize) {
        eventually(&format!("{count} are done"), || async {
            self.done().len() >= count
        })
        .await;
    }
}

async fn count(event: Counted, cx: Context<Shop>) -> Result<(), Failure> {
    if !cx.state().is_repaired.load(Ordering::SeqCst) {
        return match event.count % 2 {
            0 => Err(Failure::reject(format!("no mailbox {}", event.count))),
            _ => Err(Failure::retry(format!("timeout after {}s", event.count))),
        };
    }
    let note = format!("{} {}", event.key, event.count);
    cx.state().done.lock().unwrap().push(note);
    Ok(())
}

/// A service with one subscriber.
pub struct Service {
    stop: CancellationToken,
    task: JoinHandle<Result<(), WorkerError>>,
}

impl Service {
    fn start(bus: &Bus, shop: &Shop) -> Self {
        let subscriber = EventSubscriber::durable("counts")
            .on(count)
            .retry(
                Retry::exponential(Duration::from_millis(10), Duration::from_millis(10))
                    .attempts(1),
            )
            .ordered_by_key();
        let worker = Worker::new(bus.clone(), shop.clone()).subscribe(subscriber);
        let stop = CancellationToken::new();
        let task = tokio::spawn(worker.run(stop.clone().cancelled_owned()));
        Self { stop, task }
    }

    pub async fn stop(self) {
        self.stop.cancel();
        self.task.await.unwrap().unwrap();
    }
}

async fn world() -> (World, Bus) {
    let world = World::start(Store::Sqlite).await;
    world.ok(&["streams", "apply"]).await;
    let bus = Bus::connect(world.nats.url()).await.unwrap();
    (world, bus)
}

/// A world in which the events 1 to `count` of two keys are dead letters, with the service that failed.
pub async fn broken(count: u32) -> (World, Bus, Shop, Service) {
    let (world, bus) = world().await;
    let shop = Shop::default();
    let service = Service::start(&bus, &shop);
    for n in 1..=count {
        if n == OF_ADA + 1 {
            letters_are(&world, OF_ADA as usize).await;
        }
        let key = key_of(n).to_owned();
        let publisher = EventPublisher::new(&bus);
        publisher.publish(&Counted { key, count: n }).await.unwrap();
    }
    letters_are(&world, count as usize).await;
    (world, bus, shop, service)
}

async fn list(world: &World) -> Vec<Value> {
    world
        .json(&["dead-letters", "list", "--json", "--limit", "1000"])
        .await
}

pub async fn letters_are(world: &World, count: usize) {
    eventually(&format!("{count} letters"), || async {
        list(world).await.len() == count
    })
    .await;
}

/// How many events have the key ada; the others have the key bob.
const OF_ADA: u32 = 4;

fn key_of(count: u32) -> &'static str {
    if count <= OF_ADA { "ada" } else { "bob" }
}

/// Checks that the subscriber has handled the events 1 to `count`, in order per key.
fn assert_done(shop: &Shop, count: u32) {
    let done = shop.done();
    assert_eq!(done.len(), count as usize, "{done:?}");
    for key in ["ada", "bob"] {
        let of_key = done.iter().filter(|note| note.starts_with(key)).cloned();
        let expected = (1..=count)
            .filter(|n| key_of(*n) == key)
            .map(|n| format!("{key} {n}"));
        assert!(of_key.eq(expected), "{done:?}");
    }
}

#[tokio::test]
async fn dead_letters_are_listed_in_groups_and_shown() {
    let (world, _bus, _shop, service) = broken(6).await;
    service.stop().await;
    let lines = world.ok(&["dead-letters", "list"]).await;
    assert_eq!(lines.lines().count(), 7, "{lines}");
    let second = lines.lines().nth(2).unwrap();
    for part in [
        "2 ",
        "counts",
        "user.counted",
        "ada",
        "rejected",
        "no mailbox 2",
    ] {
        assert!(second.contains(part), "{part}: {lines}");
    }
    let of_key = world
        .ok(&[
            "dead-letters",
            "list",
            "--key",
            "bob",
            "--cause",
            "exhausted",
        ])
        .await;
    assert_eq!(of_key.lines().count(), 2, "{of_key}");
    let none = world
        .ok(&["dead-letters", "list", "--subscriber", "nobody"])
        .await;
    let others = "no dead letter matches: there are other ones\n";
    assert_eq!(none, others);
    let none = ["dead-letters", "list", "--groups", "--cause", "crashed"];
    assert_eq!(world.ok(&none).await, others);
    let limited = |limit| ["dead-letters", "list", "--limit", limit];
    let cut = world.ok(&limited("2")).await;
    assert_eq!(cut.lines().count(), 4, "{cut}");
    assert!(cut.contains("the 2 oldest, and there are more"), "{cut}");
    let all = world.ok(&limited("6")).await;
    assert_eq!(all.lines().count(), 7, "{all}");
    let cut = world.run(&[&limited("2")[..], &["--json"]].concat()).await;
    assert_eq!(cut.stdout.lines().count(), 2, "{cut:?}");
    assert!(cut.stderr.contains("there are more"), "{cut:?}");
    let groups = [&limited("1")[..], &["--groups"]].concat();
    world.refused(2, &groups).await;
    let refused = world.refused(2, &limited("0")).await;
    assert!(refused.contains("--limit"), "{refused}");
    world
        .refused(2, &["dead-letters", "list", "--since", "yesterday"])
        .await;

    let groups = world
        .json(&["dead-letters", "list", "--groups", "--json"])
        .await;
    let counts: Vec<&Value> = groups.iter().map(|group| &group["count"]).collect();
    assert_eq!(counts, [3, 3]);
    let timeouts = groups
        .iter()
        .find(|group| group["cause"] == "exhausted")
        .unwrap();
    assert_eq!(timeouts["error"], "timeout after 5s");
    let table = world.ok(&["dead-letters", "list", "--groups"]).await;
    assert!(
        table.contains("timeout after 5s") && table.lines().count() == 3,
        "{table}"
    );

    let shown = world.ok(&["dead-letters", "show", "2"]).await;
    for part in [
        "no mailbox 2",
        "header             ce-partitionkey: ada",
        "handler",
        "from               EVENTS, sequence 2",
        r#"payload            {"key":"ada","count":2}"#,
    ] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    let said = world.refused(1, &["dead-letters", "show", "99"]).await;
    assert!(said.contains("there is no dead letter 99"), "{said}");
}

#[tokio::test]
async fn a_selection_is_redriven_in_order_and_a_dry_run_does_nothing() {
    let (world, _bus, shop, service) = broken(8).await;
    let before = list(&world).await;
    shop.is_repaired.store(true, Ordering::SeqCst);
    let dry = ["dead-letters", "redrive", "--key", "ada", "--dry-run"];
    let said = world.ok(&dry).await;
    assert!(said.contains("4 would be redriven"), "{said}");
    let said = world
        .json(&[&dry[..], &["--json"]].concat())
        .await
        .remove(0);
    assert_eq!(
        (&said["redriven"], &said["dry_run"]),
        (&4.into(), &true.into())
    );
    assert_eq!(said["groups"].as_array().unwrap().len(), 2, "{said}");
    assert!(list(&world).await == before, "nothing has changed");

    world.refused(2, &["dead-letters", "redrive"]).await;
    world
        .refused(2, &["dead-letters", "redrive", "--all", "--key", "ada"])
        .await;
    world
        .refused(2, &["dead-letters", "redrive", "--all", "--rate", "fast"])
        .await;
    let said = world.refused(1, &["dead-letters", "redrive", "99"]).await;
    assert!(said.contains("there is no dead letter 99"), "{said}");
    assert!(list(&world).await == before, "nothing has changed");

    let said = world.ok(&["dead-letters", "redrive", "--key", "ada"]).await;
    assert!(
        said.contains("4 redriven") && said.contains("user.counted"),
        "{said}"
    );
    shop.reaches(4).await;
    assert_done(&shop, 4);
    assert!(list(&world).await == before[4..], "the others stay");
    world.ok(&["dead-letters", "redrive", "6"]).await;
    world.ok(&["dead-letters", "redrive", "--all"]).await;
    shop.reaches(8).await;
    service.stop().await;
    assert_eq!(shop.done().len(), 8);
    assert_eq!(list(&world).await, [] as [Value; 0]);
}

#[tokio::test]
async fn a_redrive_ends_when_everything_fails_again() {
    let (world, _bus, shop, service) = broken(5).await;
    let redrive = [
        "dead-letters",
        "redrive",
        "--all",
        "--rate",
        "1000/s",
        "--wait",
        "60s",
    ];
    let ended = world.run(&redrive).await;
    assert_eq!(ended.code, Some(1), "{ended:?}");
    letters_are(&world, 5).await;
    service.stop().await;
    let redrives: Vec<Value> = list(&world)
        .await
        .iter()
        .map(|l| l["redrives"].clone())
        .collect();
    assert_eq!(redrives, [1, 1, 1, 1, 1]);
    assert_eq!(shop.done(), [] as [String; 0]);
}

#[tokio::test]
async fn a_redrive_keeps_its_rate_and_continues_after_a_stop() {
    let (world, _bus, shop, service) = broken(8).await;
    shop.is_repaired.store(true, Ordering::SeqCst);
    let began = Instant::now();
    let redrive = [
        "dead-letters",
        "redrive",
        "--all",
        "--json",
        "--rate",
        "5/s",
    ];
    let mut running = Running::of(world.command(&redrive));
    shop.reaches(3).await;
    assert!(
        began.elapsed() >= Duration::from_millis(390),
        "{:?}",
        began.elapsed()
    );
    signal("TERM", running.id()).await;
    let report: Value = serde_json::from_str(&running.line().await.unwrap()).unwrap();
    assert_eq!(report["complete"], false);
    let left = list(&world).await.len();
    assert_eq!(report["redriven"], 8 - left, "{report}");
    assert!(left > 0, "it was stopped");
    assert_eq!(running.left().await, Some(1));
    world.ok(&["dead-letters", "redrive", "--all"]).await;
    shop.reaches(8).await;
    service.stop().await;
    assert_done(&shop, 8);
}

#[tokio::test]
async fn a_redrive_killed_repeatedly_loses_and_duplicates_nothing() {
    const LETTERS: u32 = 60;
    let (world, _bus, shop, service) = broken(LETTERS).await;
    shop.is_repaired.store(true, Ordering::SeqCst);
    let mut target = 0;
    while target < LETTERS as usize {
        let killed = world.spawn(&["dead-letters", "redrive", "--all", "--rate", "1000/s"]);
        target = (target + 7).min(LETTERS as usize);
        // At any point of the redrive, also between the publishing of a dead letter and its deletion.
        shop.reaches(target).await;
        killed.signalled("KILL").await;
    }
    // The last events may be handled while their dead letters are still stored.
    if !list(&world).await.is_empty() {
        world.ok(&["dead-letters", "redrive", "--all"]).await;
    }
    assert!(list(&world).await.is_empty());
    service.stop().await;
    assert_done(&shop, LETTERS);
}

#[tokio::test]
async fn a_payload_is_edited_by_a_redrive() {
    let (world, _bus, shop, service) = broken(1).await;
    shop.is_repaired.store(true, Ordering::SeqCst);
    world.write("payload.json", r#"{"key":"ada","count":100}"#);
    let edit = ["dead-letters", "redrive", "1", "--payload", "payload.json"];
    world.refused(2, &edit).await;
    world.refused(2, &["dead-letters", "show", "0"]).await;
    world
        .refused(
            2,
            &[
                "dead-letters",
                "redrive",
                "--all",
                "--payload",
                "-",
                "--by",
                "grace",
            ],
        )
        .await;
    let by_stdin = [
        "dead-letters",
        "redrive",
        "1",
        "--payload",
        "-",
        "--by",
        "grace",
    ];
    let refused = ended_after(world.command(&by_stdin), b"{").await;
    assert_eq!(refused.code, Some(2), "{refused:?}");
    assert!(
        refused.stderr.contains("the payload is not JSON"),
        "{refused:?}"
    );
    world.ok(&[&edit[..], &["--by", "grace"]].concat()).await;
    shop.reaches(1).await;
    service.stop().await;
    assert_eq!(shop.done(), ["ada 100"]);
}

#[tokio::test]
async fn a_discard_prints_and_deletes_only_the_selected_dead_letters() {
    let (world, _bus, _shop, service) = broken(6).await;
    service.stop().await;
    let before = list(&world).await;
    world.refused(2, &["dead-letters", "discard"]).await;
    world
        .refused(2, &["dead-letters", "discard", "--all"])
        .await;
    let said = world.refused(1, &["dead-letters", "discard", "99"]).await;
    assert!(said.contains("there is no dead letter 99"), "{said}");
    assert!(list(&world).await == before, "nothing has changed");
    let discarded = world
        .json(&["dead-letters", "discard", "--cause", "rejected", "--yes"])
        .await;
    let rejected = |letter: &&Value| letter["cause"] == "rejected";
    assert!(
        discarded.iter().eq(before.iter().filter(rejected)),
        "{discarded:?}"
    );
    assert!(
        list(&world)
            .await
            .iter()
            .eq(before.iter().filter(|letter| !rejected(letter)))
    );
    world
        .ok(&["dead-letters", "discard", "--all", "--yes"])
        .await;
    assert_eq!(list(&world).await, [] as [Value; 0]);
    let over = ["dead-letters", "list", "--cause", "rejected"];
    assert_eq!(world.ok(&over).await, "there are no dead letters\n");
}

#[tokio::test]
async fn an_exported_dead_letter_can_be_redriven_elsewhere() {
    let (here, _bus, _shop, service) = broken(3).await;
    service.stop().await;
    let exported = here.json(&["dead-letters", "export", "--key", "ada"]).await;
    assert_eq!(exported, list(&here).await);

    let (there, bus) = world().await;
    let client = async_nats::connect(there.nats.url()).await.unwrap();
    let stream = async_nats::jetstream::new(client);
    for letter in &exported {
        let mut headers = async_nats::HeaderMap::new();
        for (name, values) in letter["headers"].as_object().unwrap() {
            for value in values.as_array().unwrap() {
                headers.append(name.as_str(), value.as_str().unwrap());
            }
        }
        let subject = letter["subject"].as_str().unwrap().to_owned();
        let payload = letter["payload"].as_str().unwrap().to_owned();
        let stored = stream.publish_with_headers(subject, headers, payload.into());
        stored.await.unwrap().await.unwrap();
    }
    let shop = Shop::default();
    shop.is_repaired.store(true, Ordering::SeqCst);
    let service = Service::start(&bus, &shop);
    // A redrive to a subscriber without a consumer is refused.
    eventually("it works", || async {
        let shown = there.run(&["subscribers", "show", "counts"]).await;
        shown.stdout.contains("activity         active")
    })
    .await;
    there
        .ok(&["dead-letters", "redrive", "--subscriber", "counts"])
        .await;
    shop.reaches(3).await;
    service.stop().await;
    assert_done(&shop, 3);
}

#[tokio::test]
async fn without_the_streams_the_cure_is_shown() {
    let world = World::start(Store::Sqlite).await;
    for action in [
        &["list"][..],
        &["export"],
        &["redrive", "--all"],
        &["discard", "7"],
    ] {
        let said = world
            .refused(1, &[&["dead-letters"], action].concat())
            .await;
        assert!(said.contains("there is no stream DEAD_LETTERS"), "{said}");
        assert!(said.contains("try: tidings streams apply"), "{said}");
    }
}
