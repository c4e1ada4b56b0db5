//! Looks after a consumer from which nothing comes, and after the link to the server when nothing at all comes.
//! Finds out why, and says so; pulling anew and setting the consumer up again is for others.
//!
//! A look asks the server for the consumer. When that is not answered and not a byte has arrived meanwhile, a
//! request that any server answers at once is the second question, and silence then means that the link is
//! dead, though nobody has closed it: the connection is made anew. A server that is only slow answers one of
//! the two.

use std::time::Duration;

use tokio::{task::JoinSet, time::Instant};

use super::{Bus, BusError, PullError, PullerOptions, consumer::ConsumerState};
use crate::log::Lasting;

/// How long nothing may come from a consumer that was asked before it is looked at.
const QUIET: Duration = Duration::from_secs(5);
/// How long a consumer that has something for us is believed to be about to send it.
const ABOUT_TO: Duration = Duration::from_secs(1);
/// While nothing is asked for, how often it is looked whether bytes arrive.
const TICK: Duration = Duration::from_secs(2);
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_millis(2_500);

/// What a look found.
#[derive(Debug)]
pub(super) enum Finding {
    /// The consumer is there, and does what it should.
    Well,
    /// It is there, and does not know of our pulls, or does not answer them.
    Stalled(&'static str),
    Failed(PullError),
}

pub(super) struct Watchdog {
    bus: Bus,
    consumer: PullerOptions,
    /// The look that is under way: one at most.
    look: JoinSet<Looked>,
    look_at: Instant,
    /// Whether the server answers is what matters, not whether something is due.
    is_suspect: bool,
    /// What the connection had received when the look began.
    bytes: u64,
    /// It had something for us and did not send it, at the last look.
    owed: bool,
    is_paused: bool,
    said: Lasting,
}

enum Looked {
    Consumer(Result<ConsumerState, BusError>),
    /// The link was asked because the consumer did not answer.
    Link(BusError),
    /// The connection was given up.
    MadeAnew,
}

impl Watchdog {
    pub(super) fn new(bus: &Bus, consumer: &PullerOptions) -> Self {
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

    /// A message has come.
    pub(super) fn moved(&mut self, now: Instant) {
        self.look_at = now + QUIET;
        self.owed = false;
        self.resumed();
    }

    /// Something is wrong: look now.
    pub(super) fn suspect(&mut self) {
        self.is_suspect = true;
        self.look_at = Instant::now();
    }

    /// The connection is another one: what was asked on the old one is not answered.
    pub(super) fn begin_anew(&mut self) {
        self.look.abort_all();
        self.is_suspect = false;
        self.look_at = Instant::now() + QUIET;
    }

    /// Ends with a finding, if there is ever one; `waits` says whether messages were asked for.
    ///
    /// # Cancel safety
    /// A look that has begun goes on when this is called again.
    pub(super) async fn finding(&mut self, waits: bool) -> Finding {
        loop {
            match self.look.join_next().await {
                Some(Ok(looked)) => {
                    if let Some(finding) = self.judge(looked, waits) {
                        self.is_suspect = false;
                        return finding;
                    }
                }
                // Cut off by a new connection.
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
        // Without a connection there is nobody to ask, and its return is heard of.
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
                    bus.link.knock(PATIENCE).await;
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
            // The pulls may well be served though nobody tells us of the consumer.
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
            return Finding::Stalled("the server knows of no pull");
        }
        if state.num_pending == 0 {
            return Finding::Well;
        }
        if state.is_full() {
            let unanswered = state.num_ack_pending;
            self.say(|consumer| {
                let PullerOptions { stream, consumer } = consumer;
                tracing::warn!(
                    subscriber = consumer,
                    stream,
                    unanswered,
                    "max_ack_pending reached: the server delivers nothing until deliveries are acknowledged"
                );
            });
            return Finding::Well;
        }
        if owed {
            return Finding::Stalled("events are waiting, and none comes");
        }
        self.owed = true;
        self.look_at = Instant::now() + ABOUT_TO;
        Finding::Well
    }

    fn cause(&self, error: BusError) -> PullError {
        let PullerOptions { stream, consumer } = &self.consumer;
        match error {
            BusError::Api { code: 10014, .. } => PullError::Gone(format!(
                "the stream {stream} has no consumer {consumer}: it was deleted"
            )),
            BusError::Api { code: 10059, .. } => PullError::Gone(format!(
                "there is no stream {stream}: it was deleted; `tidings streams apply` creates it"
            )),
            BusError::Api {
                code, description, ..
            } => PullError::Gone(format!("{description} ({code})")),
            BusError::NoResponders { .. } => PullError::Gone(format!(
                "nobody answers for the consumer {consumer} of {stream}: JetStream is off, or has no leader"
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

    /// Says what lasts, ever less.
    fn say(&self, what: impl FnOnce(&PullerOptions)) {
        if self.said.again(Instant::now().into_std()).is_some() {
            what(&self.consumer);
        }
    }
}

/// Whether somebody has to set something up again.
fn is_gone(error: &BusError) -> bool {
    matches!(error, BusError::Api { .. } | BusError::NoResponders { .. })
}

/// How long a pause lasts still. One without an end is until the year 2200 for the server.
fn shown(remaining: Duration) -> String {
    const ENDLESS: Duration = Duration::from_secs(100 * 365 * 86_400);
    match remaining > ENDLESS {
        true => "without an end".to_owned(),
        false => format!("{} s", remaining.as_secs()),
    }
}
