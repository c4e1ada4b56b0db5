//! What systemd is told: ready, stopping, and progress only while there is some.

use std::{
    path::PathBuf,
    sync::{Arc, Condvar, Mutex},
    time::Duration,
};

use tidings::{Bus, Context, EventPublisher, EventSubscriber, Failure, Worker, ops::Systemd};
use tokio::{net::UnixDatagram, sync::Semaphore};
use tokio_util::sync::CancellationToken;

use crate::support::{Folder, Noted, User, World, within};

type Sqlite = sqlx::Sqlite;

const INTERVAL: Duration = Duration::from_millis(400);

/// The end of systemd: a socket in a folder.
struct Listener {
    socket: UnixDatagram,
    path: PathBuf,
    _folder: Folder,
}

impl Listener {
    fn new() -> Self {
        let folder = Folder::new();
        let path = folder.path().join("notify");
        Self {
            socket: UnixDatagram::bind(&path).unwrap(),
            path,
            _folder: folder,
        }
    }

    /// A worker that tells this end.
    fn systemd(&self) -> Systemd {
        Systemd::notify(self.path.clone()).watchdog(Some(INTERVAL))
    }

    async fn next(&self) -> String {
        let mut message = [0; 4096];
        let length = within("a message", self.socket.recv(&mut message)).await;
        String::from_utf8(message[..length.unwrap()].to_vec()).unwrap()
    }

    /// The messages until one has this line, with that one.
    async fn until(&self, line: &str) -> Vec<String> {
        let mut messages = Vec::new();
        loop {
            let message = self.next().await;
            let is_last = message.lines().any(|one| one == line);
            messages.push(message);
            if is_last {
                return messages;
            }
        }
    }

    /// Waits until no message of progress came for several intervals.
    async fn hears_no_progress(&self) {
        let silence = INTERVAL * 4;
        let mut quiet_since = tokio::time::Instant::now();
        while quiet_since.elapsed() < silence {
            let mut message = [0; 4096];
            let left = silence.saturating_sub(quiet_since.elapsed());
            let heard = tokio::time::timeout(left, self.socket.recv(&mut message)).await;
            let Ok(length) = heard else { return };
            let text = String::from_utf8_lossy(&message[..length.unwrap()]);
            if text.contains("WATCHDOG=1") {
                quiet_since = tokio::time::Instant::now();
            }
        }
    }
}

#[derive(Clone)]
struct Gate {
    noted: Noted,
    open: Arc<Semaphore>,
}

async fn wait(user: User, cx: Context<Gate>) -> Result<(), Failure> {
    cx.state().noted.note(user.id);
    let open = Arc::clone(&cx.state().open);
    open.acquire().await.map_err(Failure::retry)?.forget();
    Ok(())
}

#[tokio::test]
async fn a_worker_is_ready_when_set_up_and_stops_when_it_drains() {
    let world = World::<Sqlite>::start().await;
    let (listener, stop) = (Listener::new(), CancellationToken::new());
    let gate = Gate {
        noted: Noted::default(),
        open: Arc::new(Semaphore::new(0)),
    };
    let worker = Worker::new(world.bus.clone(), gate.clone())
        .with(world.new_relay())
        .subscribe(EventSubscriber::durable("welcome").on(wait))
        .with(listener.systemd());
    let stopped = stop.clone();
    let running = tokio::spawn(async move { worker.run(stopped.cancelled()).await });
    let messages = listener.until("READY=1").await;
    let ready = messages.last().unwrap();
    assert!(ready.contains("STATUS=relay tidings: idle"), "{ready}");
    assert!(ready.contains("subscriber welcome: idle"), "{ready}");
    let stream = world.jetstream().await.get_stream("EVENTS").await.unwrap();
    let info = stream.consumer_info("welcome").await;
    assert!(info.is_ok(), "ready without its consumer: {info:?}");
    for _ in 0..3 {
        listener.until("WATCHDOG=1").await;
    }

    EventPublisher::new(&world.bus)
        .publish(&User::new("ada"))
        .await
        .unwrap();
    gate.noted.reach(1).await;
    stop.cancel();
    let messages = listener.until("STOPPING=1").await;
    assert!(!messages.concat().contains("READY=1"), "{messages:?}");
    assert!(!running.is_finished(), "the handler still runs");
    // A drain is progress.
    listener.until("WATCHDOG=1").await;
    gate.open.add_permits(1);
    within("the end", running).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_nats_that_is_away_is_no_reason_to_restart() {
    let world = World::<Sqlite>::start().await;
    let (listener, stop) = (Listener::new(), CancellationToken::new());
    let systemd = listener.systemd().stuck_after(Duration::from_millis(300));
    let subscriber = EventSubscriber::durable("welcome").on(crate::support::note_id);
    let worker = Worker::new(world.bus.clone(), Noted::default())
        .subscribe(subscriber)
        .with(systemd);
    let stopped = stop.clone();
    let running = tokio::spawn(async move { worker.run(stopped.cancelled()).await });
    listener.until("READY=1").await;
    world.nats.pause().unwrap();
    let mut message = listener.next().await;
    while !message.contains("subscriber welcome: stuck") {
        message = listener.next().await;
    }
    listener.until("WATCHDOG=1").await;
    listener.until("WATCHDOG=1").await;
    world.nats.resume().unwrap();
    stop.cancel();
    within("the end", running).await.unwrap().unwrap();
}

/// Blocks its thread until it is opened.
#[derive(Clone, Default)]
struct Blocks {
    noted: Noted,
    gate: Arc<(Mutex<bool>, Condvar)>,
}

async fn block(user: User, cx: Context<Blocks>) -> Result<(), Failure> {
    cx.state().noted.note(user.id);
    let (is_open, opened) = &*cx.state().gate;
    drop(opened.wait_while(is_open.lock().unwrap(), |is_open| !*is_open));
    Ok(())
}

#[tokio::test]
async fn a_runtime_that_is_blocked_makes_no_progress() {
    let world = World::<Sqlite>::start().await;
    let listener = Listener::new();
    let (blocks, stop) = (Blocks::default(), CancellationToken::new());
    let (state, stopped, url) = (blocks.clone(), stop.clone(), world.nats.url());
    let systemd = listener.systemd();
    // A runtime of its own, with one thread: that of the test goes on.
    let service = std::thread::spawn(move || {
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = runtime.worker_threads(1).enable_all().build().unwrap();
        let running = runtime.spawn(async move {
            let bus = Bus::connect(url.as_str()).await.unwrap();
            let worker = Worker::new(bus, state).with(systemd);
            let worker = worker.subscribe(EventSubscriber::durable("blocks").on(block));
            worker.run(stopped.cancelled()).await
        });
        runtime.block_on(running).unwrap().unwrap();
    });
    listener.until("READY=1").await;
    EventPublisher::new(&world.bus)
        .publish(&User::new("ada"))
        .await
        .unwrap();
    blocks.noted.reach(1).await;
    within("silence", listener.hears_no_progress()).await;

    let (is_open, opened) = &*blocks.gate;
    *is_open.lock().unwrap() = true;
    opened.notify_all();
    listener.until("WATCHDOG=1").await;
    stop.cancel();
    listener.until("STOPPING=1").await;
    tokio::task::spawn_blocking(move || service.join().unwrap())
        .await
        .unwrap();
}
