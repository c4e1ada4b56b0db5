//! P5: an event that waits for its retry when its stream is lost is delivered twice, by its retry and by the
//! republisher. A handler with an inbox has its effect once.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_nats::jetstream;
use tidings::{Context, EventSubscriber, Failure, InboxTransaction, Retry, Worker, verify::Verify};

use crate::{
    both,
    support::{Database, Noted, User, World, events_stream, eventually},
};

/// The state of the handlers.
#[derive(Clone, Default)]
struct App {
    noted: Noted,
    is_up: Arc<AtomicBool>,
}

impl App {
    fn attempt(&self, cx: &Context<App>) -> Result<(), Failure> {
        self.noted
            .note(format!("{} {}", cx.subscriber(), cx.attempt()));
        match self.is_up.load(Ordering::SeqCst) {
            true => Ok(()),
            false => Err(Failure::retry("down")),
        }
    }

    fn calls(&self, call: &str) -> usize {
        let all = self.noted.all();
        all.iter().filter(|noted| *noted == call).count()
    }
}

async fn plain(_: User, cx: Context<App>) -> Result<(), Failure> {
    cx.state().attempt(&cx)
}

async fn once<DB: Database>(
    user: User,
    mut tx: InboxTransaction<DB>,
    cx: Context<App>,
) -> Result<(), Failure> {
    DB::count_up(&mut tx, &user.id).await?;
    cx.state().attempt(&cx)
}

fn worker<DB: Database>(world: &World<DB>, app: &App) -> Worker<App> {
    let pause = Duration::from_secs(2);
    let retry = Retry::exponential(pause, pause);
    Worker::new(world.bus.clone(), app.clone())
        .subscribe(EventSubscriber::durable("plain").on(plain).retry(retry))
        .subscribe(
            EventSubscriber::durable("once")
                .on_transactional(&world.outbox, once::<DB>)
                .retry(retry),
        )
}

both!(a_republished_event_with_a_waiting_retry_has_one_effect);

async fn a_republished_event_with_a_waiting_retry_has_one_effect<DB: Database>(world: World<DB>) {
    let mut tx = world.outbox.begin().await.unwrap();
    tx.publish(&User::new("ada")).unwrap();
    tx.commit().await.unwrap();
    let relay = world.relay();
    let app = App::default();
    let running = world.run(worker(&world, &app));
    let streams = jetstream::new(async_nats::connect(world.nats.url()).await.unwrap());
    // Both consumers have delivered the event and its retry, and all deliveries are acked.
    let is_over = async |stream: &str, durable: &str| {
        let stream = streams.get_stream(stream).await.unwrap();
        let Ok(info) = stream.consumer_info(durable).await else {
            return false;
        };
        info.delivered.consumer_sequence > 0 && info.num_pending + info.num_ack_pending as u64 == 0
    };
    for durable in ["plain", "once"] {
        let what = format!("{durable} waits for its retry");
        eventually(&what, || is_over("EVENTS", durable)).await;
    }
    running.stop().await.unwrap();
    relay.stop().await.unwrap();
    assert_eq!((app.calls("plain 1"), app.calls("once 1")), (1, 1));

    streams.delete_stream("EVENTS").await.unwrap();
    world.bus.apply_stream(&events_stream()).await.unwrap();
    let repair = Verify::new(&world.bus, &world.outbox).repair().await;
    assert_eq!(repair.unwrap().events(), 1);
    app.is_up.store(true, Ordering::SeqCst);
    let running = world.run(worker(&world, &app));
    for stream in ["EVENTS", "RETRIES"] {
        for durable in ["plain", "once"] {
            let what = format!("{durable} has no more of {stream}");
            eventually(&what, || is_over(stream, durable)).await;
        }
    }
    running.stop().await.unwrap();
    assert_eq!((app.calls("plain 1"), app.calls("plain 2")), (2, 1));
    assert_eq!(app.noted.len(), 2 + 2 + 1, "{:?}", app.noted.all());
    assert_eq!(world.counted("ada").await, 1);
    assert_eq!(world.dead_letters().await.len(), 0);
}
