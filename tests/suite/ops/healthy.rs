//! P9: healthy states are not called sick, however long they last: a standby, a backlog that drains, an idle outbox, a
//! paused subscriber, handlers that take long, a rate limit. `make states` looks for ten minutes, else it is seconds.

use std::time::Duration;

use tidings::{Context, EventSubscriber, Failure, Rate, Worker, subscribers::Subscribers};
use tokio::time::{Instant, interval};

use super::{Endpoints, endpoints};
use crate::{
    both,
    support::{Database, Noted, User, World, note_id},
};

both!(healthy_states_stay_ready);

/// How long to look, in seconds.
fn looks_for() -> Duration {
    let given = std::env::var("TIDINGS_STATES").ok();
    let seconds = given.map_or(12, |text| text.parse().expect("seconds"));
    Duration::from_secs(seconds)
}

/// Takes longer than the time after which a part without progress is stuck.
async fn slowly(user: User, cx: Context<Noted>) -> Result<(), Failure> {
    // real time: this is what the handler does
    tokio::time::sleep(Duration::from_secs(11)).await;
    note_id(user, cx).await
}

async fn healthy_states_stay_ready<DB: Database>(world: World<DB>) {
    let noted = Noted::default();
    let (first, at_first) = endpoints();
    let (second, at_second) = endpoints();
    let worker = Worker::new(world.bus.clone(), noted.clone())
        .subscribe(EventSubscriber::durable("quick").on(note_id))
        .subscribe(
            EventSubscriber::durable("limited")
                .on(note_id)
                .rate_limit(Rate::per_second(20)),
        )
        .subscribe(EventSubscriber::durable("paused").on(note_id))
        .subscribe(EventSubscriber::durable("slow").on(slowly).concurrency(64));
    let active = world.run(worker.with(first).with(world.new_relay()));
    at_first.says("/readyz", 200, "relay tidings: idle").await;
    let worker = Worker::new(world.bus.clone(), ());
    let standby = world.run(worker.with(second).with(world.new_relay()));
    at_second.says("/readyz", 200, "standby").await;
    let subscribers = Subscribers::new(&world.bus);
    subscribers.pause("paused", None).await.unwrap();
    at_first.says("/readyz", 200, "paused: paused").await;

    let until = Instant::now() + looks_for();
    let mut looks = interval(Duration::from_millis(500));
    for round in 0_u64.. {
        looks.tick().await;
        // A backlog, and then some seconds without any event.
        if round.is_multiple_of(16) {
            let users: Vec<_> = (0..200).map(|n| User::new(&n.to_string())).collect();
            world.commit_all(&users).await;
        }
        for endpoints in [at_first, at_second] {
            is_healthy(endpoints).await;
        }
        if Instant::now() > until {
            break;
        }
    }
    standby.stop().await.unwrap();
    active.kill().await;
}

async fn is_healthy(endpoints: Endpoints) {
    let ready = endpoints.ask("/readyz").await;
    assert_eq!(ready.status, 200, "{ready:?}");
    assert_eq!(endpoints.ask("/livez").await.status, 200);
    let health = endpoints.health().await;
    assert_eq!(health["status"], "ok", "{health}");
}
