//! A handler that kills its process does so a limited number of times; no other event is dead-lettered for it.

use std::{
    io::Write,
    path::PathBuf,
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use serde_json::{Value, json};
use tidings::{Bus, Context, EventPublisher, EventSubscriber, Failure, Worker, shutdown_signal};
use tokio::{
    process::{Child, Command},
    sync::Semaphore,
};

use crate::support::{Counted, Database, Folder, Noted, Stream, User, World, eventually, within};

type Sqlite = sqlx::Sqlite;

/// The environment variables with the settings of the service.
const URL: &str = "CRASHES_URL";
const NOTES: &str = "CRASHES_NOTES";
const MODE: &str = "CRASHES_MODE";

/// How often the process dies: first until the event is a suspect, then while the suspect is handled alone.
const DEATHS: usize = 5;

struct Service {
    notes: PathBuf,
    mode: String,
}

impl Service {
    /// Written at once: the process may be killed right afterwards.
    fn note(&self, what: &str) {
        let mut file = std::fs::File::options();
        let mut file = file.append(true).create(true).open(&self.notes).unwrap();
        file.write_all(format!("{what}\n").as_bytes()).unwrap();
    }

    async fn handle(&self, subscriber: &str, id: &str) {
        if id == "poison" && subscriber != "other" {
            match &*self.mode {
                "abort" => std::process::abort(),
                "hang" => {
                    self.note("hangs");
                    std::future::pending::<()>().await;
                }
                _ => {}
            }
        }
        if subscriber == "other" {
            tokio::time::sleep(Duration::from_millis(100)).await; // real time: in flight when the process dies
        }
        self.note(&format!("{subscriber} {id}"));
    }
}

async fn user(user: User, cx: Context<Service>) -> Result<(), Failure> {
    cx.state().handle(cx.subscriber(), &user.id).await;
    Ok(())
}

async fn counted(event: Counted, cx: Context<Service>) -> Result<(), Failure> {
    let id = match event.count {
        -1 => "poison".to_owned(),
        count => format!("{} {count}", event.key),
    };
    cx.state().handle(cx.subscriber(), &id).await;
    Ok(())
}

/// The service that the other tests start as a process; without the environment variables this test does nothing.
#[tokio::test(flavor = "multi_thread")]
async fn the_service() {
    let Ok(url) = std::env::var(URL) else { return };
    let bus = Bus::connect(url.as_str()).await.unwrap();
    let state = Service {
        notes: std::env::var(NOTES).unwrap().into(),
        mode: std::env::var(MODE).unwrap(),
    };
    let worker = Worker::new(bus, state)
        .subscribe(EventSubscriber::durable("plain").on(user).concurrency(4))
        .subscribe(EventSubscriber::durable("other").on(user).concurrency(4))
        .subscribe(
            EventSubscriber::durable("ordered")
                .on(counted)
                .concurrency(4)
                .ordered_by_key(),
        )
        .shutdown_timeout(Duration::ZERO);
    worker.run(shutdown_signal()).await.unwrap();
}

struct Supervised {
    world: World<Sqlite>,
    notes: PathBuf,
    _folder: Folder,
}

impl Supervised {
    async fn new() -> Self {
        let world = World::<Sqlite>::start().await;
        let (_, folder) = Sqlite::open().await;
        let notes = folder.path().join("notes");
        Self {
            world,
            notes,
            _folder: folder,
        }
    }

    fn start(&self, mode: &str) -> Child {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["--exact", "subscribing::crashes::the_service"])
            .env(URL, self.world.nats.url())
            .env(NOTES, &self.notes)
            .env(MODE, mode)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true);
        command.spawn().unwrap()
    }

    fn notes(&self) -> Vec<String> {
        let notes = std::fs::read_to_string(&self.notes).unwrap_or_default();
        notes.lines().map(str::to_owned).collect()
    }

    fn has(&self, note: &str) -> bool {
        self.notes().iter().any(|known| known == note)
    }

    /// Restarts the service whenever it dies, until a condition holds; returns how often it died.
    async fn supervise(&self, mode: &str, holds: impl AsyncFn() -> bool) -> usize {
        let mut deaths = 0;
        let mut service = self.start(mode);
        eventually_longer("the service is through", async || {
            if service.try_wait().unwrap().is_some() {
                deaths += 1;
                self.hurry().await;
                service = self.start(mode);
            }
            holds().await
        })
        .await;
        within("its end", service.kill()).await.unwrap();
        deaths
    }

    /// Makes the server redeliver at once what was in flight in a dead process; otherwise that takes half a minute.
    async fn hurry(&self) {
        let client = async_nats::connect(self.world.nats.url()).await.unwrap();
        for durable in ["plain", "other"] {
            let ask = async |subject: String, request: Value| {
                let answer = client.request(subject, request.to_string().into()).await;
                serde_json::from_slice::<Value>(&answer.unwrap().payload).unwrap()
            };
            let info = ask(format!("$JS.API.CONSUMER.INFO.EVENTS.{durable}"), json!({}));
            let mut config = info.await["config"].take();
            config["ack_wait"] = json!(100_000_000);
            let subject = format!("$JS.API.CONSUMER.CREATE.EVENTS.{durable}.user.created");
            let request = json!({ "stream_name": "EVENTS", "config": config, "action": "update" });
            let updated = ask(subject, request).await;
            assert_eq!(updated.get("error"), None);
        }
        tokio::time::sleep(Duration::from_millis(500)).await; // real time: work of the server
    }

    /// The number of crash markers that are left.
    async fn marks(&self) -> usize {
        let entries = Stream::read(&self.world.nats.url(), "KV_TIDINGS").await;
        let marks = entries.0.iter();
        let marks = marks.filter(|entry| entry.subject.starts_with("$KV.TIDINGS.suspect."));
        marks.filter(|entry| !entry.payload.is_empty()).count()
    }

    async fn redrive(&self) {
        let mut redrive = Command::new(env!("CARGO_BIN_EXE_tidings"));
        redrive
            .args(["dead-letters", "redrive", "--cause", "crashed"])
            .env_clear()
            .current_dir(self.notes.parent().unwrap())
            .env("TIDINGS_NATS_URL", self.world.nats.url());
        let redriven = within("the redrive", redrive.output()).await.unwrap();
        assert!(redriven.status.success(), "{redriven:?}");
    }
}

