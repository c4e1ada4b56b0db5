//! One fault on the consuming side: services write, a relay publishes, workers handle, a fault happens, and in the end
//! the effects are compared with the committed events.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use async_nats::jetstream;
use serde_json::json;
use tokio::task::JoinHandle;

use crate::{
    effects::{Effect, Effects, verdict},
    instance::{Instance, Orders},
    process::Process,
    support::{World, eventually},
    table,
    trial::Trial,
    worker::{DURABLE, Kind},
};

/// How long it may take until the last event is handled: the deliveries in flight in a worker that dies are
/// redelivered after 30 s.
const SETTLES: Duration = Duration::from_secs(60);

pub struct Handling<DB: Effects> {
    pub trial: Trial<DB>,
    kind: Kind,
    pub instances: Vec<Instance>,
    /// Deleted with the trial.
    logs: Logs,
    _relay: Process,
    slowest: Duration,
    slowing: Slowing,
    /// Events that have effects although no service committed them.
    besides: Vec<String>,
}

/// The number of events that may wait for the workers.
const MOST_WAITING: u64 = 300;

/// Makes the services wait while too many events wait for the workers. On a busy machine, services write faster than
/// an ordered subscriber handles, and an ever longer queue would never end.
struct Slowing {
    most: Arc<AtomicU64>,
    looking: JoinHandle<()>,
}

impl Slowing {
    fn begin(nats: String, wait: Arc<AtomicBool>) -> Self {
        let most = Arc::new(AtomicU64::new(0));
        let looking = tokio::spawn(look(nats, wait, Arc::clone(&most)));
        Self { most, looking }
    }
}

impl Drop for Slowing {
    fn drop(&mut self) {
        self.looking.abort();
    }
}

