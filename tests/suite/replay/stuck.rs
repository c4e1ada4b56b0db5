//! P9: a stuck replay reports the reason and since when, and continues when the cause is gone; one that can never
//! continue fails.

use std::time::Duration;

use async_nats::jetstream;
use tidings::{
    Bus, Context, EventPublisher, EventSubscriber, Failure, NatsOptions, Rate, StreamSpec, Worker,
    nats::Auth,
    replays::{Replay, ReplayError, ReplayId, ReplayIssue, ReplayState, ReplayStatus, Replays},
    worker::WorkerError,
};
use tidings_test_servers::NatsServer;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::support::{
    Cluster, Counted, Noted, User, World, events_stream, eventually, everything, log,
    note_replayed_id, within,
};

type Sqlite = sqlx::Sqlite;

const NAME: &str = "stuck";
const USERS: usize = 100;

/// A server with the user `all` and the user `limited`, whose permissions change.
struct Limited {
    server: NatsServer,
    all: Bus,
    noted: Noted,
}

/// A worker of the user `limited`.
struct Working {
    stop: CancellationToken,
    task: JoinHandle<Result<(), WorkerError>>,
}

impl Limited {
    async fn start() -> Self {
        let server = NatsServer::options().config(users("")).start().await;
        let server = server.expect("nats-server starts");
        let all = connect(&server, "all").await;
        let streams = StreamSpec::internal().into_iter();
        for stream in streams.chain([events_stream()]) {
            all.apply_stream(&stream).await.expect("a stream");
        }
        let publisher = EventPublisher::new(&all);
        for id in 0..USERS {
            publisher
                .publish(&User::new(&id.to_string()))
                .await
                .unwrap();
        }
        let noted = Noted::default();
        Self { server, all, noted }
    }

    fn deny(&self, subject: &str) {
        let deny = format!("publish: {{ deny: [{subject:?}] }}");
        self.server.reload(users(&deny)).unwrap();
    }

    fn allow(&self) {
        self.server.reload(users("")).unwrap();
    }

    async fn work(&self) -> Working {
        let bus = connect(&self.server, "limited").await;
        let subscriber = EventSubscriber::durable(NAME).on(note_replayed_id);
        let worker = Worker::new(bus, self.noted.clone()).subscribe(subscriber);
        let stop = CancellationToken::new();
        let task = tokio::spawn(worker.run(stop.clone().cancelled_owned()));
        Working { stop, task }
    }

    async fn replay(&self) -> Replay {
        // About 12 seconds, so that the test can change permissions meanwhile.
        let slowly = everything().rate_limit(Rate::per_second(50));
        loop {
            match Replays::new(&self.all).start(NAME, &slowly).await {
                Err(ReplayError::NoInstance { .. } | ReplayError::Unknown { .. }) => {}
                started => return started.unwrap(),
            }
        }
    }

    async fn status(&self, id: ReplayId) -> ReplayStatus {
        Replays::new(&self.all).find(id).await.unwrap()
    }

    /// Waits until the replay reports that it lacks this permission; returns its status then.
    async fn lacks(&self, id: ReplayId, permission: &str) -> ReplayStatus {
        let expected = format!("allow it to publish to {permission}");
        eventually(&expected, || async {
            let issue = self.status(id).await.issue;
            issue.is_some_and(|issue| issue.why.contains(&expected))
        })
        .await;
        let status = self.status(id).await;
        assert_eq!(status.replay.state, ReplayState::Running);
        status
    }

    /// Waits until the replay is done, with all events.
    async fn is_done(&self, id: ReplayId) {
        eventually("it is done", || async {
            self.status(id).await.replay.state == ReplayState::Done
        })
        .await;
        let status = self.status(id).await;
        let left = status.progress.clone().unwrap().issue;
        assert_eq!((status.issue.clone(), left), (None, None));
        assert_eq!(status.completed(), USERS as u64);
    }
}

impl Working {
    async fn stop(self) {
        self.stop.cancel();
        let ended = within("a clean stop", self.task).await;
        ended.expect("no panic").expect("a clean end");
    }
}

async fn connect(server: &NatsServer, user: &str) -> Bus {
    let options = NatsOptions::servers([server.url()]).auth(Auth::user(user, "secret"));
    Bus::connect(options).await.expect("a connection")
}

