//! A subscriber without an inbox; some of its handlers fail, or wait for a permit.

use std::{sync::Arc, time::Duration};

use tidings::{Context, EventSubscriber, Failure, Retry, Worker};
use tokio::sync::Semaphore;

use super::{Database, Noted, User, World};

/// The state of the handlers: their records, and the permits that handlers of `stuck` wait for after recording.
#[derive(Clone)]
pub struct App {
    pub noted: Noted,
    pub open: Arc<Semaphore>,
}

impl Default for App {
    fn default() -> Self {
        Self {
            noted: Noted::default(),
            open: Arc::new(Semaphore::new(0)),
        }
    }
}

impl App {
    /// The records of a user, in order.
    pub fn of(&self, id: &str) -> Vec<String> {
        let mut all = self.noted.all();
        all.retain(|note| note.starts_with(id));
        all
    }

    pub fn worker<DB: Database>(
        &self,
        world: &World<DB>,
        subscriber: EventSubscriber<Self>,
    ) -> Worker<Self> {
        Worker::new(world.bus.clone(), self.clone()).subscribe(subscriber)
    }

    /// A subscriber with an hour between two attempts.
    pub fn subscriber(durable: &str) -> EventSubscriber<Self> {
        const HOUR: Duration = Duration::from_secs(3600);
        let retry = Retry::exponential(HOUR, HOUR).attempts(3);
        EventSubscriber::durable(durable).on(note).retry(retry)
    }
}

/// Records the address of the user.
async fn note(user: User, cx: Context<App>) -> Result<(), Failure> {
    let address = user.email.replace("@example.org", "");
    cx.state().noted.note(address);
    match &*user.id {
        "failing" => Err(Failure::retry("it always fails")),
        "stuck" => {
            if let Ok(permit) = cx.state().open.acquire().await {
                permit.forget();
            }
            Ok(())
        }
        _ => Ok(()),
    }
}
