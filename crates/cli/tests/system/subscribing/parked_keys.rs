//! A key whose event failed for good is parked: its events become dead letters, and are redriven in order.

use std::{
    collections::BTreeSet,
    process::Output,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    time::{Duration, Instant},
};

use tidings::{
    BatchResult, Batching, Context, EventPublisher, EventSubscriber, Failure, Worker,
    handler::{BatchContext, Item, OnExhausted},
    worker::WorkerError,
};
use tokio::{process::Command, task::JoinHandle};

use crate::support::{Counted, Noted, Running, World, eventually, within};

type Sqlite = sqlx::Sqlite;

#[derive(Clone, Default)]
struct State {
    noted: Noted,
    /// The counts of the key `k` that are rejected.
    bad: Arc<Mutex<BTreeSet<i64>>>,
}

async fn handle(event: Counted, cx: Context<State>) -> Result<(), Failure> {
    let State { noted, bad } = cx.state();
    tokio::time::sleep(Duration::from_millis(1)).await; // real time: the handler's work
    if event.key == "k" && bad.lock().unwrap().contains(&event.count) {
        return Err(Failure::reject("bad"));
    }
    noted.note(format!("{} {}", event.key, event.count));
    Ok(())
}

async fn handle_many(
    events: Vec<Item<Counted>>,
    cx: BatchContext<State>,
) -> Result<BatchResult, Failure> {
    let State { noted, bad } = cx.state();
    let mut verdicts = BatchResult::done();
    for event in &events {
        let Counted { key, count } = &**event;
        match key == "k" && bad.lock().unwrap().contains(count) {
            true => verdicts.fail(event.id(), Failure::reject("bad")),
            false => noted.note(format!("{key} {count}")),
        }
    }
    Ok(verdicts)
}

fn subscriber() -> EventSubscriber<State> {
    EventSubscriber::durable("counter")
        .on(handle)
        .concurrency(4)
        .on_exhausted(OnExhausted::ParkKey)
}

fn subscriber_of_batches() -> EventSubscriber<State> {
    EventSubscriber::durable("counter")
        .on_batch(Batching::of(4), handle_many)
        .concurrency(4)
        .on_exhausted(OnExhausted::ParkKey)
}

struct Parking {
    world: Arc<World<Sqlite>>,
    state: State,
    subscriber: fn() -> EventSubscriber<State>,
}

/// Publishes the counts of the key one after another.
struct Traffic {
    stop: Arc<AtomicBool>,
    task: JoinHandle<()>,
    last: Arc<AtomicI64>,
}

impl Parking {
    async fn new(bad: &[i64]) -> Self {
        let state = State::default();
        state.bad.lock().unwrap().extend(bad);
        Self {
            world: Arc::new(World::start().await),
            state,
            subscriber,
        }
    }

    fn run(&self) -> Running<WorkerError> {
        let worker = Worker::new(self.world.bus.clone(), self.state.clone());
        self.world
            .run(worker.subscribe((self.subscriber)().ordered_by_key()))
    }

    fn heal(&self) {
        self.state.bad.lock().unwrap().clear();
    }

    async fn publish(&self, key: &str, counts: std::ops::RangeInclusive<i64>) {
        let publisher = EventPublisher::new(&self.world.bus);
        for count in counts {
            let key = key.to_owned();
            publisher.publish(&Counted { key, count }).await.unwrap();
        }
    }

    fn traffic(&self, from: i64) -> Traffic {
        // A moderate pace: a redrive must be faster, on a busy machine too.
        self.traffic_every(Duration::from_millis(40), from)
    }

    fn traffic_every(&self, pause: Duration, from: i64) -> Traffic {
        let (stop, last) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicI64::new(from - 1)),
        );
        let (stopped, reached) = (Arc::clone(&stop), Arc::clone(&last));
        let publisher = EventPublisher::new(&self.world.bus);
        let task = tokio::spawn(async move {
            for count in from.. {
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
                let key = "k".to_owned();
                publisher.publish(&Counted { key, count }).await.unwrap();
                reached.store(count, Ordering::SeqCst);
                // real time: the pace of the producer
                tokio::time::sleep(pause).await;
            }
        });
        Traffic { stop, task, last }
    }

    /// The counts of the key that were handled.
    fn handled(&self) -> Vec<i64> {
        let notes = self.state.noted.all();
        let of_key = notes.iter().filter_map(|note| note.strip_prefix("k "));
        of_key.map(|count| count.parse().unwrap()).collect()
    }

    /// The counts of the dead letters, with their causes.
    async fn letters(&self) -> Vec<(i64, String)> {
        let letters = self.world.dead_letters().await.0.into_iter();
        let letters = letters.map(|letter| {
            let cause = letter.header("tidings-dead-cause").to_owned();
            (letter.json()["count"].as_i64().unwrap(), cause)
        });
        letters.collect()
    }

    async fn until_letters(&self, count: usize) {
        eventually("the dead letters", || async {
            self.letters().await.len() == count
        })
        .await;
    }

    async fn until_handled(&self, count: i64) {
        eventually("the last one is handled", || async {
            self.handled().contains(&count)
        })
        .await;
    }

    fn program(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidings"));
        command
            .arg("dead-letters")
            .args(arguments)
            .env_clear()
            .current_dir(std::env::temp_dir())
            .env("TIDINGS_NATS_URL", self.world.nats.url())
            .kill_on_drop(true);
        command
    }

    async fn dead_letters(&self, arguments: &[&str]) -> Output {
        let mut program = self.program(arguments);
        within("its end", program.output()).await.unwrap()
    }

    async fn redrive(&self) -> Output {
        self.redrive_at("1000/s").await
    }

    async fn redrive_at(&self, rate: &str) -> Output {
        let key = ["redrive", "--subscriber", "counter", "--key", "k"];
        self.dead_letters(&[&key[..], &["--rate", rate]].concat())
            .await
    }
}

