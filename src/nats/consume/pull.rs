//! Pulls messages with its own credit: never requests more than there is room for. Never decides what happens to a
//! message.
//!
//! A pull is a request that the server answers with up to `batch` messages of at most `max_bytes` together within
//! `expires`; until then it sends heartbeats. When the puller hears nothing for longer than the heartbeat, the pulls
//! are lost (a restarted server forgets them), and it starts again on a new inbox. When nothing arrives though it
//! should, the [watchdog](super::watchdog) finds out why. Messages that ended the connection are [looked for](lost).

mod lost;

use std::time::Duration;

use async_nats::{Message, StatusCode, Subscriber};
use bytes::Bytes;
use futures::{FutureExt, StreamExt};
use serde_json::json;
use tokio::{sync::watch, time::Instant};

use self::lost::Lost;
use super::{
    credit::{Credit, Room},
    watchdog::{Finding, Watchdog},
};
use crate::nats::{
    Bus, BusError,
    protocol::{
        api,
        headers::server,
        pull_end::{Limit, PullEnd},
        server_headers::left_out,
    },
};

const EXPIRES: Duration = Duration::from_secs(5);
const HEARTBEAT: Duration = Duration::from_secs(1);
/// How long silence is tolerated before the pulls count as lost.
const SILENCE: Duration = Duration::from_millis(2_500);

/// Which consumer to pull from.
#[derive(Debug, Clone)]
pub(crate) struct PullerOptions {
    pub(crate) stream: String,
    pub(crate) consumer: String,
}

/// Pulls from one consumer.
pub(crate) struct Puller {
    bus: Bus,
    next_subject: String,
    inbox: String,
    subscriber: Subscriber,
    /// The client has stopped, and the subscription has ended with it.
    has_ended: bool,
    credit: Credit,
    last_heard: Instant,
    lost: watch::Receiver<u64>,
    /// How often pulling had been denied when the last pull was sent.
    denials: u64,
    /// Checks the consumer; none for a consumer that this puller does not maintain.
    watchdog: Option<Watchdog>,
    /// The last pull was not answered: no further pull is sent until the reason is known.
    is_refused: bool,
    /// How many pulls in a row were not answered.
    refusals: u32,
    /// The previous inbox: messages that were on the way to it are not discarded.
    previous: Option<Subscriber>,
    /// Recovers messages that were delivered and never arrived; none without a watchdog.
    missing: Option<Lost>,
    /// How long a pull may wait, as far as the server allows it.
    expires: Duration,
}

/// A pulled message that is not read yet.
pub(crate) struct Pulled(pub(in crate::nats) Message);

impl Pulled {
    /// Whether its payload may have been omitted.
    pub(crate) fn lacks_payload(&self) -> bool {
        left_out(&self.0).is_some()
    }
}

/// Why pulling cannot continue.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum PullError {
    /// The consumer, or its stream, does not exist, or has no leader at the moment.
    #[error("the consumer does not answer: {0}")]
    Gone(String),
    /// The connection cannot be used.
    #[error(transparent)]
    Bus(#[from] BusError),
}

impl Puller {
    pub(crate) async fn open(bus: &Bus, options: &PullerOptions) -> Result<Self, PullError> {
        let inbox = bus.client.new_inbox();
        let subscriber = subscribe(bus, &inbox).await?;
        let now = Instant::now();
        // Earlier losses do not affect this puller.
        let mut lost = bus.lost.clone();
        lost.mark_unchanged();
        let mut missing = Lost::new(bus, options);
        // An earlier puller may have started to look for lost messages without finishing.
        if *lost.borrow() > 0 {
            missing.begin();
        }
        Ok(Self {
            bus: bus.clone(),
            next_subject: api::consumer_next(&options.stream, &options.consumer),
            inbox,
            subscriber,
            has_ended: false,
            credit: Credit::new(),
            last_heard: now,
            lost,
            denials: 0,
            watchdog: Some(Watchdog::new(bus, options)),
            is_refused: false,
            refusals: 0,
            previous: None,
            missing: Some(missing),
            expires: EXPIRES,
        })
    }

