//! P8: replays whose workers and nats-servers die, that are paused for long, or cancelled at once. Live events
//! continue to flow. Each event has one effect, and one more in each replay that has it in its range.

use std::{
    cell::Cell,
    sync::Arc,
    time::{Duration, Instant},
};

use async_nats::jetstream::{self, consumer};
use tidings::{
    Rate, StartFrom,
    replays::{Replay, ReplayRequest, ReplayState},
};

use crate::{
    effects::Effects,
    handling::Handling,
    support::{World, eventually, everything},
    table, trials,
    worker::{DURABLE, Kind},
};

trials!(
    a_worker_is_killed_during_a_replay: in short on postgres,
    all_is_redelivered_after_a_worker_died: in short on sqlite,
    a_worker_with_plain_handlers_is_killed_during_a_replay: in short on sqlite,
    the_active_instance_is_killed_during_a_replay: in short on sqlite,
    a_nats_server_is_killed_during_a_replay: in short on sqlite,
    a_replay_that_is_paused_for_long: in short on postgres,
    a_replay_that_is_cancelled_at_once: in short on sqlite,
);

/// All deliveries in flight have ended by then: longer than the timeout of a handler.
const STANDS_STILL: Duration = Duration::from_secs(120);
/// No replay takes this long, on any machine.
const IS_DONE: Duration = Duration::from_secs(600);

/// The number of events that are replayed, and the rate per second: slow enough that faults happen during the replay.
fn size() -> (u64, u32) {
    if table::is_long() {
        (600, 25)
    } else {
        (120, 40)
    }
}

/// The oldest events.
fn the_past() -> ReplayRequest {
    everything().to(StartFrom::Sequence(size().0))
}

/// Workers that have handled the events to be replayed, and continue to handle live events.
async fn with_a_past<DB: Effects>(
    fault: &'static str,
    world: World<DB>,
    kind: Kind,
    instances: usize,
) -> Handling<DB> {
    let handling = Handling::with(fault, world, kind, instances).await;
    eventually("there is a past", || async {
        let written = DB::written(handling.trial.world.outbox.pool(), "").await;
        written.is_some_and(|(all, _)| all >= size().0.cast_signed())
    })
    .await;
    handling
}

/// One replay that runs.
struct Replaying<DB: Effects> {
    handling: Handling<DB>,
    replay: Replay,
}

impl<DB: Effects> Replaying<DB> {
    async fn with(fault: &'static str, world: World<DB>, kind: Kind, instances: usize) -> Self {
        let handling = with_a_past(fault, world, kind, instances).await;
        let slowly = the_past().rate_limit(Rate::per_second(size().1));
        let replay = handling.trial.world.replay(DURABLE, &slowly).await;
        Self { handling, replay }
    }

    fn world(&self) -> &World<DB> {
        &self.handling.trial.world
    }

    fn durable(&self) -> String {
        self.replay.consumer()
    }

    /// Queries the effects of the replay.
    async fn asked(&self, what: &str, in_order: &str) -> i64 {
        let id = self.replay.id;
        let sql = format!("select {what} from effect where event like '{id}/%' {in_order}");
        DB::number(self.world().outbox.pool(), &sql).await
    }

    async fn effects(&self) -> i64 {
        self.asked("count(*)", "").await
    }

    /// The instance that had the last effect of the replay.
    async fn active(&self) -> usize {
        let last = self.asked("instance", "order by number desc limit 1").await;
        usize::try_from(last).expect("a number")
    }

    /// Waits until the replay has more effects than these.
    async fn has_more_than(&self, effects: i64) {
        eventually("the replay goes on", || async {
            self.effects().await > effects
        })
        .await;
    }

    async fn goes_on(&self) {
        self.has_more_than(self.effects().await + 20).await;
    }

    /// The fault is over: measures how long it takes until live events are handled and the replay continues.
    async fn recovers(&mut self) {
        let over = Instant::now();
        let effects = self.effects().await;
        self.handling.flows().await;
        self.has_more_than(effects).await;
        self.handling.took(over.elapsed());
    }

    /// Breaks something repeatedly during the replay. `then` runs whenever the replay continues; in the end its
    /// effects are judged.
    async fn outlives(mut self, fault: impl AsyncFn(&Self), then: impl AsyncFn(&Self)) {
        for _ in 0..table::rounds(4) {
            self.goes_on().await;
            fault(&self).await;
            self.recovers().await;
            then(&self).await;
        }
        self.judge().await;
    }

    async fn kill_the_active(&self) {
        let active = self.active().await;
        self.handling.instances[active].signal("KILL").await;
    }

    async fn hurry(&self) {
        self.handling.hurry(&self.durable()).await;
    }

    async fn tell(&self, what: &str) {
        let id = self.replay.id.to_string();
        let command = self.handling.trial.command(&["replay", what, &id]);
        assert_eq!(command.ended().await, Some(0));
    }

