//! Settings of a subscriber that change while its worker runs.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use tidings::{
    CircuitBreaker, Context, EventPublisher, EventSubscriber, Failure, Rate, Retry, Worker,
    subscribers::{Activity, Instance, Subscribers},
    worker::{AdjustError, Adjustment, WorkerHandle},
};
use tokio::sync::Semaphore;

use crate::support::{Noted, User, World, eventually, log};

type Sqlite = sqlx::Sqlite;

/// Handlers that wait until they may end.
struct Gate {
    running: AtomicUsize,
    most: AtomicUsize,
    permits: Semaphore,
    is_down: AtomicBool,
    noted: Noted,
}

impl Gate {
    fn new(permits: usize) -> Arc<Self> {
        Arc::new(Self {
            running: AtomicUsize::new(0),
            most: AtomicUsize::new(0),
            permits: Semaphore::new(permits),
            is_down: AtomicBool::new(false),
            noted: Noted::default(),
        })
    }

    async fn run(&self, attempts: usize) {
        let what = format!("{attempts} run");
        eventually(&what, || async { self.running.load(SeqCst) == attempts }).await;
    }
}

async fn pass(user: User, cx: Context<Arc<Gate>>) -> Result<(), Failure> {
    let gate = cx.state();
    if gate.is_down.load(SeqCst) {
        return Err(Failure::retry("down"));
    }
    let running = gate.running.fetch_add(1, SeqCst) + 1;
    gate.most.fetch_max(running, SeqCst);
    let permit = gate.permits.acquire().await;
    permit.map_err(Failure::retry)?.forget();
    gate.running.fetch_sub(1, SeqCst);
    gate.noted.note(user.id);
    Ok(())
}

async fn publish(world: &World<Sqlite>, ids: std::ops::Range<usize>) {
    let publisher = EventPublisher::new(&world.bus);
    for id in ids {
        publisher
            .publish(&User::new(&id.to_string()))
            .await
            .unwrap();
    }
}

/// A handle of a worker that runs, once its subscriber is active.
async fn is_active(world: &World<Sqlite>, name: &str) {
    eventually("an active instance", || async {
        let found = Subscribers::new(&world.bus).find(name).await;
        found.is_ok_and(|state| {
            let mut instances = state.instances.iter();
            instances.any(|it| it.activity == Activity::Active)
        })
    })
    .await;
}

async fn instance(world: &World<Sqlite>, name: &str) -> Instance {
    let state = Subscribers::new(&world.bus).find(name).await.unwrap();
    state.instances[0].clone()
}

fn worker(
    world: &World<Sqlite>,
    gate: &Arc<Gate>,
    subscriber: EventSubscriber<Arc<Gate>>,
) -> (Worker<Arc<Gate>>, WorkerHandle) {
    let worker = Worker::new(world.bus.clone(), Arc::clone(gate)).subscribe(subscriber);
    let handle = worker.handle();
    (worker, handle)
}

