//! P5, P7: a dead-lettered event has no effect, even if the server forgets its ack, or the worker dies in between.
//! Only a redrive handles it again.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use serde_json::json;
use tidings::{
    BatchResult, Batching, Bus, Context, Envelope, EventSubscriber, Failure, InboxTransaction,
    Retry, StreamSpec, Worker,
    dead_letters::{DeadLetterSelection, DeadLetters},
    handler::{BatchContext, Item, Outcome},
    testing::TestWorker,
};

use crate::{
    both,
    support::{Database, Noted, Proxy, Running, User, World, deliver, eventually, within},
};

const DURABLE: &str = "charges";
/// The stream of dead letters forgets ids after this time.
const WINDOW: Duration = Duration::from_millis(100);

/// A service whose bank declines all users except `ok-...`, until it accepts all.
#[derive(Clone, Default)]
struct App {
    called: Noted,
    accepts: Arc<AtomicBool>,
}

impl App {
    fn asks(&self, user: &User) -> Result<(), Failure> {
        self.called.note(&user.id);
        match self.accepts.load(SeqCst) || user.id.starts_with("ok") {
            true => Ok(()),
            false => Err(Failure::reject("declined")),
        }
    }
}

async fn charge<DB: Database>(
    user: User,
    mut tx: InboxTransaction<DB>,
    cx: Context<App>,
) -> Result<(), Failure> {
    DB::count_up(&mut tx, &user.id).await?;
    cx.state().asks(&user)
}

async fn charge_all<DB: Database>(
    users: Vec<Item<User>>,
    mut tx: InboxTransaction<DB>,
    cx: BatchContext<App>,
) -> Result<BatchResult, Failure> {
    let mut verdicts = BatchResult::done();
    for user in &users {
        match cx.state().asks(user) {
            Ok(()) => drop(DB::count_up(&mut tx, &user.id).await?),
            Err(failure) => verdicts.fail(user.id(), failure),
        }
    }
    Ok(verdicts)
}

#[derive(Clone, Copy)]
enum Of {
    One,
    Batches,
}

fn run<DB: Database>(
    world: &World<DB>,
    bus: &Bus,
    of: Of,
    app: &App,
) -> Running<tidings::worker::WorkerError> {
    let subscriber = EventSubscriber::durable(DURABLE);
    let subscriber = match of {
        Of::One => subscriber.on_transactional(&world.outbox, charge::<DB>),
        Of::Batches => {
            let batching = Batching::of(10).linger(Duration::from_millis(50));
            subscriber.on_batch_transactional(&world.outbox, batching, charge_all::<DB>)
        }
    };
    world.run(Worker::new(bus.clone(), app.clone()).subscribe(subscriber))
}

/// As after a server that was killed before it wrote the acks to disk.
async fn forget_the_answers<DB: Database>(world: &World<DB>) {
    let reset = format!("CONSUMER.RESET.EVENTS.{DURABLE}");
    let context = world.jetstream().await;
    let reset: serde_json::Value = context.request(reset, &json!({ "seq": 1 })).await.unwrap();
    assert_eq!(reset["reset_seq"], 1, "{reset}");
}

async fn is_idle<DB: Database>(world: &World<DB>, stream: &str) {
    let context = world.jetstream().await;
    eventually("all is answered", || async {
        let stream = context.get_stream(stream).await.unwrap();
        let Ok(info) = stream.consumer_info(DURABLE).await else {
            return false;
        };
        info.num_pending == 0 && info.num_ack_pending == 0 && info.delivered.stream_sequence > 0
    })
    .await;
}

async fn redrive_all<DB: Database>(world: &World<DB>) {
    let letters = DeadLetters::new(&world.bus);
    let redriver = letters.redriver().await.unwrap();
    let mut reader = letters.read(DeadLetterSelection::default()).await.unwrap();
    while let Some(letter) = reader.next().await.unwrap() {
        redriver.redrive(&letter).await.unwrap();
    }
}

/// The number of events that the inbox knows as dead-lettered.
async fn dead_lettered<DB: Database>(world: &World<DB>) -> i64 {
    let sql = format!(
        "select count(*) from {} where dead_letter is not null",
        DB::table("inbox")
    );
    DB::number(world.outbox.pool(), &sql).await
}

