//! Sends acks and other answers to deliveries, many in flight at once, and reports to each caller that the server has
//! confirmed its answer, or why not. Never decides the content of an answer, and never repeats one by itself.
//!
//! Each answer is a request, as the client has them, but one inbox and one timer serve them all. A request of the
//! client has its own inbox, timer and watch of the connection, which costs as much as a short handler.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_nats::{Message, StatusCode, Subject, Subscriber};
use bytes::Bytes;
use futures::{FutureExt, StreamExt};
use tokio::{
    sync::{Notify, OnceCell, oneshot},
    time::{Instant, MissedTickBehavior},
};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::unconfirmed::{Number, Unconfirmed};
use crate::{
    nats::{Bus, BusError, REQUEST_TIMEOUT},
    task::yielding::yield_to_ready,
};

/// How often to check whether an answer is late.
const LOOK: Duration = Duration::from_millis(500);
/// How many confirmations are processed before anything else is checked.
const AT_A_TIME: usize = 256;

/// Sends answers. Clones share it; it ends with the last clone.
#[derive(Clone)]
pub(in crate::nats) struct Answers(Arc<AckSender>);

struct AckSender {
    shared: Arc<Shared>,
    /// The task that sends answers and listens for confirmations, running since the first answer.
    clerk: OnceCell<DropGuard>,
}

struct Shared {
    bus: Bus,
    inbox: String,
    answers: Mutex<Given>,
    /// The queue of unsent answers has become non-empty.
    asked: Notify,
}

/// The answers that are not confirmed yet.
#[derive(Default)]
struct Given {
    open: Unconfirmed<Open>,
    /// The answers that are not sent yet, in order.
    unsent: VecDeque<Number>,
}

/// An answer that is not confirmed.
struct Open {
    to: Subject,
    payload: Bytes,
    is_sent: bool,
    since: Instant,
    /// How often its subject had been denied before.
    denials: u64,
    confirmed: oneshot::Sender<Result<(), BusError>>,
}

impl Answers {
    pub(in crate::nats) fn new(bus: &Bus) -> Self {
        Self(Arc::new(AckSender {
            shared: Arc::new(Shared {
                bus: bus.clone(),
                inbox: bus.client.new_inbox(),
                answers: Mutex::default(),
                asked: Notify::new(),
            }),
            clerk: OnceCell::new(),
        }))
    }

    /// Sends an answer and waits until it is confirmed.
    pub(in crate::nats) async fn send(&self, to: &Subject, payload: Bytes) -> Result<(), BusError> {
        let AckSender { shared, clerk } = &*self.0;
        if !clerk.initialized() {
            // Boxed, because it happens only once.
            let beginning = Box::pin(clerk.get_or_try_init(|| shared.begin()));
            beginning.await.map_err(|reason| broken(to, reason))?;
        }
        let (confirmed, confirmation) = oneshot::channel();
        shared.add(Open {
            to: to.clone(),
            payload,
            is_sent: false,
            since: Instant::now(),
            denials: shared.bus.denied.times(to),
            confirmed,
        });
        let confirmation = confirmation.await;
        confirmation.unwrap_or_else(|_| Err(BusError::lost(to)))
    }
}

fn broken(to: &Subject, reason: String) -> BusError {
    BusError::Broken {
        subject: to.to_string(),
        reason,
    }
}

impl Given {
    /// The next answer to send.
    fn next(&mut self) -> Option<(Number, Subject, Bytes)> {
        loop {
            let number = *self.unsent.front()?;
            match self.open.get(number) {
                Some(open) => return Some((number, open.to.clone(), open.payload.clone())),
                // It has already failed.
                None => drop(self.unsent.pop_front()),
            }
        }
    }

    /// Removes the first unsent answer. When it could not be sent, it is also no longer open, and is returned.
    fn sent(&mut self, number: Number, is_sent: bool) -> Option<Open> {
        self.unsent.pop_front();
        match is_sent {
            true => {
                self.open.get(number)?.is_sent = true;
                None
            }
            false => self.open.remove(number),
        }
    }
}

impl Shared {
    fn answers(&self) -> MutexGuard<'_, Given> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues an answer, to be sent together with those that are queued by then.
    fn add(&self, answer: Open) {
        let mut answers = self.answers();
        let number = answers.open.add(answer);
        answers.unsent.push_back(number);
        let is_first = answers.unsent.len() == 1;
        drop(answers);
        if is_first {
            self.asked.notify_one();
        }
    }

