//! A separate thread that checks whether the handlers of a worker return, and whether the drain ends. Never stops a
//! handler: one that blocks its thread cannot be stopped.
//!
//! The worker's own timers stand still when handlers block all threads of the runtime, and so do signals. So the thread
//! has a small runtime of its own. It counts its own seconds: a process that was frozen and continues has not been
//! blocked.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
    task::JoinSet,
    time::Instant,
};

use super::{BACKGROUND, HALT};
use crate::{
    executor::in_flight::{InFlight, NotBack},
    log::Lasting,
};

/// How often it checks.
const LOOK: Duration = Duration::from_secs(1);
/// How many checks in a row must have the same result.
const LOOKS: u32 = 5;
/// How often the runtime shows that it runs.
const BEAT: Duration = Duration::from_millis(250);
/// How much later than the worker itself it reports that something does not end.
const GRACE: Duration = Duration::from_secs(1);
/// The time between the two checks that decide whether a handler is left behind.
const MOMENT: Duration = Duration::from_millis(100);

/// Whether this process listens for the signals that stop it: only then does the thread listen, too.
static LISTENS: AtomicBool = AtomicBool::new(false);

/// Notes that the process listens for signals from now on.
pub(super) fn note_signals() {
    LISTENS.store(true, Relaxed);
}

/// The stage of a worker.
#[derive(Debug, Clone, Copy)]
enum Stage {
    Running,
    /// The handlers have to end by then.
    Drains(Instant),
    /// Background work has to end by then.
    Stops(Instant),
}

/// The thread; it ends when this is dropped.
pub(super) struct Watch {
    in_flight: Arc<InFlight>,
    stage: watch::Sender<Stage>,
    drain: Duration,
    exit: Option<i32>,
    /// Beats on the worker's runtime.
    _heart: JoinSet<()>,
}

impl Watch {
    /// Starts to check. When the drain does not end and there is an exit code, the process exits.
    pub(super) fn begin(in_flight: Arc<InFlight>, drain: Duration, exit: Option<i32>) -> Self {
        let (stage, stages) = watch::channel(Stage::Running);
        let beats = Arc::new(AtomicU64::new(0));
        let look = Look {
            in_flight: Arc::clone(&in_flight),
            beats: Arc::clone(&beats),
            drain,
            exit,
            seen: 0,
            silent: 0,
            polls: HashMap::new(),
            blocks: Lasting::default(),
            is_blocked: false,
            signals: None,
            told: None,
        };
        let thread = std::thread::Builder::new().name("tidings-watch".to_owned());
        if let Err(error) = thread.spawn(move || look.run(stages)) {
            tracing::error!(%error, "watch thread not started: blocked handlers are not detected");
        }
        let mut heart = JoinSet::new();
        heart.spawn(async move {
            loop {
                beats.fetch_add(1, Relaxed);
                tokio::time::sleep(BEAT).await;
            }
        });
        Self {
            in_flight,
            stage,
            drain,
            exit,
            _heart: heart,
        }
    }

    /// Notes that the drain begins.
    pub(super) fn drains(&self) {
        let by = Instant::now() + self.drain + HALT + GRACE;
        self.stage.send_replace(Stage::Drains(by));
    }

    /// Notes that the handlers have ended, or were cut off.
    pub(super) fn stops(&self) {
        let by = Instant::now() + BACKGROUND + GRACE;
        self.stage.send_replace(Stage::Stops(by));
    }

    /// Reports handlers that are left behind: they block their threads, and so the end of the runtime.
    pub(super) async fn end(self) {
        let before = self.in_flight.polled();
        if before.is_empty() {
            return;
        }
        tokio::time::sleep(MOMENT).await;
        let now = self.in_flight.polled();
        let same = before
            .iter()
            .filter(|(place, since)| now.get(place) == Some(since));
        let places: Vec<usize> = same.map(|(place, _)| *place).collect();
        let handlers = self.in_flight.named(&places);
        if !handlers.is_nothing() {
            leave(&handlers, self.exit);
        }
    }
}

/// Reports handlers that do not return, and exits if there is an exit code.
fn leave(handlers: &NotBack, exit: Option<i32>) {
    tracing::error!(
        %handlers,
        exit,
        "handlers abandoned: they block their threads after the drain; their events are redelivered"
    );
    if let Some(code) = exit {
        std::process::exit(code);
    }
}

/// The state of the thread.
struct Look {
    in_flight: Arc<InFlight>,
    beats: Arc<AtomicU64>,
    drain: Duration,
    exit: Option<i32>,
    /// The beats at the last check, and how many checks in a row found no new one.
    seen: u64,
    silent: u32,
    /// For how many checks each call has been inside the same poll.
    polls: HashMap<(usize, u64), u32>,
    blocks: Lasting,
    is_blocked: bool,
    signals: Option<(Signal, Signal)>,
    /// By when the worker should have ended, had it received the signal.
    told: Option<Instant>,
}