both!(
    a_redelivered_dead_lettered_event_has_no_effect,
    a_redelivered_dead_lettered_event_of_a_batch_has_no_effect,
    a_redrive_is_handled_despite_other_redeliveries,
    a_redrive_in_a_batch_is_handled_despite_redeliveries,
    a_dead_letter_stored_without_an_answer_is_not_stored_again,
    an_unstored_dead_letter_is_stored_by_the_next_worker,
    a_discarded_dead_letter_does_not_come_back,
    another_copy_of_a_dead_lettered_event_has_no_effect,
    without_the_database_no_event_is_dead_lettered,
);

async fn comes_again<DB: Database>(world: World<DB>, of: Of) {
    let app = App::default();
    let running = run(&world, &world.bus, of, &app);
    world.publish_users(["ada", "ok-bob", "eve"]).await;
    world.has_dead_letters(2).await;
    is_idle(&world, "EVENTS").await;
    running.stop().await.unwrap();
    app.accepts.store(true, SeqCst);
    for _ in 0..2 {
        forget_the_answers(&world).await;
        let running = run(&world, &world.bus, of, &app);
        is_idle(&world, "EVENTS").await;
        running.stop().await.unwrap();
    }
    assert_eq!(app.called.len(), 3, "{:?}", app.called.all());
    let counted = [world.counted("ada").await, world.counted("ok-bob").await];
    assert_eq!((counted, dead_lettered(&world).await), ([0, 1], 2));
    assert_eq!(world.dead_letters().await.len(), 2);
}

async fn a_redelivered_dead_lettered_event_has_no_effect<DB: Database>(world: World<DB>) {
    comes_again(world, Of::One).await;
}

async fn a_redelivered_dead_lettered_event_of_a_batch_has_no_effect<DB: Database>(
    world: World<DB>,
) {
    comes_again(world, Of::Batches).await;
}

async fn is_redriven<DB: Database>(world: World<DB>, of: Of) {
    let app = App::default();
    world.publish_users(["ada", "eve"]).await;
    for redrives in 0..=2 {
        if redrives > 0 {
            redrive_all(&world).await;
            forget_the_answers(&world).await;
        }
        let running = run(&world, &world.bus, of, &app);
        eventually("both are called", || async {
            app.called.len() == 2 * (redrives + 1)
        })
        .await;
        world.has_dead_letters(2).await;
        is_idle(&world, "EVENTS").await;
        is_idle(&world, if redrives > 0 { "RETRIES" } else { "EVENTS" }).await;
        running.stop().await.unwrap();
        assert_eq!(dead_lettered(&world).await, 2);
        for letter in &world.dead_letters().await.0 {
            let told = letter.header("tidings-redrives");
            assert_eq!(told.parse().unwrap_or(0), redrives);
        }
    }
    app.accepts.store(true, SeqCst);
    redrive_all(&world).await;
    for _ in 0..2 {
        forget_the_answers(&world).await;
        let running = run(&world, &world.bus, of, &app);
        eventually("both have their effect", || async {
            world.counted("ada").await + world.counted("eve").await == 2
        })
        .await;
        is_idle(&world, "EVENTS").await;
        running.stop().await.unwrap();
    }
    assert_eq!((app.called.len(), dead_lettered(&world).await), (8, 0));
    assert_eq!(world.remembered().await, 2);
    assert_eq!(world.dead_letters().await.len(), 0);
}

async fn a_redrive_is_handled_despite_other_redeliveries<DB: Database>(world: World<DB>) {
    is_redriven(world, Of::One).await;
}

async fn a_redrive_in_a_batch_is_handled_despite_redeliveries<DB: Database>(world: World<DB>) {
    is_redriven(world, Of::Batches).await;
}

async fn forgetful_letters<DB: Database>(world: &World<DB>) {
    let mut letters = StreamSpec::dead_letters();
    letters.duplicate_window = WINDOW;
    world.bus.apply_stream(&letters).await.unwrap();
}

/// A worker that stores a dead letter, receives no confirmation, and dies.
async fn stores_unheard<DB: Database>(world: &World<DB>, app: &App) {
    let proxy = Proxy::to(world.nats.port()).await;
    let url = format!("nats://127.0.0.1:{}", proxy.port);
    let bus = Bus::connect(url.as_str()).await.unwrap();
    let running = run(world, &bus, Of::One, app);
    let deaf = proxy.lose_answers_after("tidings-dead-cause");
    world.publish_users(["ada"]).await;
    drop(within("it is deaf", deaf).await);
    world.has_dead_letters(1).await;
    running.kill().await;
    // real time: until the server has forgotten the id of the dead letter
    tokio::time::sleep(WINDOW + Duration::from_millis(50)).await;
}

