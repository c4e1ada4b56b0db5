//! Answers to deliveries, many under way at once: sends them, and tells whoever waits that the server has
//! confirmed, or why it has not. Never decides what is answered, and never answers again by itself.
//!
//! It is a request each time, as the client has them; but one inbox and one clock serve them all. A request of
//! the client's own has an inbox, a timer and a watch of the connection for itself, which costs as much as a
//! short handler does.

use std::{
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_nats::{Message, StatusCode, Subject, Subscriber};
use bytes::Bytes;
use futures::{FutureExt, StreamExt};
use tokio::{
    sync::{OnceCell, oneshot},
    time::{Instant, MissedTickBehavior},
};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{Bus, BusError, REQUEST_TIMEOUT, unconfirmed::Unconfirmed};
use crate::interrupt::unless;

/// How often it is looked whether an answer is late.
const LOOK: Duration = Duration::from_millis(500);
/// How many are heard before anything else is looked at.
const AT_A_TIME: usize = 256;

/// Where answers are sent from. Clones share it; it ends with the last one.
#[derive(Clone)]
pub(super) struct Answers(Arc<Desk>);

struct Desk {
    shared: Arc<Shared>,
    /// Who listens for confirmations, from the first answer on.
    listener: OnceCell<DropGuard>,
}

struct Shared {
    bus: Bus,
    inbox: String,
    open: Mutex<Unconfirmed<Open>>,
}

/// An answer that is not confirmed.
struct Open {
    to: Subject,
    since: Instant,
    /// How often it had been denied before.
    denials: u64,
    confirmed: oneshot::Sender<Result<(), BusError>>,
}

impl Answers {
    pub(super) fn new(bus: &Bus) -> Self {
        Self(Arc::new(Desk {
            shared: Arc::new(Shared {
                bus: bus.clone(),
                inbox: bus.client.new_inbox(),
                open: Mutex::default(),
            }),
            listener: OnceCell::new(),
        }))
    }

    /// Sends an answer and waits until it is confirmed.
    pub(super) async fn send(&self, to: &Subject, payload: Bytes) -> Result<(), BusError> {
        let Desk { shared, listener } = &*self.0;
        let broken = |reason: String| BusError::Broken {
            subject: to.to_string(),
            reason,
        };
        if !listener.initialized() {
            // Boxed: it is so once.
            let listening = Box::pin(listener.get_or_try_init(|| shared.listen()));
            listening.await.map_err(broken)?;
        }
        let (confirmed, confirmation) = oneshot::channel();
        let open = Open {
            to: to.clone(),
            since: Instant::now(),
            denials: shared.bus.denied.times(to),
            confirmed,
        };
        let number = shared.open().add(open);
        let inbox = format!("{}.{number}", shared.inbox);
        let client = &shared.bus.client;
        let sending = pin!(client.publish_with_reply(to.clone(), inbox, payload));
        // It waits when the client's queue is full.
        let sent = match unless(sending, || tokio::time::sleep(REQUEST_TIMEOUT)).await {
            Some(sent) => sent.map_err(|error| broken(error.to_string())),
            None => Err(BusError::lost(to)),
        };
        if let Err(error) = sent {
            shared.open().remove(number);
            return Err(error);
        }
        let confirmation = confirmation.await;
        confirmation.unwrap_or_else(|_| Err(BusError::lost(to)))
    }
}

impl Shared {
    fn open(&self) -> MutexGuard<'_, Unconfirmed<Open>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Listens for confirmations until nobody is left who could wait for one.
    async fn listen(self: &Arc<Self>) -> Result<DropGuard, String> {
        let subject = format!("{}.*", self.inbox);
        let heard = self.bus.client.subscribe(subject).await;
        let heard = heard.map_err(|error| error.to_string())?;
        let ended = CancellationToken::new();
        let listening = Arc::clone(self).run(heard);
        tokio::spawn(ended.clone().run_until_cancelled_owned(listening));
        Ok(ended.drop_guard())
    }

    async fn run(self: Arc<Self>, mut heard: Subscriber) {
        let mut lost = self.bus.lost.clone();
        let mut denied = self.bus.denied.reports();
        let mut looks = tokio::time::interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut is_closed = false;
        loop {
            tokio::select! {
                message = heard.next(), if !is_closed => {
                    let Some(message) = message else {
                        is_closed = true;
                        self.fail(|_| true, |open| BusError::lost(&open.to));
                        continue;
                    };
                    self.hear(&message);
                    for _ in 1..AT_A_TIME {
                        let Some(Some(message)) = heard.next().now_or_never() else { break };
                        self.hear(&message);
                    }
                }
                // The connection's end is the end of its watch as well.
                Ok(()) = lost.changed() => self.fail(|_| true, |open| BusError::lost(&open.to)),
                Ok(()) = denied.changed() => self.fail_denied(),
                _ = looks.tick() => self.fail_late(),
            }
        }
    }

    fn hear(&self, message: &Message) {
        let number = message.subject.rsplit('.').next();
        let number = number.and_then(|number| number.parse().ok());
        // Given up already, otherwise.
        let Some(open) = number.and_then(|number| self.open().remove(number)) else {
            return;
        };
        let confirmation = match message.status {
            Some(StatusCode::NO_RESPONDERS) => Err(BusError::NoResponders {
                subject: open.to.to_string(),
            }),
            _ => Ok(()),
        };
        let _ = open.confirmed.send(confirmation);
    }

    fn fail_late(&self) {
        let Some(before) = Instant::now().checked_sub(REQUEST_TIMEOUT) else {
            return;
        };
        self.fail(
            |open| open.since < before,
            |open| self.bus.unanswered(&open.to, REQUEST_TIMEOUT),
        );
    }

    fn fail_denied(&self) {
        let denied = &self.bus.denied;
        self.fail(
            |open| denied.times(&open.to) > open.denials,
            |open| BusError::denied(&open.to),
        );
    }

    fn fail(&self, which: impl Fn(&Open) -> bool, error: impl Fn(&Open) -> BusError) {
        let failed = self.open().remove_if(which);
        for open in failed {
            let error = error(&open);
            let _ = open.confirmed.send(Err(error));
        }
    }
}
