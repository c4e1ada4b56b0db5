//! A service beside the program: two subscribers of user events, in the process of the test.

use tidings::{Bus, Context, EventSubscriber, Failure, StreamSpec, Worker, worker::WorkerError};
use tidings_test_support::{User, within};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::support::World;

/// Ends with [`Service::stop`].
pub struct Service {
    stop: CancellationToken,
    task: JoinHandle<Result<(), WorkerError>>,
}

async fn take(_: User, _: Context<()>) -> Result<(), Failure> {
    Ok(())
}

impl Service {
    /// Sets up the stream EVENTS, and handles its user events as welcome-email and, in order, as user-directory.
    pub async fn start(world: &World) -> Self {
        let bus = Bus::connect(world.nats.url()).await.unwrap();
        let events = StreamSpec::new("EVENTS", ["user.>".parse().unwrap()]).unwrap();
        bus.setup([events]).await.unwrap();
        let stop = CancellationToken::new();
        let worker = Worker::new(bus, ())
            .subscribe(EventSubscriber::durable("welcome-email").on(take))
            .subscribe(
                EventSubscriber::durable("user-directory")
                    .on(take)
                    .ordered_by_key(),
            );
        let task = tokio::spawn(worker.run(stop.clone().cancelled_owned()));
        Self { stop, task }
    }

    pub async fn stop(self) {
        self.stop.cancel();
        within("its end", self.task).await.unwrap().unwrap();
    }
}