async fn its_concurrency_changes(subscriber: EventSubscriber<Arc<Gate>>) {
    log::listen();
    let name = subscriber.name().to_owned();
    let world = World::<Sqlite>::start().await;
    let gate = Gate::new(0);
    let (worker, handle) = worker(&world, &gate, subscriber.on(pass).concurrency(2));
    let running = world.run(worker);
    publish(&world, 0..6).await;
    gate.run(2).await;

    let to = |concurrency| Adjustment::subscriber(&name).concurrency(concurrency);
    handle.adjust(to(6)).unwrap();
    gate.run(6).await;
    assert_eq!(instance(&world, &name).await.concurrency, 6);

    handle.adjust(to(1)).unwrap();
    gate.run(6).await;
    publish(&world, 6..12).await;
    gate.permits.add_permits(6);
    gate.noted.reach(6).await;
    gate.run(1).await;
    gate.most.store(0, SeqCst);
    for handled in 7..=12 {
        gate.run(1).await;
        gate.permits.add_permits(1);
        gate.noted.reach(handled).await;
    }
    assert!(gate.most.load(SeqCst) <= 1);
    let state = Subscribers::new(&world.bus).find(&name).await.unwrap();
    assert!(state.instances[0].issue.is_none(), "{state:?}");
    running.stop().await.unwrap();

    let said = log::said("setting adjusted");
    let said = said
        .iter()
        .filter(|line| line.contains(&format!("subscriber=\"{name}\"")));
    let said: Vec<&String> = said.collect();
    assert_eq!(said.len(), 2, "{said:?}");
    let parts = ["setting=\"concurrency\"", "old=\"2\"", "new=\"6\""];
    assert!(parts.iter().all(|part| said[0].contains(part)), "{said:?}");
    assert_eq!(gate.noted.len(), 12, "each once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrency_changes_while_attempts_run() {
    its_concurrency_changes(EventSubscriber::durable("wide")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrency_changes_with_order_by_key() {
    its_concurrency_changes(EventSubscriber::durable("ordered-wide").ordered_by_key()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rate_limit_that_is_removed_ends_the_wait() {
    let world = World::<Sqlite>::start().await;
    let gate = Gate::new(100);
    let slow = EventSubscriber::durable("slow").on(pass);
    let slow = slow.rate_limit(Rate::per_minute(1));
    let (worker, handle) = worker(&world, &gate, slow);
    let running = world.run(worker);
    publish(&world, 0..5).await;
    gate.noted.reach(1).await;
    is_active(&world, "slow").await;
    assert_eq!(gate.noted.len(), 1, "the others wait for a minute");

    handle
        .adjust(Adjustment::subscriber("slow").no_rate_limit())
        .unwrap();
    gate.noted.reach(5).await;
    assert_eq!(instance(&world, "slow").await.rate, None);

    let limit = Adjustment::subscriber("slow").rate_limit(Rate::per_minute(1));
    handle.adjust(limit).unwrap();
    let shown = instance(&world, "slow").await;
    assert_eq!(shown.rate.as_deref(), Some("1 per minute"));
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_circuit_that_is_switched_off_closes() {
    let world = World::<Sqlite>::start().await;
    let gate = Gate::new(100);
    gate.is_down.store(true, SeqCst);
    let hour = Duration::from_secs(3600);
    let breaker = CircuitBreaker::default().within(Duration::from_secs(30), 3);
    let broken = EventSubscriber::durable("broken")
        .on(pass)
        .retry(Retry::exponential(
            Duration::from_millis(20),
            Duration::from_millis(20),
        ))
        .circuit_breaker(breaker.open_for(hour, hour));
    let (worker, handle) = worker(&world, &gate, broken);
    let running = world.run(worker);
    is_active(&world, "broken").await;
    publish(&world, 0..5).await;
    eventually("the circuit is open", || async {
        instance(&world, "broken").await.circuit.to_string() == "open"
    })
    .await;
    gate.is_down.store(false, SeqCst);

    let off = Adjustment::subscriber("broken").circuit_breaker(CircuitBreaker::off());
    handle.adjust(off).unwrap();
    gate.noted.reach(5).await;
    let shown = instance(&world, "broken").await;
    assert_eq!(shown.circuit_breaker, "off");
    assert_eq!(shown.circuit.to_string(), "closed");
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_adjustment_that_is_refused_changes_nothing() {
    let world = World::<Sqlite>::start().await;
    let gate = Gate::new(100);
    let (worker, handle) = worker(&world, &gate, EventSubscriber::durable("kept").on(pass));
    let to = Adjustment::subscriber("kept").concurrency(4);
    let before = handle.adjust(to.clone());
    assert_eq!(before, Err(AdjustError::NoSubscriber("kept".to_owned())));
    let running = world.run(worker);
    is_active(&world, "kept").await;

    let zero = to.rate_limit(Rate::per_second(1)).concurrency(0);
    let refused = handle.adjust(zero).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "concurrency cannot be 0: write a whole number from 1 to 10000"
    );
    let other = handle.adjust(Adjustment::subscriber("other").concurrency(4));
    assert_eq!(other, Err(AdjustError::NoSubscriber("other".to_owned())));
    let relay = handle.adjust(Adjustment::relay().batch(10));
    assert_eq!(relay, Err(AdjustError::NoRelay(None)));
    let shown = instance(&world, "kept").await;
    assert_eq!((shown.concurrency, shown.rate), (16, None));
    running.stop().await.unwrap();
}