impl Look {
    fn run(mut self, stages: watch::Receiver<Stage>) {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        match runtime.enable_all().build() {
            Ok(runtime) => runtime.block_on(self.look(stages)),
            Err(error) => {
                tracing::error!(%error, "watch runtime not started: blocked handlers are not detected");
            }
        }
    }

    /// Checks until the worker has ended.
    async fn look(&mut self, mut stages: watch::Receiver<Stage>) {
        let mut next = Instant::now() + LOOK;
        loop {
            self.listen();
            let stage = *stages.borrow_and_update();
            let by = self.by(stage);
            tokio::select! {
                changed = stages.changed() => if changed.is_err() {
                    return;
                },
                () = heard(&mut self.signals) => self.hear(),
                () = tokio::time::sleep_until(by.unwrap_or(next).min(next)) => {
                    if by.is_some_and(|by| by <= Instant::now()) {
                        return self.record_dead_letter(stage);
                    }
                    next = Instant::now() + LOOK;
                    self.look_once();
                }
            }
        }
    }

    fn by(&self, stage: Stage) -> Option<Instant> {
        match stage {
            Stage::Running => self.told,
            Stage::Drains(by) | Stage::Stops(by) => Some(by),
        }
    }

    /// Registering for a signal changes what it does to the process, so the thread does so only after the process has.
    fn listen(&mut self) {
        if self.signals.is_some() || !LISTENS.load(Relaxed) {
            return;
        }
        let both = [SignalKind::terminate(), SignalKind::interrupt()].map(signal);
        if let [Ok(terminate), Ok(interrupt)] = both {
            self.signals = Some((terminate, interrupt));
        }
    }

    /// The worker drains within a moment, unless its runtime is blocked. A second signal ends the wait.
    fn hear(&mut self) {
        let now = Instant::now();
        let wait = self.drain + HALT + GRACE;
        self.told = match self.told {
            Some(told) if self.silent >= LOOKS => Some(told.min(now)),
            Some(told) => Some(told),
            None => Some(now + wait),
        };
    }

    fn look_once(&mut self) {
        let beats = self.beats.load(Relaxed);
        let has_beaten = std::mem::replace(&mut self.seen, beats) != beats;
        self.silent = if has_beaten { 0 } else { self.silent + 1 };
        let now = self.in_flight.polled().into_iter();
        let now = now.map(|poll| (poll, self.polls.get(&poll).map_or(0, |looks| looks + 1)));
        self.polls = now.collect();
        let blocked = self.blocked();
        let is_silent = self.silent >= LOOKS;
        match (is_silent, blocked.is_nothing()) {
            (false, true) => self.runs(),
            (true, _) => {
                self.is_blocked = true;
                let handlers = match blocked.is_nothing() {
                    true => self.in_flight.all(),
                    false => blocked,
                };
                let silent_s = self.silent;
                if let Some(unsaid) = self.blocks.again_as("all", std::time::Instant::now()) {
                    tracing::error!(
                        silent_s,
                        %handlers,
                        unsaid,
                        "runtime blocked: handlers block all of its threads; use `tokio::task::spawn_blocking` for \
                         blocking work"
                    );
                }
            }
            (false, false) => {
                self.is_blocked = true;
                if let Some(unsaid) = self.blocks.again_as("some", std::time::Instant::now()) {
                    tracing::warn!(
                        handlers = %blocked,
                        unsaid,
                        "handlers blocking: use `tokio::task::spawn_blocking` for work that does not await"
                    );
                }
            }
        }
    }

    fn runs(&mut self) {
        if std::mem::take(&mut self.is_blocked) && self.blocks.is_over() {
            tracing::info!("handlers unblocked");
        }
    }

    /// The handlers that have been inside one poll for long.
    fn blocked(&self) -> NotBack {
        let long = self.polls.iter().filter(|(_, looks)| **looks >= LOOKS);
        let places: Vec<usize> = long.map(|((place, _), _)| *place).collect();
        self.in_flight.named(&places)
    }

    /// Reports work that should have ended, by the clock of this thread.
    fn record_dead_letter(&self, stage: Stage) {
        match stage {
            Stage::Running | Stage::Drains(_) => {
                let inside = self.in_flight.polled();
                let places: Vec<usize> = inside.into_keys().collect();
                let handlers = self.in_flight.named(&places);
                match handlers.is_nothing() {
                    true => leave(&self.in_flight.all(), self.exit),
                    false => leave(&handlers, self.exit),
                }
            }
            Stage::Stops(_) => {
                tracing::error!(
                    exit = self.exit,
                    "background tasks stuck: the runtime does not run them"
                );
                if let Some(code) = self.exit {
                    std::process::exit(code);
                }
            }
        }
    }
}

/// Completes on a signal; never when the thread does not listen.
async fn heard(signals: &mut Option<(Signal, Signal)>) {
    match signals {
        Some((terminate, interrupt)) => {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        }
        None => std::future::pending().await,
    }
}
