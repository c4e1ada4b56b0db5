//! Checks a consumer from which no messages come, and the link to the server when nothing comes at all. Finds the
//! reason and reports it; the caller pulls again or sets the consumer up again.
//!
//! A check requests the state of the consumer. If there is no answer and no byte has arrived meanwhile, the watchdog
//! sends a request that any server answers at once. If there is still silence, the link is dead without having been
//! closed, and the client reconnects. A slow server answers one of the two requests.

use std::time::Duration;

use tokio::{task::JoinSet, time::Instant};

use super::consumer::ConsumerState;
use crate::{
    log::Lasting,
    nats::{Bus, BusError, PullError, PullerOptions, protocol::codes},
};

/// How long a consumer with open pulls may be quiet before it is checked.
const QUIET: Duration = Duration::from_secs(5);
/// How long a consumer that has messages may take to send them before it counts as stalled.
const ABOUT_TO: Duration = Duration::from_secs(1);
/// Without open pulls, how often to check whether bytes arrive.
const TICK: Duration = Duration::from_secs(2);
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_millis(2_500);

/// The result of a check.
#[derive(Debug)]
pub(in crate::nats) enum Finding {
    /// The consumer exists and works.
    Well,
    /// It exists, but does not know the pulls, or does not answer them.
    Stalled(&'static str),
    Failed(PullError),
}

pub(in crate::nats) struct Watchdog {
    bus: Bus,
    consumer: PullerOptions,
    /// The running check: at most one.
    look: JoinSet<Looked>,
    look_at: Instant,
    /// A problem was reported: an error of the next check is then a finding.
    is_suspect: bool,
    /// How many bytes the connection had received when the check began.
    bytes: u64,
    /// At the last check, the consumer had messages and did not send them.
    owed: bool,
    is_paused: bool,
    said: Lasting,
}

enum Looked {
    Consumer(Result<ConsumerState, BusError>),
    /// The link was probed because the consumer did not answer.
    Link(BusError),
    /// The client has reconnected.
    MadeAnew,
}

impl Watchdog {
    pub(in crate::nats) fn new(bus: &Bus, consumer: &PullerOptions) -> Self {
        Self {
            bus: bus.clone(),
            consumer: consumer.clone(),
            look: JoinSet::new(),
            look_at: Instant::now() + QUIET,
            is_suspect: false,
            bytes: bus.link.received(),
            owed: false,
            is_paused: false,
            said: Lasting::default(),
        }
    }

    /// A message has arrived.
    pub(in crate::nats) fn moved(&mut self, now: Instant) {
        self.look_at = now + QUIET;
        self.owed = false;
        self.resumed();
    }

    /// Something is wrong: check now.
    pub(in crate::nats) fn suspect(&mut self) {
        self.is_suspect = true;
        self.look_at = Instant::now();
    }

    /// The connection was replaced: requests on the old one are not answered.
    pub(in crate::nats) fn begin_anew(&mut self) {
        self.look.abort_all();
        self.is_suspect = false;
        self.look_at = Instant::now() + QUIET;
    }

    /// Returns when there is a finding, if ever; `waits` is whether messages were requested.
    ///
    /// # Cancel safety
    /// A check that has begun continues with the next call.
    pub(in crate::nats) async fn finding(&mut self, waits: bool) -> Finding {
        loop {
            match self.look.join_next().await {
                Some(Ok(looked)) => {
                    if let Some(finding) = self.judge(looked, waits) {
                        self.is_suspect = false;
                        return finding;
                    }
                }
                // Aborted by a new connection.
                Some(Err(_)) => {}
                None => {
                    tokio::time::sleep_until(self.look_at).await;
                    self.begin(waits);
                }
            }
        }
    }

    fn begin(&mut self, waits: bool) {
        self.look_at = Instant::now() + TICK;
        let received = self.bus.link.received();
        let is_quiet = received == self.bytes;
        self.bytes = received;
        // Without a connection there is no server to ask, and its return is noticed elsewhere.
        if self.bus.is_connected() && (waits || is_quiet || self.is_suspect) {
            let (bus, consumer) = (self.bus.clone(), self.consumer.clone());
            self.look.spawn(async move {
                let looking = bus.look_at_consumer(&consumer.stream, &consumer.consumer, PATIENCE);
                Looked::Consumer(looking.await)
            });
        }
    }

