//! P9: a handler that blocks its thread is reported while it does, and again when the shutdown timeout has passed, by
//! a thread that it cannot block.

use std::{
    path::PathBuf,
    process::Stdio,
    sync::{Arc, Condvar, Mutex},
    time::{Duration, Instant},
};

use tidings::{Bus, Context, EventPublisher, EventSubscriber, Failure, Worker, shutdown_signal};
use tokio::process::{Child, Command};

use crate::support::{Folder, Noted, User, World, eventually, log, within};

type Sqlite = sqlx::Sqlite;

const URL: &str = "TIDINGS_TEST_BLOCKED";
const CODE: i32 = 17;
const DRAIN: Duration = Duration::from_secs(2);

/// The process of the tests below; does nothing in an ordinary run. Its handlers block all threads of the runtime.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_service() {
    async fn block(_: User, _: Context<()>) -> Result<(), Failure> {
        std::thread::sleep(Duration::from_secs(3_600)); // real time: as long as the process lives
        Ok(())
    }
    let Ok(url) = std::env::var(URL) else { return };
    let log = tracing_subscriber::fmt().with_ansi(false);
    log.with_writer(std::io::stderr).init();
    let bus = Bus::connect(url.as_str()).await.unwrap();
    let subscriber = EventSubscriber::durable("blocks").on(block).concurrency(4);
    let worker = Worker::new(bus, ())
        .subscribe(subscriber)
        .shutdown_timeout(DRAIN);
    let worker = worker.exit_when_stuck(CODE);
    worker.run(shutdown_signal()).await.unwrap();
}

struct Service {
    process: Child,
    log: PathBuf,
}

impl Service {
    fn start(world: &World<Sqlite>, folder: &Folder) -> Self {
        let log = folder.path().join("log");
        let file = std::fs::File::create(&log).unwrap();
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args([
                "--exact",
                "subscribing::blocked_threads::the_service",
                "--nocapture",
            ])
            .env(URL, world.nats.url())
            .stdout(Stdio::null())
            .stderr(file)
            .kill_on_drop(true);
        let process = command.spawn().unwrap();
        Self { process, log }
    }

    fn said(&self, text: &str) -> Vec<String> {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines = log.lines().filter(|line| line.contains(text));
        lines.map(str::to_owned).collect()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handlers_that_block_all_threads_are_named_and_shutdown_ends() {
    let world = World::<Sqlite>::start().await;
    let folder = Folder::new();
    let mut service = Service::start(&world, &folder);
    eventually("it runs", || async {
        !service.said("worker running").is_empty()
    })
    .await;
    let publisher = EventPublisher::new(&world.bus);
    let began = Instant::now();
    for n in 0..4 {
        publisher.publish(&User::new(&n.to_string())).await.unwrap();
    }
    eventually("it is told", || async {
        !service.said("runtime blocked").is_empty()
    })
    .await;
    let told_after = began.elapsed();
    let told = service.said("runtime blocked");
    assert!(
        told[0].contains("ERROR") && told[0].contains("blocks: user.created "),
        "{told:?}"
    );
    assert!(told_after < Duration::from_secs(15), "{told_after:?}");

    let pid = service.process.id().unwrap().to_string();
    let asked = Instant::now();
    let kill = Command::new("kill")
        .args(["-s", "TERM", &pid])
        .status()
        .await;
    assert!(kill.unwrap().success());
    let status = within("its end", service.process.wait()).await.unwrap();
    let took = asked.elapsed();
    assert_eq!(status.code(), Some(CODE));
    // The shutdown timeout, the handing back of deliveries, and a second of grace.
    assert!(took < DRAIN + Duration::from_secs(8), "{took:?}");
    let last = service.said("handlers abandoned");
    assert_eq!(last.len(), 1, "{last:?}");
    assert!(
        last[0].contains("blocks: user.created ") && last[0].contains("exit=17"),
        "{last:?}"
    );
}

/// One thread is free: the worker continues, and returns.
#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_handler_that_blocks_a_thread_is_named_and_the_worker_ends() {
    #[derive(Clone, Default)]
    struct App {
        noted: Noted,
        gate: Arc<(Mutex<bool>, Condvar)>,
    }
    async fn block(user: User, cx: Context<App>) -> Result<(), Failure> {
        cx.state().noted.note(user.id.clone());
        if user.id == "blocks" {
            let (is_open, opened) = &*cx.state().gate;
            let is_open = is_open.lock().unwrap();
            drop(opened.wait_while(is_open, |is_open| !*is_open));
        }
        Ok(())
    }
    log::listen();
    let world = World::<Sqlite>::start().await;
    let app = App::default();
    let subscriber = EventSubscriber::durable("half-blocked").on(block);
    let worker = Worker::new(world.bus.clone(), app.clone()).subscribe(subscriber);
    let running = world.run(worker.shutdown_timeout(Duration::from_secs(1)));
    let publisher = EventPublisher::new(&world.bus);
    publisher.publish(&User::new("blocks")).await.unwrap();
    app.noted.reach(1).await;
    let named = || log::said("handlers blocking");
    eventually("it is named", || async { !named().is_empty() }).await;
    assert!(
        named()[0].contains("half-blocked: user.created "),
        "{:?}",
        named()
    );
    publisher.publish(&User::new("another")).await.unwrap();
    app.noted.reach(2).await;
    running.stop().await.unwrap();
    let last = log::said("handlers abandoned");
    assert_eq!(last.len(), 1, "{last:?}");
    assert!(last[0].contains("half-blocked: user.created "), "{last:?}");
    *app.gate.0.lock().unwrap() = true;
    app.gate.1.notify_all();
}
