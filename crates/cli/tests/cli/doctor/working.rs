//! A worker with one subscriber, in the process of the test.

use tidings::{Bus, EventPublisher, EventSubscriber, Worker, worker::WorkerError};
use tidings_test_support::{User, within};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::support::World;

/// Ends with [`Working::stop`].
pub struct Working {
    stop: CancellationToken,
    task: JoinHandle<Result<(), WorkerError>>,
}

impl Working {
    /// Starts it, and waits until the doctor sees it.
    pub async fn start(world: &World, subscriber: EventSubscriber<()>) -> Self {
        let bus = Bus::connect(world.nats.url()).await.unwrap();
        let worker = Worker::new(bus, ()).subscribe(subscriber);
        let stop = CancellationToken::new();
        let task = tokio::spawn(worker.run(stop.clone().cancelled_owned()));
        world.has_instances(1).await;
        Self { stop, task }
    }

    /// Ends it without waiting for its handlers.
    pub fn abandon(self) {
        self.task.abort();
    }

    pub async fn stop(self) {
        self.stop.cancel();
        within("its end", self.task).await.unwrap().unwrap();
    }
}

impl World {
    /// Waits until the doctor sees so many instances.
    pub async fn has_instances(&self, count: u64) {
        let what = format!("{count} instances");
        self.says(&what, |said| said.verdict["well"]["instances"] == count)
            .await;
    }

    /// Publishes users with these ids, without the outbox.
    pub async fn users(&self, ids: &[&str]) {
        let bus = Bus::connect(self.nats.url()).await.unwrap();
        let publisher = EventPublisher::new(&bus);
        for id in ids {
            publisher.publish(&User::new(id)).await.unwrap();
        }
    }
}