    /// For a consumer that is abandoned when something is wrong with it.
    pub(in crate::nats) fn unwatched(mut self) -> Self {
        self.watchdog = None;
        self.missing = None;
        self
    }

    /// For a caller that needs every delivery, in order.
    pub(crate) fn in_order(mut self) -> Self {
        self.missing.iter_mut().for_each(Lost::in_order);
        self
    }

    /// Requests more messages when enough of `capacity` is free to be worth a request, and as many bytes as the largest
    /// message may have.
    pub(crate) async fn ask(
        &mut self,
        free: usize,
        capacity: usize,
        bytes_free: usize,
    ) -> Result<(), PullError> {
        let holds_up = || self.missing.as_ref().is_some_and(Lost::holds_up);
        if self.is_refused || self.has_ended || holds_up() {
            return Ok(());
        }
        let room = Room {
            free,
            capacity,
            bytes: bytes_free,
            largest: self.bus.max_payload(),
        };
        let Some(pull) = self.credit.next(room) else {
            return Ok(());
        };
        let nanos = |duration: Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        let mut request = json!({
            "batch": pull.batch,
            "expires": nanos(self.expires),
            // The server requires at least two heartbeats within the time.
            "idle_heartbeat": nanos(HEARTBEAT.min(self.expires / 2)),
        });
        if let Some(bytes) = pull.max_bytes {
            request["max_bytes"] = json!(bytes);
        }
        self.denials = self.bus.denied.times(&self.next_subject);
        self.bus
            .client
            .publish_with_reply(
                self.next_subject.clone(),
                self.inbox.clone(),
                Bytes::from(request.to_string()),
            )
            .await
            .map_err(|error| self.broken(&error))?;
        let now = Instant::now();
        if !self.credit.is_outstanding() {
            self.last_heard = now;
        }
        self.credit.sent(pull, now + self.expires + HEARTBEAT);
        Ok(())
    }

    /// The next message; `None` when the credit has changed and the caller may request more.
    ///
    /// # Cancel safety
    /// No message is lost when the future is dropped, unless the pulls were found lost.
    pub(crate) async fn next(&mut self) -> Result<Option<Pulled>, PullError> {
        if let Some(message) = self.missing.as_mut().and_then(Lost::take) {
            return Ok(Some(Pulled(message)));
        }
        if self.has_ended {
            self.begin_anew_after_loss("the client has stopped").await?;
            self.lost.mark_unchanged();
            return Ok(None);
        }
        if self.missing.as_ref().is_some_and(Lost::holds_up) {
            looked(&mut self.missing).await;
            return Ok(None);
        }
        let silent_until = self.last_heard + SILENCE;
        let waiting = self.credit.is_outstanding();
        tokio::select! {
            // Messages that have arrived take precedence over conclusions from silence.
            biased;
            Some(message) = late(&mut self.previous) => Ok(message.status.is_none().then_some(Pulled(message))),
            message = self.subscriber.next() => self.take(message),
            () = self.bus.denied.once_more(&self.next_subject, self.denials), if waiting => {
                self.credit.forget();
                Err(PullError::Bus(BusError::denied(&self.next_subject)))
            }
            // The pulls may be lost with the connection; it is not worth waiting to find out.
            Ok(()) = self.lost.changed(), if waiting => {
                self.begin_anew_after_loss("the connection was lost").await?;
                Ok(None)
            }
            () = tokio::time::sleep_until(silent_until), if waiting => {
                self.watchdog.iter_mut().for_each(Watchdog::suspect);
                self.begin_anew("no heartbeat").await?;
                Ok(None)
            }
            () = looked(&mut self.missing) => Ok(None),
            finding = finding(&mut self.watchdog, waiting) => self.act_on(finding).await,
        }
    }