    fn judge(&mut self, looked: Looked, waits: bool) -> Option<Finding> {
        self.look_at = Instant::now() + QUIET;
        let is_silent = self.bus.link.received() == self.bytes;
        match looked {
            Looked::Consumer(Ok(state)) => Some(self.judge_state(&state, waits)),
            Looked::Consumer(Err(error @ BusError::Timeout { .. })) if is_silent => {
                let bus = self.bus.clone();
                self.look.spawn(async move {
                    bus.link.probe(PATIENCE).await;
                    Looked::Link(error)
                });
                None
            }
            Looked::Link(_) if is_silent => {
                let bus = self.bus.clone();
                self.look.spawn(async move {
                    bus.link.make_anew().await;
                    Looked::MadeAnew
                });
                None
            }
            Looked::MadeAnew => None,
            // The pulls may work even though the server does not report the consumer.
            Looked::Consumer(Err(error)) | Looked::Link(error)
                if !self.is_suspect && !is_gone(&error) =>
            {
                self.say(|consumer| {
                    let PullerOptions { stream, consumer } = consumer;
                    tracing::warn!(subscriber = consumer, stream, %error, "consumer check failed");
                });
                None
            }
            Looked::Consumer(Err(error)) | Looked::Link(error) => {
                Some(Finding::Failed(self.cause(error)))
            }
        }
    }

    fn judge_state(&mut self, state: &ConsumerState, waits: bool) -> Finding {
        if let Some(remaining) = state.paused_for() {
            self.is_paused = true;
            self.say(|consumer| {
                let PullerOptions { stream, consumer } = consumer;
                tracing::warn!(
                    subscriber = consumer,
                    stream,
                    remaining = shown(remaining),
                    "subscriber paused: `tidings subscribers resume` ends the pause"
                );
            });
            return Finding::Well;
        }
        self.resumed();
        let owed = std::mem::replace(&mut self.owed, false);
        if !waits {
            return Finding::Well;
        }
        if state.num_waiting == 0 {
            return Finding::Stalled("the server has no pull");
        }
        if state.num_pending == 0 {
            return Finding::Well;
        }
        if state.is_full() {
            let ack_pending = state.num_ack_pending;
            self.say(|consumer| {
                let PullerOptions { stream, consumer } = consumer;
                tracing::warn!(
                    subscriber = consumer,
                    stream,
                    ack_pending,
                    "max_ack_pending reached: the server delivers nothing until deliveries are acknowledged"
                );
            });
            return Finding::Well;
        }
        if owed {
            return Finding::Stalled("events are waiting, and none is delivered");
        }
        self.owed = true;
        self.look_at = Instant::now() + ABOUT_TO;
        Finding::Well
    }

    fn cause(&self, error: BusError) -> PullError {
        let PullerOptions { stream, consumer } = &self.consumer;
        match error {
            BusError::Refused {
                code: codes::CONSUMER_NOT_FOUND,
                ..
            } => PullError::Gone(format!(
                "the stream {stream} has no consumer {consumer}: it was deleted"
            )),
            BusError::Refused {
                code: codes::STREAM_NOT_FOUND,
                ..
            } => PullError::Gone(format!(
                "there is no stream {stream}: it was deleted; `tidings streams apply` creates it"
            )),
            BusError::Refused {
                code, description, ..
            } => PullError::Gone(format!("{description} ({code})")),
            BusError::NoResponders { .. } => PullError::Gone(format!(
                "no server answers for the consumer {consumer} of {stream}: JetStream is off, or has no leader"
            )),
            error => PullError::Bus(error),
        }
    }

    fn resumed(&mut self) {
        if std::mem::take(&mut self.is_paused) {
            let PullerOptions { stream, consumer } = &self.consumer;
            tracing::info!(subscriber = consumer, stream, "subscriber resumed");
            self.said.is_over();
        }
    }

    /// Logs a condition that lasts, ever less often.
    fn say(&self, what: impl FnOnce(&PullerOptions)) {
        if self.said.again(Instant::now().into_std()).is_some() {
            what(&self.consumer);
        }
    }
}

/// Whether the consumer or its stream may have to be set up again.
fn is_gone(error: &BusError) -> bool {
    matches!(
        error,
        BusError::Refused { .. } | BusError::NoResponders { .. }
    )
}

/// The remaining time of a pause. For the server, a pause without an end lasts until the year 2200.
fn shown(remaining: Duration) -> String {
    const ENDLESS: Duration = Duration::from_secs(100 * 365 * 86_400);
    match remaining > ENDLESS {
        true => "without an end".to_owned(),
        false => format!("{} s", remaining.as_secs()),
    }
}