fn users(less: &str) -> String {
    format!(
        "authorization {{ users: [ {{ user: all, password: secret }}, {{ user: limited, password: secret, permissions: {{ {less} }} }} ] }}"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_denied_replay_consumer_is_an_issue_until_it_is_allowed() {
    log::listen();
    let limited = Limited::start().await;
    // The consumers of the subscriber exist already.
    limited.work().await.stop().await;
    limited.deny("$JS.API.CONSUMER.CREATE.EVENTS.>");
    let worker = limited.work().await;
    let replay = limited.replay().await;
    let permission = format!("$JS.API.CONSUMER.CREATE.EVENTS.{}", replay.consumer());
    let first = limited.lacks(replay.id, &permission).await.issue.unwrap();
    assert!(first.since >= replay.created_at);
    let id = replay.id.to_string();
    let runs = || {
        log::said("replay interrupted")
            .into_iter()
            .filter(|line| line.contains(&id))
            .count()
    };
    // real time: it is tried several times
    tokio::time::sleep(Duration::from_secs(8)).await;
    assert_eq!(runs(), 1, "it is said once a minute");
    let then = limited.lacks(replay.id, &permission).await.issue.unwrap();
    assert_eq!(then.since, first.since);
    limited.allow();
    limited.is_done(replay.id).await;
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_denied_pull_of_a_replay_is_an_issue_until_it_is_allowed() {
    let limited = Limited::start().await;
    let worker = limited.work().await;
    let replay = limited.replay().await;
    limited.noted.reach(10).await;
    let permission = format!("$JS.API.CONSUMER.MSG.NEXT.EVENTS.{}", replay.consumer());
    limited.deny(&permission);
    limited.lacks(replay.id, &permission).await;
    assert!(limited.noted.len() < USERS);
    limited.allow();
    limited.is_done(replay.id).await;
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_denied_to_read_replays_is_an_issue_of_their_status() {
    let limited = Limited::start().await;
    limited.work().await.stop().await;
    let permission = "$JS.API.STREAM.MSG.GET.KV_TIDINGS";
    limited.deny(permission);
    let worker = limited.work().await;
    let replay = limited.replay().await;
    limited.lacks(replay.id, permission).await;
    limited.allow();
    limited.is_done(replay.id).await;
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_without_an_instance_reports_it() {
    let world = World::<Sqlite>::start().await;
    let noted = Noted::default();
    let subscriber = EventSubscriber::durable(NAME).on(note_replayed_id);
    let running = world.run(Worker::new(world.bus.clone(), noted.clone()).subscribe(subscriber));
    let users: Vec<User> = (0..USERS).map(|id| User::new(&id.to_string())).collect();
    world.publish(&users).await;
    let slowly = everything().rate_limit(Rate::per_second(10));
    let replay = world.replay(NAME, &slowly).await;
    noted.reach(5).await;
    assert_eq!(world.replay_status(replay.id).await.issue, None);
    running.stop().await.unwrap();
    eventually("it is named", || async {
        let issue = world.replay_status(replay.id).await.issue;
        issue.is_some_and(|issue| issue.why.contains("no instance of stuck answers"))
    })
    .await;
    let paused = world.replays().pause(replay.id).await.unwrap();
    assert_eq!(paused.state, ReplayState::Paused);
    let issue = world.replay_status(replay.id).await.issue;
    assert_eq!(issue, None, "it should not run");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shadow_unknown_to_the_active_instance_is_refused() {
    async fn count(counted: Counted, cx: Context<Noted>) -> Result<(), Failure> {
        if cx.is_replay() {
            cx.state().note(counted.key);
        }
        Ok(())
    }
    let world = World::<Sqlite>::start().await;
    let noted = Noted::default();
    let run = |subscriber: EventSubscriber<Noted>| {
        let subscriber = subscriber.on(count).ordered_by_key();
        world.run(Worker::new(world.bus.clone(), noted.clone()).subscribe(subscriber))
    };
    let key = "k".to_owned();
    world.publish(&[Counted { key, count: 1 }]).await;
    let first = run(EventSubscriber::durable(NAME));
    let instances = async || {
        let subscribers = tidings::subscribers::Subscribers::new(&world.bus);
        subscribers
            .find(NAME)
            .await
            .map_or(Vec::new(), |one| one.instances)
    };
    eventually("the first one works", || async {
        instances()
            .await
            .iter()
            .any(|one| one.holds_lease == Some(true))
    })
    .await;
    let second = run(EventSubscriber::durable(NAME).shadow("v2", |shadow| shadow.on(count)));
    eventually("the second one answers", || async {
        instances().await.len() == 2
    })
    .await;
    let request = everything().shadow("v2");
    let refused = world.replays().start(NAME, &request).await.unwrap_err();
    assert!(
        matches!(refused, ReplayError::ShadowElsewhere { .. }),
        "{refused}"
    );
    let replay = world.replay(NAME, &request.force()).await;
    eventually("it is named", || async {
        let issue = world.replay_status(replay.id).await.issue;
        issue.is_some_and(|issue| issue.why.contains("has no shadow v2"))
    })
    .await;
    first.stop().await.unwrap();
    let status = world.replay_is(replay.id, ReplayState::Done).await;
    assert_eq!((noted.all(), status.issue), (vec!["k".to_owned()], None));
    second.stop().await.unwrap();
}

/// Three servers, only one of which stores the events. While that server is down their stream has no leader, while all
/// other streams have one.
#[tokio::test(flavor = "multi_thread")]
async fn a_replay_without_a_stream_leader_reports_it_and_resumes() {
    let cluster = Cluster::start().await;
    let bus = cluster.bus().await;
    cluster.apply_all(&bus, Duration::from_secs(1)).await;
    let noted = Noted::default();
    let subscriber = EventSubscriber::durable(NAME).on(note_replayed_id);
    let stop = CancellationToken::new();
    let worker = Worker::new(bus.clone(), noted.clone()).subscribe(subscriber);
    let task = tokio::spawn(worker.run(stop.clone().cancelled_owned()));
    let working = Working { stop, task };
    let publisher = EventPublisher::new(&bus);
    for id in 0..USERS {
        let user = User::new(&id.to_string());
        publisher.publish(&user).await.unwrap();
    }
    let replays = Replays::new(&bus);
    // Takes most of a minute, so that the server can be stopped meanwhile.
    let slowly = everything().rate_limit(Rate::per_second(2));
    let starting = async {
        loop {
            match replays.start(NAME, &slowly).await {
                // The consumers of the subscriber have no leader yet.
                Err(ReplayError::Bus(_)) => {}
                Err(ReplayError::NoInstance { .. } | ReplayError::Unknown { .. }) => {}
                started => return started.unwrap(),
            }
        }
    };
    let replay = within("it is begun", starting).await;
    noted.reach(3).await;
    let mut alone = events_stream();
    alone.replicas = 1;
    bus.apply_stream(&alone).await.unwrap();
    let client = async_nats::connect(cluster.urls()).await.unwrap();
    let context = jetstream::new(client);
    eventually("one server has the events alone", || async {
        let stream = context.get_stream("EVENTS").await;
        let cluster = stream.ok().and_then(|it| it.cached_info().cluster.clone());
        cluster.is_some_and(|it| it.leader.is_some() && it.replicas.is_empty())
    })
    .await;
    let away = cluster.leader().await;
    away.kill().unwrap();
    let is_it = |it: &ReplayIssue| it.why.contains("EVENTS") && it.why.contains("leader");
    eventually("whoever asks is told", || async {
        let found = replays.find(replay.id).await;
        found.is_ok_and(|status| status.issue.as_ref().is_some_and(is_it))
    })
    .await;
    eventually("its instance has written it", || async {
        let found = replays.find(replay.id).await;
        let progress = found.ok().and_then(|status| status.progress);
        progress.is_some_and(|it| it.issue.as_ref().is_some_and(is_it))
    })
    .await;
    let handled = noted.len();
    assert!(handled < USERS);
    away.restart().await.unwrap();
    noted.reach(handled + 5).await;
    eventually("nothing is said any more", || async {
        let found = replays.find(replay.id).await;
        found.is_ok_and(|status| status.issue.is_none() && status.consumers.len() == 1)
    })
    .await;
    replays.cancel(replay.id).await.unwrap();
    working.stop().await;
}