    /// A message that has already arrived, if any: like [`Puller::next`], without the cost of waiting.
    pub(crate) fn next_now(&mut self) -> Option<Result<Option<Pulled>, PullError>> {
        if let Some(missing) = &mut self.missing {
            if let Some(message) = missing.take() {
                return Some(Ok(Some(Pulled(message))));
            }
            if missing.holds_up() {
                return None;
            }
        }
        if let Some(previous) = &mut self.previous
            && let Some(Some(message)) = previous.next().now_or_never()
        {
            return Some(Ok(message.status.is_none().then_some(Pulled(message))));
        }
        if self.has_ended {
            return None;
        }
        let message = self.subscriber.next().now_or_never()?;
        Some(self.take(message))
    }

    fn take(&mut self, message: Option<Message>) -> Result<Option<Pulled>, PullError> {
        let Some(message) = message else {
            if self.bus.client.is_closed() {
                return Err(PullError::Gone("the connection is closed".into()));
            }
            self.has_ended = true;
            return Ok(None);
        };
        self.last_heard = Instant::now();
        match message.status {
            None => {
                self.credit.arrived(message.length);
                self.missing
                    .iter_mut()
                    .for_each(|missing| missing.came(&message));
                self.moved();
                Ok(Some(Pulled(message)))
            }
            Some(StatusCode::IDLE_HEARTBEAT) => {
                self.credit.remove_expired(self.last_heard);
                self.refusals = 0;
                Ok(None)
            }
            Some(StatusCode::NO_RESPONDERS) => {
                self.credit.forget();
                self.refused("no server answers")
            }
            Some(_) => self.end_of_pull(&message),
        }
    }

    /// A pull ended without being filled: it expired, or the server states the reason.
    fn end_of_pull(&mut self, message: &Message) -> Result<Option<Pulled>, PullError> {
        let number = |name| {
            let headers = message.headers.as_ref()?;
            headers.get(name)?.as_str().parse().ok()
        };
        let left = number(server::PENDING_MESSAGES).unwrap_or(0);
        let bytes = number(server::PENDING_BYTES).unwrap_or(0);
        let code = message.status.map_or(0, |status| status.as_u16());
        let reason = message.description.clone().unwrap_or_default();
        let end = PullEnd::of(code, &reason);
        if end == PullEnd::TooLarge {
            self.credit.does_not_fit(left);
        }
        match end {
            PullEnd::Refused(limit) => {
                self.credit.refused();
                return self.obey(limit, &reason);
            }
            PullEnd::Unknown => self.credit.refused(),
            _ => self.credit.ended(left, bytes),
        }
        match end {
            PullEnd::Deleted => self.refused(&reason),
            PullEnd::Unfit | PullEnd::Unknown => Err(PullError::Gone(format!(
                "the server ends each pull at once: {code} {reason}"
            ))),
            PullEnd::Elsewhere => {
                self.credit.forget();
                Ok(None)
            }
            _ => Ok(None),
        }
    }

    /// Adjusts to a limit of the server that a pull has exceeded.
    fn obey(&mut self, limit: Limit, reason: &str) -> Result<Option<Pulled>, PullError> {
        let is_news = match limit {
            Limit::Batch(batch) => {
                self.credit.allow_batch(batch);
                true
            }
            Limit::Bytes(bytes) => {
                self.credit.allow_bytes(bytes);
                true
            }
            Limit::Expires(time) if time < self.expires => {
                self.expires = time;
                true
            }
            Limit::Waiting => self.credit.allow_no_more_pulls(),
            Limit::Expires(_) => false,
        };
        let subject = &self.next_subject;
        if is_news {
            tracing::warn!(
                subject,
                reason,
                "pull request limited: the server allows less than requested"
            );
            return Ok(None);
        }
        // Pulls of other instances use up the limit.
        Err(PullError::Gone(format!(
            "the server refuses each pull: {reason}; max_waiting of the consumer is too low and cannot be changed: \
             delete the consumer, and an instance recreates it"
        )))
    }

