//! What systemd is told: ready, stopping, and progress only while there is some.

use std::{path::PathBuf, time::Duration};

use tidings::{EventPublisher, EventSubscriber, Worker, ops::Systemd};
use tokio::net::UnixDatagram;
use tokio_util::sync::CancellationToken;

use super::handlers::{Blocked, Gate, wait};
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

#[tokio::test]
async fn a_worker_is_ready_when_set_up_and_stops_when_it_drains() {
    let world = World::<Sqlite>::start().await;
    let (listener, stop) = (Listener::new(), CancellationToken::new());
    let gate = Gate::closed();
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

#[tokio::test]
async fn a_runtime_that_is_blocked_makes_no_progress() {
    let world = World::<Sqlite>::start().await;
    let listener = Listener::new();
    let blocked = Blocked::run(world.nats.url(), listener.systemd());
    listener.until("READY=1").await;
    EventPublisher::new(&world.bus)
        .publish(&User::new("ada"))
        .await
        .unwrap();
    blocked.noted.reach(1).await;
    within("silence", listener.hears_no_progress()).await;

    blocked.open();
    listener.until("WATCHDOG=1").await;
    blocked.ends();
    listener.until("STOPPING=1").await;
    blocked.stop().await;
}