/// When the server does not report how many events wait, the services continue.
async fn look(nats: String, wait: Arc<AtomicBool>, most: Arc<AtomicU64>) {
    let client = async_nats::connect(nats).await.expect("a connection");
    let mut jetstream = jetstream::new(client);
    jetstream.set_timeout(Duration::from_secs(1));
    let subject = format!("CONSUMER.INFO.EVENTS.{DURABLE}");
    loop {
        let asked = jetstream.request(subject.clone(), &json!({})).await;
        let info: serde_json::Value = asked.unwrap_or_default();
        let of = |count: &str| info[count].as_u64().unwrap_or_default();
        let waiting = of("num_pending") + of("num_ack_pending");
        most.fetch_max(waiting, Relaxed);
        wait.store(waiting > MOST_WAITING, Relaxed);
        // real time: the workers are other processes
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// A folder of logs, one for each instance.
struct Logs(PathBuf);

impl Drop for Logs {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }
}

impl<DB: Effects> Handling<DB> {
    /// Services and a relay, without workers.
    pub async fn begin(fault: &'static str, world: World<DB>, kind: Kind) -> Self {
        DB::execute(world.outbox.pool(), DB::TABLE).await;
        let trial = Trial::begin(fault, world).await;
        let folder = std::env::temp_dir().join(format!("tidings-chaos-{}", uuid::Uuid::now_v7()));
        std::fs::create_dir(&folder).expect("a folder");
        Self {
            _relay: trial.relay(),
            slowing: Slowing::begin(trial.world.nats.url(), Arc::clone(&trial.wait)),
            trial,
            kind,
            instances: Vec::new(),
            logs: Logs(folder),
            slowest: Duration::ZERO,
            besides: Vec::new(),
        }
    }

    /// Starts this many workers on one durable, and waits until they handle events.
    pub async fn with(fault: &'static str, world: World<DB>, kind: Kind, instances: usize) -> Self {
        let mut handling = Self::begin(fault, world, kind).await;
        for _ in 0..instances {
            let nats = handling.trial.world.nats.url();
            handling.add(nats, handling.trial.database_url());
        }
        handling.flows().await;
        handling
    }

    /// Starts one more worker, which reaches its servers at these addresses.
    pub fn add(&mut self, nats: String, database: String) {
        let number = self.instances.len();
        let log = self.logs.0.join(format!("instance-{number}.log"));
        let kind = self.kind;
        let orders = Orders {
            kind,
            nats,
            database,
            number,
            log,
        };
        self.instances.push(Instance::start(orders));
    }

    pub async fn effects(&self) -> Vec<Effect> {
        DB::effects(self.trial.world.outbox.pool()).await
    }

    /// The instance that had the last effect.
    pub async fn active(&self) -> usize {
        let effects = self.effects().await;
        let last = effects.last().expect("it has begun").instance;
        usize::try_from(last).expect("a number")
    }

    /// Waits until an event that is committed from now on is handled.
    pub async fn flows(&self) {
        let id = self.trial.marker().await;
        eventually("events are handled", || async {
            let written = DB::written(self.trial.world.outbox.pool(), &id).await;
            written.is_some_and(|(_, of_it)| of_it > 0)
        })
        .await;
    }

    async fn dead(&self) -> Vec<String> {
        self.trial.world.dead_letters().await.ids()
    }

    /// The fault is over: measures how long it takes until events are handled again. The longest time counts.
    pub async fn recovers(&mut self) -> Duration {
        let over = Instant::now();
        self.flows().await;
        let recovered = over.elapsed();
        self.took(recovered);
        recovered
    }

    /// Notes how long a recovery took.
    pub fn took(&mut self, recovered: Duration) {
        self.slowest = self.slowest.max(recovered);
    }

    /// Expects the effects of these events, too.
    pub fn expect_besides(&mut self, events: impl IntoIterator<Item = String>) {
        self.besides.extend(events);
    }

    /// Waits until the handlers have had a number of further effects.
    pub async fn goes_on(&self) {
        let more = if table::is_long() { 200 } else { 40 };
        let pool = self.trial.world.outbox.pool();
        let before = std::cell::Cell::new(None);
        eventually("handlers go on", || async {
            let now = DB::written(pool, "").await.map(|(all, _)| all);
            before.set(before.get().or(now));
            now.zip(before.get())
                .is_some_and(|(now, before)| now >= before + more)
        })
        .await;
    }

    /// Makes the server redeliver to a durable everything above the ack floor, acknowledged or not: the short form
    /// does not wait until the server redelivers by itself.
    pub async fn hurry(&self, durable: &str) {
        if table::is_long() || !matches!(self.kind, Kind::Once | Kind::Plain) {
            return;
        }
        let client = async_nats::connect(self.trial.world.nats.url())
            .await
            .unwrap();
        let jetstream = jetstream::new(client);
        let reset = format!("CONSUMER.RESET.EVENTS.{durable}");
        let _: serde_json::Value = jetstream.request(reset, &json!({})).await.unwrap();
    }

    /// Stops the services, waits until everything is handled, and judges the effects.
    pub async fn judge(mut self) {
        self.goes_on().await;
        self.trial.still().await;
        self.hurry(DURABLE).await;
        let mut noted = DB::noted(self.trial.world.outbox.pool()).await;
        noted.append(&mut self.besides);
        let began = Instant::now();
        let mut found;
        loop {
            // Where no handler fails, a dead letter is a loss.
            let dead = match self.kind {
                Kind::Failing | Kind::Random => self.dead().await,
                Kind::Once | Kind::Ordered | Kind::Plain => Vec::new(),
            };
            found = verdict(noted.clone(), &self.effects().await, &dead);
            if found.lost == 0 || began.elapsed() > SETTLES {
                break;
            }
            // real time: the workers are other processes
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        if self.kind != Kind::Ordered {
            found.inverted = 0;
            table::row_without_order(self.trial.fault, DB::STORE, found, self.slowest);
        } else {
            table::row(self.trial.fault, DB::STORE, found, self.slowest);
        }
        self.tell(began.elapsed()).await;
        let logs = self.logs.0.display();
        if self.kind == Kind::Plain {
            // Plain handlers may have an effect twice.
            found.duplicated = 0;
        }
        assert_eq!(found, found.flawless(), "logs: {logs}");
    }

    /// Prints what has no column in the table.
    async fn tell(&self, settled: Duration) {
        let mut absorbed = 0;
        for instance in &self.instances {
            let log = self
                .logs
                .0
                .join(format!("instance-{}.log", instance.number));
            let log = std::fs::read_to_string(log).unwrap_or_default();
            absorbed += log.matches("duplicate skipped").count();
        }
        let dead = self.dead().await.len();
        println!(
            "  absorbed by the inbox: {absorbed}; dead letters: {dead}; at most {} events waited; the last was handled \
             after {:.1} s",
            self.slowing.most.load(Relaxed),
            settled.as_secs_f64()
        );
    }
}