    /// A pull was not answered; the watchdog finds out why.
    fn refused(&mut self, reason: &str) -> Result<Option<Pulled>, PullError> {
        self.refusals += 1;
        match &mut self.watchdog {
            Some(watchdog) if self.refusals == 1 => {
                watchdog.suspect();
                self.is_refused = true;
                Ok(None)
            }
            // It happened again although the consumer exists: the runner waits longer each time.
            _ => Err(PullError::Gone(reason.to_owned())),
        }
    }

    fn moved(&mut self) {
        self.refusals = 0;
        let now = self.last_heard;
        if let Some(watchdog) = &mut self.watchdog {
            watchdog.moved(now);
        }
    }

    async fn act_on(&mut self, finding: Finding) -> Result<Option<Pulled>, PullError> {
        self.is_refused = false;
        match finding {
            Finding::Well => {}
            Finding::Stalled(why) => self.begin_anew(why).await?,
            Finding::Failed(error) => return Err(error),
        }
        Ok(None)
    }

    /// Ends the pulls, and returns the messages that the server has sent meanwhile: no other instance gets them before
    /// they are handed back.
    pub(crate) async fn close(self) -> Vec<Pulled> {
        let mut left = Vec::new();
        let rest = async {
            for mut inbox in self.previous.into_iter().chain([self.subscriber]) {
                if inbox.drain().await.is_err() {
                    return;
                }
                while let Some(message) = inbox.next().await {
                    if message.status.is_none() {
                        left.push(Pulled(message));
                    }
                }
            }
        };
        if tokio::time::timeout(SILENCE, rest).await.is_err() {
            tracing::debug!("pull end unconfirmed");
        }
        left
    }

    async fn begin_anew_after_loss(&mut self, why: &str) -> Result<(), PullError> {
        self.watchdog.iter_mut().for_each(Watchdog::begin_anew);
        self.begin_anew(why).await?;
        self.look_for_lost();
        Ok(())
    }

    /// Forgets all pulls. Messages that the server still sends to the previous inbox are accepted; messages for an
    /// earlier one are redelivered after the consumer's ack wait.
    async fn begin_anew(&mut self, why: &str) -> Result<(), PullError> {
        tracing::debug!(lost = self.credit.outstanding(), why, "pull restarted");
        self.inbox = self.bus.client.new_inbox();
        let fresh = subscribe(&self.bus, &self.inbox).await?;
        self.previous = Some(std::mem::replace(&mut self.subscriber, fresh));
        self.has_ended = false;
        self.credit.forget();
        self.is_refused = false;
        self.last_heard = Instant::now();
        Ok(())
    }

    /// Messages on the previous inbox come after the lost ones, so an ordered caller must not get them first.
    fn look_for_lost(&mut self) {
        if let Some(missing) = &mut self.missing {
            missing.begin();
            if missing.holds_up() {
                self.previous = None;
            }
        }
    }

    fn broken(&self, error: &impl std::fmt::Display) -> PullError {
        PullError::Bus(BusError::Broken {
            subject: self.next_subject.clone(),
            reason: error.to_string(),
        })
    }
}

/// The next message of an inbox; never returns without an inbox.
async fn late(inbox: &mut Option<Subscriber>) -> Option<Message> {
    match inbox {
        Some(inbox) => inbox.next().await,
        None => std::future::pending().await,
    }
}

/// Returns when a search for lost messages has ended; never without one.
async fn looked(missing: &mut Option<Lost>) {
    match missing {
        Some(missing) => missing.looked().await,
        None => std::future::pending().await,
    }
}

/// The next finding of the watchdog; never returns without a watchdog.
async fn finding(watchdog: &mut Option<Watchdog>, waits: bool) -> Finding {
    match watchdog {
        Some(watchdog) => watchdog.finding(waits).await,
        None => std::future::pending().await,
    }
}

async fn subscribe(bus: &Bus, inbox: &str) -> Result<Subscriber, PullError> {
    bus.client
        .subscribe(inbox.to_owned())
        .await
        .map_err(|error| {
            PullError::Bus(BusError::Broken {
                subject: inbox.to_owned(),
                reason: error.to_string(),
            })
        })
}