async fn a_dead_letter_stored_without_an_answer_is_not_stored_again<DB: Database>(
    world: World<DB>,
) {
    forgetful_letters(&world).await;
    let app = App::default();
    stores_unheard(&world, &app).await;
    app.accepts.store(true, SeqCst);
    forget_the_answers(&world).await;
    let running = run(&world, &world.bus, Of::One, &app);
    is_idle(&world, "EVENTS").await;
    running.stop().await.unwrap();
    assert_eq!((app.called.len(), world.counted("ada").await), (1, 0));
    assert_eq!(world.dead_letters().await.len(), 1);
}

async fn an_unstored_dead_letter_is_stored_by_the_next_worker<DB: Database>(world: World<DB>) {
    forgetful_letters(&world).await;
    let app = App::default();
    stores_unheard(&world, &app).await;
    let letters = world.jetstream().await.get_stream("DEAD_LETTERS").await;
    letters.unwrap().purge().await.unwrap();
    app.accepts.store(true, SeqCst);
    forget_the_answers(&world).await;
    let running = run(&world, &world.bus, Of::One, &app);
    world.has_dead_letters(1).await;
    is_idle(&world, "EVENTS").await;
    running.stop().await.unwrap();
    assert_eq!((app.called.len(), world.counted("ada").await), (1, 0));
    let letter = world.dead_letters().await.0.remove(0);
    let told = ["cause", "error", "attempts"]
        .map(|about| letter.header(&format!("tidings-dead-{about}")).to_owned());
    assert_eq!(told, ["rejected", "declined", "1"]);
    assert!(letter.header("tidings-dead-handler").contains("charge"));
}

async fn a_discarded_dead_letter_does_not_come_back<DB: Database>(world: World<DB>) {
    forgetful_letters(&world).await;
    let app = App::default();
    let running = run(&world, &world.bus, Of::One, &app);
    world.publish_users(["ada"]).await;
    world.has_dead_letters(1).await;
    is_idle(&world, "EVENTS").await;
    running.stop().await.unwrap();
    let letters = DeadLetters::new(&world.bus);
    let letter = letters.find(1).await.unwrap();
    assert!(letters.discard(&letter).await.unwrap());
    // real time: until the server has forgotten the id of the dead letter
    tokio::time::sleep(WINDOW + Duration::from_millis(50)).await;
    forget_the_answers(&world).await;
    let running = run(&world, &world.bus, Of::One, &app);
    is_idle(&world, "EVENTS").await;
    running.stop().await.unwrap();
    assert_eq!((app.called.len(), world.dead_letters().await.len()), (1, 0));
}

async fn another_copy_of_a_dead_lettered_event_has_no_effect<DB: Database>(world: World<DB>) {
    let app = App::default();
    let running = run(&world, &world.bus, Of::One, &app);
    let id = uuid::Uuid::now_v7();
    for copy in 0..3 {
        deliver(&world.nats.url(), id, "ada").await;
        world.has_dead_letters(1).await;
        is_idle(&world, "EVENTS").await;
        app.accepts.store(true, SeqCst);
        assert_eq!(app.called.len(), 1, "copy {copy}");
    }
    running.stop().await.unwrap();
    assert_eq!(world.counted("ada").await, 0);
}

/// The database becomes unavailable after the handler has rejected the event.
async fn without_the_database_no_event_is_dead_lettered<DB: Database>(world: World<DB>) {
    async fn close<DB: Database>(
        _: User,
        tx: InboxTransaction<DB>,
        cx: Context<tidings::Outbox<DB>>,
    ) -> Result<(), Failure> {
        drop(tx);
        drop(cx.state().pool().close());
        Err(Failure::reject("declined"))
    }
    let subscriber = EventSubscriber::durable(DURABLE)
        .on_transactional(&world.outbox, close::<DB>)
        .retry(Retry::never());
    let mut worker = TestWorker::new(subscriber, world.outbox.clone());
    let delivered = worker
        .deliver(Envelope::of(&User::new("ada")).unwrap())
        .await;
    let outcome = delivered.outcome.unwrap();
    assert!(matches!(outcome, Outcome::Defer(_)), "{outcome:?}");
    let error = delivered.error.unwrap();
    assert!(
        error.contains("cannot record that the event is dead-lettered"),
        "{error}"
    );
    assert_eq!(worker.waiting()[0].failures, 0);
    assert_eq!(worker.dead_letters().count(), 0);
}
