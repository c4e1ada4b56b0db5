//! What the doctor finds of a worker that is frozen, whose handlers block its threads, and that is down: the three look
//! alike but for whether a client is connected that listens.

use std::{
    process::Stdio,
    time::{Duration, Instant},
};

use tidings::{Bus, Context, EventSubscriber, Failure, Worker, shutdown_signal};
use tidings_test_support::User;
use tokio::process::{Child, Command};

use super::has;
use crate::support::{Store, World, signal};

const URL: &str = "TIDINGS_TEST_WORKER";
const ID: &str = "subscriber/no-instance/frozen";

/// The process of the tests below; does nothing in an ordinary run. A user whose name begins with `block` blocks its
/// thread.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn the_worker() {
    async fn take(user: User, _: Context<()>) -> Result<(), Failure> {
        if user.id.starts_with("block") {
            std::thread::sleep(Duration::from_secs(3_600)); // real time: as long as the process lives
        }
        Ok(())
    }
    let Ok(url) = std::env::var(URL) else { return };
    let bus = Bus::connect(url.as_str()).await.unwrap();
    let subscriber = EventSubscriber::durable("frozen").on(take);
    let worker = Worker::new(bus, ()).subscribe(subscriber);
    // All of it runs on the one thread of the runtime.
    let running = tokio::spawn(worker.run(shutdown_signal()));
    running.await.unwrap().unwrap();
}

async fn start(world: &World) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "doctor::workers::the_worker", "--nocapture"])
        .env(URL, world.nats.url())
        .stdout(Stdio::null())
        .kill_on_drop(true);
    let process = command.spawn().unwrap();
    world.has_instances(1).await;
    process
}

#[track_caller]
fn soon(began: Instant) {
    let took = began.elapsed();
    assert!(took < Duration::from_secs(15), "{took:?}");
}

#[tokio::test]
async fn frozen_and_stopped_workers_are_distinguished() {
    let world = World::start(Store::Sqlite).await.set_up().await;
    let mut worker = start(&world).await;
    let pid = worker.id().unwrap();
    signal("STOP", pid).await;
    let began = Instant::now();
    world.users(&["ada"]).await;
    let finding = world.finds(ID, "stuck", 2).await;
    soon(began);
    has(&finding, "cause", "though one is connected");
    has(&finding, "cause", "frozen");
    has(&finding, "cure", "/livez");
    assert_eq!(finding["runbook"], "events-wait.md");
    let kept = world
        .run(&["subscribers", "remove", "frozen", "--yes"])
        .await;
    assert_ne!(kept.code, Some(0), "it may go on: {kept:?}");
    assert!(kept.stderr.contains("a process is connected"), "{kept:?}");
    signal("CONT", pid).await;
    world
        .says("that it goes on", |said| said.finding(ID).is_none())
        .await;

    worker.kill().await.unwrap();
    let began = Instant::now();
    world.users(&["bob"]).await;
    let finding = world.finds(ID, "stuck", 2).await;
    soon(began);
    has(&finding, "cause", "its process");
    has(&finding, "cure", "start");
    assert!(
        !finding["cause"]
            .as_str()
            .unwrap()
            .contains("one is connected"),
        "{finding}"
    );
}

#[tokio::test]
async fn a_worker_that_blocks_its_threads_is_still_connected() {
    let world = World::start(Store::Sqlite).await.set_up().await;
    let _worker = start(&world).await;
    let began = Instant::now();
    world.users(&["block-1", "block-2"]).await;
    let finding = world.finds(ID, "stuck", 2).await;
    soon(began);
    has(&finding, "cause", "though one is connected");
    has(&finding, "cause", "a handler blocks its threads");
    has(&finding, "cure", "runtime blocked");
    assert!(
        finding["facts"]["ack_pending"].as_u64() > Some(0),
        "{finding}"
    );
}
