//! Answers to deliveries, many under way at once: sends them, and tells whoever waits that the server has
//! confirmed, or why it has not. Never decides what is answered, and never answers again by itself.
//!
//! It is a request each time, as the client has them; but one inbox and one clock serve them all. A request of
//! the client's own has an inbox, a timer and a watch of the connection for itself, which costs as much as a
//! short handler does.

use std::{collections::HashMap, pin::pin, task::Poll, time::Duration};

use async_nats::{Message, StatusCode, Subject, Subscriber};
use bytes::Bytes;
use futures::{FutureExt, StreamExt};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, MissedTickBehavior},
};

use super::{Bus, BusError, REQUEST_TIMEOUT};

/// How often it is looked whether an answer is late.
const LOOK: Duration = Duration::from_millis(500);
/// How many are sent, or heard, before the other is looked at.
const AT_A_TIME: usize = 256;

/// Where answers are sent from. Clones share it; it ends with the last one.
#[derive(Clone)]
pub(super) struct Answers(mpsc::UnboundedSender<Answer>);

struct Answer {
    to: Subject,
    payload: Bytes,
    confirmed: oneshot::Sender<Result<(), BusError>>,
}

/// An answer that is not confirmed.
struct Open {
    to: Subject,
    since: Instant,
    /// How often it had been denied before.
    denials: u64,
    confirmed: oneshot::Sender<Result<(), BusError>>,
}

struct Answering {
    bus: Bus,
    inbox: String,
    open: HashMap<u64, Open>,
    sent: u64,
}

impl Answers {
    pub(super) fn new(bus: &Bus) -> Self {
        let (answers, asked) = mpsc::unbounded_channel();
        let answering = Answering {
            bus: bus.clone(),
            inbox: bus.client.new_inbox(),
            open: HashMap::new(),
            sent: 0,
        };
        // Ends when nobody is left who could answer.
        tokio::spawn(answering.run(asked));
        Self(answers)
    }

    /// Sends an answer and waits until it is confirmed.
    pub(super) async fn send(&self, to: &Subject, payload: Bytes) -> Result<(), BusError> {
        let (confirmed, confirmation) = oneshot::channel();
        let answer = Answer {
            to: to.clone(),
            payload,
            confirmed,
        };
        // What is not taken, or let go of, is not confirmed.
        let _ = self.0.send(answer);
        let confirmation = confirmation.await;
        confirmation.unwrap_or_else(|_| Err(BusError::lost(to)))
    }
}

impl Answering {
    async fn run(mut self, mut asked: mpsc::UnboundedReceiver<Answer>) {
        let Some(mut heard) = self.listen(&mut asked).await else {
            return;
        };
        let mut lost = self.bus.lost.clone();
        let mut denied = self.bus.denied.reports();
        let mut looks = tokio::time::interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut answers = Vec::with_capacity(AT_A_TIME);
        let mut is_over = false;
        while !(is_over && self.open.is_empty()) {
            tokio::select! {
                taken = asked.recv_many(&mut answers, AT_A_TIME), if !is_over => {
                    is_over = taken == 0;
                    for answer in answers.drain(..) {
                        self.send(answer).await;
                    }
                }
                message = heard.next() => {
                    let Some(message) = message else { return };
                    self.hear(&message);
                    for _ in 1..AT_A_TIME {
                        let Some(Some(message)) = heard.next().now_or_never() else { break };
                        self.hear(&message);
                    }
                }
                // The connection's end is the end of its watch as well.
                Ok(()) = lost.changed() => self.fail(|_| true, BusError::lost),
                Ok(()) = denied.changed() => self.fail_denied(),
                _ = looks.tick(), if !self.open.is_empty() => self.fail_late(),
            }
        }
    }

    /// Listens for confirmations; `None` when there is nobody left to listen for.
    async fn listen(&self, asked: &mut mpsc::UnboundedReceiver<Answer>) -> Option<Subscriber> {
        loop {
            let error = match self.bus.client.subscribe(format!("{}.*", self.inbox)).await {
                Ok(heard) => return Some(heard),
                Err(error) => error.to_string(),
            };
            let Answer { to, confirmed, .. } = asked.recv().await?;
            let _ = confirmed.send(Err(BusError::Broken {
                subject: to.to_string(),
                reason: error,
            }));
        }
    }

    async fn send(&mut self, answer: Answer) {
        let Answer {
            to,
            payload,
            confirmed,
        } = answer;
        self.sent += 1;
        let open = Open {
            denials: self.bus.denied.times(&to),
            to: to.clone(),
            since: Instant::now(),
            confirmed,
        };
        self.open.insert(self.sent, open);
        let inbox = format!("{}.{}", self.inbox, self.sent);
        let sent = {
            let mut sending = pin!(self.bus.client.publish_with_reply(to, inbox, payload));
            match futures::poll!(&mut sending) {
                Poll::Ready(sent) => Ok(sent),
                // The client's queue is full.
                Poll::Pending => tokio::time::timeout(REQUEST_TIMEOUT, sending).await,
            }
        };
        match sent {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                let number = self.sent;
                self.fail(
                    |open| open == number,
                    |to| BusError::Broken {
                        subject: to.to_owned(),
                        reason: error.to_string(),
                    },
                );
            }
            // Nobody else's answer can be on its way any more.
            Err(_) => self.fail(|_| true, BusError::lost),
        }
    }

    fn hear(&mut self, message: &Message) {
        let number = message.subject.rsplit('.').next();
        let number = number.and_then(|number| number.parse().ok());
        // Given up already, otherwise.
        let Some(open) = number.and_then(|number: u64| self.open.remove(&number)) else {
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

    fn fail_late(&mut self) {
        let Some(before) = Instant::now().checked_sub(REQUEST_TIMEOUT) else {
            return;
        };
        let late = self.open.extract_if(|_, open| open.since < before);
        for (_, open) in late {
            let error = self.bus.unanswered(&open.to, REQUEST_TIMEOUT);
            let _ = open.confirmed.send(Err(error));
        }
    }

    fn fail_denied(&mut self) {
        let denied = &self.bus.denied;
        let now = self
            .open
            .extract_if(|_, open| denied.times(&open.to) > open.denials);
        for (_, open) in now {
            let _ = open.confirmed.send(Err(BusError::denied(&open.to)));
        }
    }

    fn fail(&mut self, which: impl Fn(u64) -> bool, error: impl Fn(&str) -> BusError) {
        for (_, open) in self.open.extract_if(|number, _| which(*number)) {
            let _ = open.confirmed.send(Err(error(&open.to)));
        }
    }
}