impl Traffic {
    async fn stop(self) -> i64 {
        self.stop.store(true, Ordering::SeqCst);
        self.task.await.unwrap();
        self.last.load(Ordering::SeqCst)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_parked_and_redriven_in_order_under_load() {
    is_parked_and_comes_back_in_order(Parking::new(&[3]).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_of_a_batch_handler_is_parked_and_redriven() {
    let parking = Parking {
        subscriber: subscriber_of_batches,
        ..Parking::new(&[3]).await
    };
    is_parked_and_comes_back_in_order(parking).await;
}

async fn is_parked_and_comes_back_in_order(parking: Parking) {
    let worker = parking.run();
    for count in 1..=10 {
        parking.publish("k", count..=count).await;
        parking.publish("l", count..=count).await;
    }
    parking.until_letters(8).await;
    parking.state.noted.reach(12).await;
    assert_eq!(parking.handled(), [1, 2]);
    let mut wanted = vec![(3, "rejected".to_owned())];
    wanted.extend((4..=10).map(|count| (count, "parked-key".to_owned())));
    assert_eq!(parking.letters().await, wanted);
    let listed = parking
        .dead_letters(&["list", "--cause", "parked-key"])
        .await;
    assert!(String::from_utf8_lossy(&listed.stdout).contains("its key is parked since EVENTS 5"));

    parking.heal();
    let traffic = parking.traffic(11);
    let redriven = parking.redrive().await;
    assert!(redriven.status.success(), "{redriven:?}");
    let last = traffic.stop().await + 5;
    parking.publish("k", last - 4..=last).await;
    parking.until_handled(last).await;
    assert_eq!(parking.handled(), (1..=last).collect::<Vec<_>>());
    assert_eq!(parking.letters().await, []);
    worker.stop().await.unwrap();
}

/// The rate applies to the dead letters at the start; if it applied to later ones, a key whose events arrive faster
/// would stay parked.
#[tokio::test(flavor = "multi_thread")]
async fn a_redrive_ends_when_events_of_its_key_outpace_its_rate() {
    let parking = Parking::new(&[3]).await;
    let worker = parking.run();
    parking.publish("k", 1..=10).await;
    parking.until_letters(8).await;
    parking.heal();
    let traffic = parking.traffic(11);
    let began = Instant::now();
    let redriven = parking.redrive_at("4/s").await;
    assert!(redriven.status.success(), "{redriven:?}");
    // Eight dead letters, 250 ms apart.
    assert!(began.elapsed() > Duration::from_millis(1_600));
    let said = String::from_utf8_lossy(&redriven.stderr).into_owned();
    assert!(said.contains("newer ones are left"), "{said}");
    let last = traffic.stop().await;
    parking.until_handled(last).await;
    assert_eq!(parking.handled(), (1..=last).collect::<Vec<_>>());
    assert_eq!(parking.letters().await, []);
    worker.stop().await.unwrap();
}

/// The redrive cannot be as fast as the events arrive: the subscriber defers them.
#[tokio::test(flavor = "multi_thread")]
async fn a_redrive_ends_at_any_rate_of_new_events_of_its_key() {
    let parking = Parking::new(&[3]).await;
    let worker = parking.run();
    parking.publish("k", 1..=10).await;
    parking.until_letters(8).await;
    parking.heal();
    let traffic = parking.traffic_every(Duration::from_millis(1), 11);
    let redriven = parking.redrive_at("10/s").await;
    assert!(redriven.status.success(), "{redriven:?}");
    let last = traffic.stop().await;
    parking.until_handled(last).await;
    assert_eq!(parking.handled(), (1..=last).collect::<Vec<_>>());
    assert_eq!(parking.letters().await, []);
    worker.stop().await.unwrap();
}

/// The events that are deferred during the redrive become dead letters again, in order.
#[tokio::test(flavor = "multi_thread")]
async fn a_redrive_that_dies_while_later_events_wait_is_continued() {
    let parking = Parking::new(&[3]).await;
    let worker = parking.run();
    parking.publish("k", 1..=10).await;
    parking.until_letters(8).await;
    parking.heal();
    let slowly = ["redrive", "--subscriber", "counter", "--rate", "10/s"];
    let mut redrive = parking.program(&slowly).spawn().unwrap();
    parking.until_handled(3).await;
    let traffic = parking.traffic_every(Duration::from_millis(1), 11);
    // The redrive has reached events that were published after its start.
    parking.until_handled(11).await;
    redrive.kill().await.unwrap();
    let last = traffic.stop().await;
    // An event may be both: the redrive was killed after publishing it, before deleting its dead letter.
    eventually("nothing waits any more", || async {
        let letters = parking.letters().await.into_iter().map(|(count, _)| count);
        let mut known: BTreeSet<_> = letters.collect();
        known.extend(parking.handled());
        known.len() == usize::try_from(last).unwrap()
    })
    .await;
    assert!(!parking.letters().await.is_empty());
    let redriven = parking.redrive().await;
    assert!(redriven.status.success(), "{redriven:?}");
    parking.until_handled(last).await;
    assert_eq!(parking.handled(), (1..=last).collect::<Vec<_>>());
    worker.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_fails_again_parks_its_key_again() {
    let parking = Parking::new(&[3, 6]).await;
    let worker = parking.run();
    parking.publish("k", 1..=10).await;
    parking.until_letters(8).await;
    parking.state.bad.lock().unwrap().remove(&3);
    let traffic = parking.traffic(11);
    let redriven = parking.redrive().await;
    assert_eq!(redriven.status.code(), Some(1), "{redriven:?}");
    let said = String::from_utf8_lossy(&redriven.stderr).into_owned();
    assert!(
        said.contains("keeps the key k parked: one of its events was dead-lettered again"),
        "{said}"
    );
    let last = traffic.stop().await;
    let left = usize::try_from(last).unwrap() - 5;
    parking.until_letters(left).await;
    assert_eq!(parking.handled(), [1, 2, 3, 4, 5]);

    parking.heal();
    let redriven = parking.redrive().await;
    assert!(redriven.status.success(), "{redriven:?}");
    parking.until_handled(last).await;
    assert_eq!(parking.handled(), (1..=last).collect::<Vec<_>>());
    worker.stop().await.unwrap();
}

/// No event is handled before an earlier one; after a crash, some may be handled again.
fn assert_in_order(handled: &[i64], last: i64) {
    let mut highest = 0;
    for count in handled {
        assert!(*count <= highest + 1, "{count} overtook: {handled:?}");
        highest = highest.max(*count);
    }
    assert_eq!(highest, last);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_takeover_keeps_a_parked_key_and_continues_its_redrive() {
    let parking = Parking::new(&[3]).await;
    let worker = parking.run();
    parking.publish("k", 1..=40).await;
    parking.until_letters(38).await;
    worker.kill().await;
    let worker = parking.run();
    parking.publish("k", 41..=50).await;
    parking.until_letters(48).await;
    assert_eq!(parking.handled(), [1, 2]);

    parking.heal();
    let slowly = ["redrive", "--subscriber", "counter", "--rate", "50/s"];
    let mut redrive = parking.program(&slowly).spawn().unwrap();
    parking.until_handled(10).await;
    redrive.kill().await.unwrap();
    worker.kill().await;
    parking.publish("k", 51..=60).await;
    let worker = parking.run();
    let redriven = parking.redrive().await;
    assert!(redriven.status.success(), "{redriven:?}");
    parking.publish("k", 61..=70).await;
    parking.until_handled(70).await;
    assert_in_order(&parking.handled(), 70);
    assert_eq!(parking.letters().await, []);
    worker.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_without_dead_letters_is_not_parked() {
    let parking = Parking::new(&[2]).await;
    let worker = parking.run();
    parking.publish("k", 1..=4).await;
    parking.until_letters(3).await;
    let refused = parking.dead_letters(&["redrive", "2"]).await;
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("not the key's first dead letter"));
    parking.heal();
    let first = parking.dead_letters(&["redrive", "1"]).await;
    assert!(first.status.success(), "{first:?}");
    parking.until_handled(2).await;
    parking.publish("k", 5..=5).await;
    parking.until_letters(3).await;

    let discarded = parking
        .dead_letters(&["discard", "--subscriber", "counter", "--key", "k", "--yes"])
        .await;
    assert!(discarded.status.success(), "{discarded:?}");
    parking.publish("k", 6..=6).await;
    parking.until_handled(6).await;
    assert_eq!(parking.handled(), [1, 2, 6]);
    worker.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn only_ordered_subscribers_park_keys() {
    let parking = Parking::new(&[]).await;
    let worker = Worker::new(parking.world.bus.clone(), State::default()).subscribe(subscriber());
    let refused = worker.run(std::future::pending()).await.unwrap_err();
    assert!(refused.to_string().contains("add `.ordered_by_key()`"));
}