    /// Waits until the deliveries in flight have ended; the number of effects then.
    async fn stands_still(&self) -> i64 {
        let began = Instant::now();
        let mut before = -1;
        loop {
            let now = self.effects().await;
            if now == before {
                return now;
            }
            let waited = began.elapsed();
            assert!(
                waited < STANDS_STILL,
                "{now} effects after {waited:?}, and still more"
            );
            before = now;
            // real time: the handlers are in other processes
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }

    /// The consumer of the replay, as the server reports it.
    async fn consumer(&self) -> consumer::Info {
        let client = async_nats::connect(self.world().nats.url()).await.unwrap();
        let stream = jetstream::new(client).get_stream("EVENTS").await.unwrap();
        stream.consumer_info(self.durable()).await.unwrap()
    }

    /// The events that the replay must have effects of.
    async fn range(&self) -> Vec<String> {
        let range = &self.replay.ranges[0];
        assert_eq!((range.first, range.last), (1, size().0));
        let stored = self.world().stored().await.ids();
        let events = stored
            .into_iter()
            .take(usize::try_from(range.last).unwrap());
        events
            .map(|event| format!("{}/{event}", self.replay.id))
            .collect()
    }

    /// Waits until the replay is done. While live events wait, a replay has an eighth of the concurrency: it may take
    /// long.
    async fn is_done(&self) {
        let (before, is_over) = (Cell::new(-1), Cell::new(false));
        let began = Instant::now();
        while !is_over.get() {
            let waited = began.elapsed();
            assert!(
                waited < IS_DONE,
                "it goes on, and is not done after {waited:?}"
            );
            eventually("the replay goes on, or is done", || async {
                let found = self.world().replays().find(self.replay.id).await;
                is_over.set(found.is_ok_and(|status| status.replay.state == ReplayState::Done));
                let now = self.effects().await;
                is_over.get() || before.replace(now) < now
            })
            .await;
        }
    }

    async fn judge(mut self) {
        let id = self.replay.id;
        self.is_done().await;
        self.world().nothing_is_left_of(id).await;
        let range = self.range().await;
        self.handling.expect_besides(range);
        self.handling.judge().await;
    }
}

async fn a_worker_is_killed_during_a_replay<DB: Effects>(world: World<DB>) {
    let fault = "replay: worker SIGKILL, two workers";
    let replaying = Replaying::with(fault, world, Kind::Once, 2).await;
    let (kill, hurry) = (Replaying::kill_the_active, Replaying::hurry);
    replaying.outlives(kill, hurry).await;
}

/// The inbox has a row for each event that the dead worker has handled for the replay.
async fn all_is_redelivered_after_a_worker_died<DB: Effects>(world: World<DB>) {
    let fault = "replay: worker SIGKILL, all is delivered again";
    let replaying = Replaying::with(fault, world, Kind::Once, 2).await;
    let begin_anew = async |replaying: &Replaying<DB>| {
        let url = replaying.world().nats.url();
        let client = async_nats::connect(url).await.unwrap();
        let reset = format!("$JS.API.CONSUMER.RESET.EVENTS.{}", replaying.durable());
        client.request(reset, "{\"seq\":1}".into()).await.unwrap();
    };
    let kill = Replaying::kill_the_active;
    replaying.outlives(kill, begin_anew).await;
}

/// An event that was in flight in the dead worker may have its effect twice; each event has at least one.
async fn a_worker_with_plain_handlers_is_killed_during_a_replay<DB: Effects>(world: World<DB>) {
    let fault = "replay: plain handlers, worker SIGKILL";
    let replaying = Replaying::with(fault, world, Kind::Plain, 2).await;
    let (kill, hurry) = (Replaying::kill_the_active, Replaying::hurry);
    replaying.outlives(kill, hurry).await;
}

async fn the_active_instance_is_killed_during_a_replay<DB: Effects>(world: World<DB>) {
    let fault = "replay: ordered, SIGKILL of the active of three";
    let replaying = Replaying::with(fault, world, Kind::Ordered, 3).await;
    let kill = Replaying::kill_the_active;
    replaying.outlives(kill, async |_| {}).await;
}

async fn a_nats_server_is_killed_during_a_replay<DB: Effects>(world: World<DB>) {
    let fault = "replay: nats-server SIGKILL and restart";
    let replaying = Replaying::with(fault, world, Kind::Once, 2).await;
    let restart = async |replaying: &Replaying<DB>| {
        let nats = &replaying.world().nats;
        nats.kill().unwrap();
        nats.restart().await.unwrap();
    };
    replaying.outlives(restart, async |_| {}).await;
}

/// If the consumer was not durable, the server would delete it after five seconds without activity.
async fn a_replay_that_is_paused_for_long<DB: Effects>(world: World<DB>) {
    let fault = "replay: paused beyond a consumer's inactivity";
    let long = Duration::from_secs(if table::is_long() { 20 } else { 6 });
    let replaying = Replaying::with(fault, world, Kind::Once, 2).await;
    let pause = async |replaying: &Replaying<DB>| {
        let before = replaying.consumer().await;
        assert_eq!(before.config.inactive_threshold, Duration::ZERO);
        replaying.tell("pause").await;
        let paused = replaying.stands_still().await;
        // real time: longer than the server's inactivity timeout
        tokio::time::sleep(long).await;
        assert_eq!(replaying.effects().await, paused);
        assert_eq!(replaying.consumer().await.created, before.created);
        replaying.tell("resume").await;
    };
    replaying.outlives(pause, async |_| {}).await;
}

/// The replay has recovered when its consumer is gone.
async fn a_replay_that_is_cancelled_at_once<DB: Effects>(world: World<DB>) {
    let fault = "replay: cancelled at once";
    let mut handling = with_a_past(fault, world, Kind::Once, 2).await;
    for _ in 0..table::rounds(8) {
        let world = Arc::clone(&handling.trial.world);
        let id = world.replay(DURABLE, &the_past()).await.id;
        let began = Instant::now();
        world.replays().cancel(id).await.unwrap();
        // An effect of the replay after this moment counts as invented.
        let of_it = format!("{id}/");
        let until_now = handling.effects().await.into_iter();
        let until_now = until_now.map(|effect| effect.event);
        handling.expect_besides(until_now.filter(|event| event.starts_with(&of_it)));
        world.nothing_is_left_of(id).await;
        handling.took(began.elapsed());
        handling.goes_on().await;
        let left = world.replay_status(id).await.consumers;
        assert_eq!(left, [], "it came back");
    }
    handling.judge().await;
}
