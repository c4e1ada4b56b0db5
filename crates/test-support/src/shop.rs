//! A subscriber with an inbox that charges users, or refuses to.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering::SeqCst},
};

use tidings::{
    Context, EventSubscriber, Failure, InboxTransaction, Retry, Worker, worker::WorkerError,
};

use super::{Database, Noted, Running, User, World};

/// The durable of [`World::run_charges`].
pub const CHARGES: &str = "charges";

/// The calls of its handlers, and whether they accept. Clones share both.
#[derive(Clone, Default)]
pub struct Shop {
    pub called: Noted,
    accepts: Arc<AtomicBool>,
}

impl Shop {
    pub fn accept(&self, accepts: bool) {
        self.accepts.store(accepts, SeqCst);
    }

    /// The result of a handler.
    pub fn answer(&self, otherwise: Failure) -> Result<(), Failure> {
        match self.accepts.load(SeqCst) {
            true => Ok(()),
            false => Err(otherwise),
        }
    }
}

/// Records the user and the attempt.
async fn charge<DB: Database>(
    user: User,
    mut tx: InboxTransaction<DB>,
    cx: Context<Shop>,
) -> Result<(), Failure> {
    let shop = cx.state();
    shop.called.note(format!("{} {}", user.id, cx.attempt()));
    DB::count_up(&mut tx, &user.id).await?;
    shop.answer(Failure::reject("declined"))
}

impl<DB: Database> World<DB> {
    pub fn run_charges(&self, shop: &Shop) -> Running<WorkerError> {
        let subscriber = EventSubscriber::durable(CHARGES)
            .on_transactional(&self.outbox, charge::<DB>)
            .retry(Retry::never());
        self.run(Worker::new(self.bus.clone(), shop.clone()).subscribe(subscriber))
    }
}