/// A deadline for several leases, each of which ends after five seconds.
async fn eventually_longer(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(120);
    while !holds().await {
        assert!(tokio::time::Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await; // real time: the service is another process
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_an_event_that_kills_the_process_is_dead_lettered() {
    let service = Supervised::new().await;
    let publisher = EventPublisher::new(&service.world.bus);
    let mut wanted = vec!["other poison".to_owned()];
    for id in ["a", "b", "poison", "c", "d", "e", "f", "g", "h"] {
        publisher.publish(&User::new(id)).await.unwrap();
        if id != "poison" {
            wanted.extend([format!("plain {id}"), format!("other {id}")]);
        }
    }
    let deaths = service
        .supervise("abort", async || {
            let letters = service.world.dead_letters().await;
            !letters.0.is_empty() && wanted.iter().all(|note| service.has(note))
        })
        .await;
    assert_eq!(deaths, DEATHS);
    let letters = service.world.dead_letters().await.0;
    let subjects: Vec<&str> = letters.iter().map(|letter| &*letter.subject).collect();
    assert_eq!(subjects, ["dead-letter.plain.user.created"]);
    assert_eq!(letters[0].json()["id"], "poison");
    assert_eq!(letters[0].header("tidings-dead-cause"), "crashed");
    assert_eq!(letters[0].header("tidings-dead-attempts"), "3");
    assert!(letters[0].header("tidings-dead-handler").ends_with("user"));
    assert_eq!(service.marks().await, 0);

    service.redrive().await;
    let deaths = service
        .supervise("harmless", async || service.has("plain poison"))
        .await;
    assert_eq!(deaths, 0);
    assert_eq!(service.world.dead_letters().await.len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn in_order_later_events_of_the_key_follow_a_poison_message() {
    let service = Supervised::new().await;
    let publisher = EventPublisher::new(&service.world.bus);
    let mut wanted = Vec::new();
    for count in [1, 2, -1, 4, 5] {
        for key in ["k", "l"] {
            if count == -1 && key == "l" {
                continue;
            }
            let event = Counted {
                key: key.to_owned(),
                count,
            };
            publisher.publish(&event).await.unwrap();
            if count > 0 {
                wanted.push(format!("ordered {key} {count}"));
            }
        }
    }
    let deaths = service
        .supervise("abort", async || {
            let letters = service.world.dead_letters().await;
            !letters.0.is_empty() && wanted.iter().all(|note| service.has(note))
        })
        .await;
    assert_eq!(deaths, DEATHS);
    let letters = service.world.dead_letters().await.0;
    assert_eq!(letters.len(), 1);
    assert_eq!(letters[0].header("tidings-dead-cause"), "crashed");
    let notes = service.notes();
    let of_key = notes.iter().filter(|note| note.starts_with("ordered k"));
    let mut of_key: Vec<&String> = of_key.collect();
    of_key.dedup();
    assert!(of_key.is_sorted(), "{of_key:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_every_stop_interrupts_is_no_poison_message() {
    let service = Supervised::new().await;
    let publisher = EventPublisher::new(&service.world.bus);
    publisher.publish(&User::new("poison")).await.unwrap();
    for stop in 1..=8 {
        let mut process = service.start("hang");
        eventually("it hangs", || async {
            service
                .notes()
                .iter()
                .filter(|note| *note == "hangs")
                .count()
                >= stop
        })
        .await;
        let pid = process.id().unwrap().to_string();
        let kill = Command::new("kill").args(["-s", "TERM", &pid]).status();
        assert!(kill.await.unwrap().success());
        let status = within("a clean stop", process.wait()).await.unwrap();
        assert!(status.success());
    }
    assert_eq!(service.marks().await, 0);
    let deaths = service
        .supervise("harmless", async || service.has("plain poison"))
        .await;
    assert_eq!((deaths, service.world.dead_letters().await.len()), (0, 0));
}

/// Waiting for a handler that takes hours would hold up all events.
#[tokio::test(flavor = "multi_thread")]
async fn a_suspect_does_not_wait_for_a_handler_of_hours() {
    waits_for_others_no_longer_than(Duration::from_secs(2)).await;
}

/// The same, when the event's own handler may take hours.
#[tokio::test(flavor = "multi_thread")]
async fn a_suspect_of_hours_waits_for_others_for_half_a_minute() {
    waits_for_others_no_longer_than(HOUR).await;
}

const HOUR: Duration = Duration::from_secs(3_600);

async fn waits_for_others_no_longer_than(timeout: Duration) {
    struct State {
        began: Semaphore,
        is_calm: AtomicBool,
        noted: Noted,
    }
    async fn hours(_: Counted, cx: Context<Arc<State>>) -> Result<(), Failure> {
        cx.state().began.add_permits(1);
        std::future::pending().await
    }
    async fn handle(user: User, cx: Context<Arc<State>>) -> Result<(), Failure> {
        if !cx.state().is_calm.load(Ordering::SeqCst) {
            cx.state().began.add_permits(1);
            std::future::pending::<()>().await;
        }
        cx.state().noted.note(user.id);
        Ok(())
    }
    let world = World::<Sqlite>::start().await;
    let state = Arc::new(State {
        began: Semaphore::new(0),
        is_calm: AtomicBool::new(false),
        noted: Noted::default(),
    });
    let worker = |subscriber| {
        Worker::new(world.bus.clone(), Arc::clone(&state))
            .subscribe(subscriber)
            .shutdown_timeout(Duration::ZERO)
    };
    let began = || async {
        let began = within("a handler begins", state.began.acquire());
        began.await.unwrap().forget();
    };
    let suspected = || {
        let subscriber = EventSubscriber::durable("w").on(handle);
        worker(subscriber.timeout(timeout))
    };
    let publisher = EventPublisher::new(&world.bus);
    publisher.publish(&User::new("ada")).await.unwrap();
    for _ in 0..3 {
        let running = world.run(suspected());
        began().await;
        running.stop().await.unwrap();
    }
    let slow = world.run(worker(
        EventSubscriber::durable("slow").on(hours).timeout(HOUR),
    ));
    let counted = Counted {
        key: "a".into(),
        count: 1,
    };
    publisher.publish(&counted).await.unwrap();
    began().await;
    state.is_calm.store(true, Ordering::SeqCst);
    let running = world.run(suspected());
    state.noted.reach(1).await;
    running.stop().await.unwrap();
    slow.stop().await.unwrap();
    assert_eq!(world.dead_letters().await.len(), 0);
}