    /// Sends queued answers, as soon as there are any.
    ///
    /// # Cancel safety
    /// When the future is dropped, the remaining answers are sent by the next call.
    async fn send(&self) {
        if self.answers().unsent.is_empty() {
            self.asked.notified().await;
            yield_to_ready().await;
        }
        loop {
            let next = self.answers().next();
            let Some((number, to, payload)) = next else {
                return;
            };
            let inbox = format!("{}.{number}", self.inbox);
            // Waits while the client's queue is full.
            let sending = self.bus.client.publish_with_reply(to, inbox, payload);
            let sent = sending.await;
            let failed = self.answers().sent(number, sent.is_ok());
            if let (Some(open), Err(error)) = (failed, sent) {
                let error = broken(&open.to, error.to_string());
                let _ = open.confirmed.send(Err(error));
            }
        }
    }

    /// Starts the task, which sends and listens until the last clone is dropped.
    async fn begin(self: &Arc<Self>) -> Result<DropGuard, String> {
        let heard = self.bus.client.subscribe(self.confirmations()).await;
        let heard = heard.map_err(|error| error.to_string())?;
        let ended = CancellationToken::new();
        let running = Arc::clone(self).run(heard);
        tokio::spawn(ended.clone().run_until_cancelled_owned(running));
        Ok(ended.drop_guard())
    }

    /// The subject on which confirmations arrive.
    fn confirmations(&self) -> String {
        format!("{}.*", self.inbox)
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
                        is_closed = !self.hear_again(&mut heard).await;
                        continue;
                    };
                    self.hear(&message);
                    for _ in 1..AT_A_TIME {
                        let Some(Some(message)) = heard.next().now_or_never() else { break };
                        self.hear(&message);
                    }
                }
                () = self.send() => {}
                // When the connection is dropped, its watch ends as well.
                Ok(()) = lost.changed() => self.fail(|_| true, |open| BusError::lost(&open.to)),
                Ok(()) = denied.changed() => self.fail_denied(),
                _ = looks.tick() => self.fail_late(),
            }
        }
    }

    /// Subscribes again after the client has stopped: confirmations for sent answers do not arrive any more. False when
    /// the connection is closed.
    async fn hear_again(&self, heard: &mut Subscriber) -> bool {
        while !self.bus.client.is_closed() {
            self.fail(|open| open.is_sent, |open| BusError::lost(&open.to));
            if let Ok(again) = self.bus.client.subscribe(self.confirmations()).await {
                *heard = again;
                return true;
            }
            self.fail(|_| true, |open| BusError::lost(&open.to));
            tokio::time::sleep(LOOK).await;
        }
        self.fail(|_| true, |open| BusError::lost(&open.to));
        false
    }

    fn hear(&self, message: &Message) {
        let number = message.subject.rsplit('.').next();
        let number = number.and_then(|number| number.parse().ok());
        // Otherwise the answer has already failed.
        let Some(open) = number.and_then(|number| self.answers().open.remove(number)) else {
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
            |open| match open.is_sent {
                true => self.bus.ack_pending(&open.to, REQUEST_TIMEOUT),
                false => BusError::lost(&open.to),
            },
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
        let failed = self.answers().open.remove_if(which);
        for open in failed {
            let error = error(&open);
            let _ = open.confirmed.send(Err(error));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add(given: &mut Given, to: &'static str) -> Number {
        let number = given.open.add(Open {
            to: to.into(),
            payload: Bytes::from_static(b"+ACK"),
            is_sent: false,
            since: Instant::now(),
            denials: 0,
            confirmed: oneshot::channel().0,
        });
        given.unsent.push_back(number);
        number
    }

    #[test]
    fn each_ack_is_sent_once_and_an_abandoned_one_is_not() {
        let mut given = Given::default();
        let [first, second, third] = ["a", "b", "c"].map(|to| add(&mut given, to));
        assert_eq!(given.next().map(|next| next.0), Some(first));
        assert_eq!(
            given.next().map(|next| next.0),
            Some(first),
            "it could not be sent yet"
        );
        assert!(given.sent(first, true).is_none());
        assert!(given.open.get(first).is_some_and(|open| open.is_sent));
        given.open.remove(second);
        let (number, to, _) = given.next().expect("the third one");
        assert_eq!((number, to.as_str()), (third, "c"));
        let failed = given.sent(third, false).expect("it is open no more");
        assert_eq!(failed.to.as_str(), "c");
        assert!(given.next().is_none() && given.open.get(third).is_none());
    }
}
