//! P7, P9: markers that JetStream writes in place of expired or deleted messages are not events.

use std::time::Duration;

use serde_json::{Value, json};
use sqlx::Sqlite;
use tidings::{
    Context, EventSubscriber, Failure, Retry, StartFrom, Worker,
    trace::{Trace, TraceTarget},
    verify::Verify,
};

use crate::support::{Noted, User, World, eventually, everything, within};

/// Makes a stream write markers for messages that expire at this age; without an age nothing expires.
async fn marks(world: &World<Sqlite>, stream: &str, max_age: Duration) {
    let context = world.jetstream().await;
    let subject = format!("STREAM.INFO.{stream}");
    let info: Value = context.request(subject, &json!({})).await.unwrap();
    let mut config = info["config"].clone();
    config["allow_msg_ttl"] = json!(true);
    config["allow_rollup_hdrs"] = json!(true);
    config["subject_delete_marker_ttl"] = json!(3_600_000_000_000_u64);
    config["duplicate_window"] = json!(100_000_000);
    config["max_age"] = json!(u64::try_from(max_age.as_nanos()).unwrap());
    let subject = format!("STREAM.UPDATE.{stream}");
    let updated: Value = context.request(subject, &config).await.unwrap();
    assert_eq!(updated["config"]["max_age"], config["max_age"], "{updated}");
}

async fn markers(world: &World<Sqlite>, stream: &str) -> usize {
    let stored = crate::support::Stream::read(&world.nats.url(), stream).await;
    let is_marker = |m: &&crate::support::Stored| !m.header("Nats-Marker-Reason").is_empty();
    stored.0.iter().filter(is_marker).count()
}

/// A marker as JetStream writes it.
async fn mark(world: &World<Sqlite>) {
    let marker = b"Nats-Marker-Reason: Purge\r\nNats-TTL: never";
    world.publish_raw_with(b"user.created", marker, b"").await;
}

/// A world whose stream has a marker at its start, one event, and a marker at its end that JetStream has written.
async fn marked() -> World<Sqlite> {
    let world = World::<Sqlite>::start().await;
    marks(&world, "EVENTS", Duration::from_secs(2)).await;
    mark(&world).await;
    let user = |id| serde_json::to_vec(&User::new(id)).unwrap();
    world
        .publish_raw_with(
            b"user.created",
            b"ce-subject: bob\r\nNats-TTL: never",
            &user("bob"),
        )
        .await;
    world
        .publish_raw_with(b"user.renamed", b"x: 1", &user("ada"))
        .await;
    eventually("a marker", || async {
        markers(&world, "EVENTS").await == 2
    })
    .await;
    marks(&world, "EVENTS", Duration::ZERO).await;
    world
}

async fn handle(user: User, cx: Context<Noted>) -> Result<(), Failure> {
    cx.state().note(user.id);
    match cx.attempt() {
        1 if !cx.is_replay() => Err(Failure::retry("once more")),
        _ => Ok(()),
    }
}

#[derive(serde::Serialize, serde::Deserialize, tidings::Event)]
#[event(name = "user.renamed", version = 1, key = id)]
struct Renamed {
    id: String,
}

async fn renamed(user: Renamed, cx: Context<Noted>) -> Result<(), Failure> {
    cx.state().note(user.id);
    Ok(())
}

fn subscriber(name: &str) -> EventSubscriber<Noted> {
    let pause = Duration::from_millis(300);
    EventSubscriber::durable(name)
        .on(handle)
        .on(renamed)
        .retry(Retry::exponential(pause, pause))
}

async fn is_answered(world: &World<Sqlite>, durable: &str) {
    let events = world.jetstream().await.get_stream("EVENTS").await.unwrap();
    eventually("all is answered", || async {
        let info = events.consumer_info(durable).await;
        info.is_ok_and(|info| {
            info.num_pending == 0 && info.num_ack_pending == 0 && info.ack_floor.stream_sequence > 0
        })
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delete_marker_is_acked_and_skipped() {
    let world = marked().await;
    for (name, is_ordered) in [("plain", false), ("ordered", true)] {
        let noted = Noted::default();
        let one = match is_ordered {
            true => subscriber(name).ordered_by_key(),
            false => subscriber(name),
        };
        let running = world.run(Worker::new(world.bus.clone(), noted.clone()).subscribe(one));
        noted.reach(2).await;
        is_answered(&world, name).await;

        let report = world.replayed(name, &everything().rehearse()).await;
        let report = report.progress.unwrap().rehearsal.unwrap();
        let events: Vec<_> = report
            .events
            .iter()
            .map(|of| (&*of.name, of.would_call, of.undecodable))
            .collect();
        assert_eq!(
            (events, report.errors.len()),
            (vec![("user.created", 1, 0)], 0)
        );
        world.replayed(name, &everything()).await;
        running.stop().await.unwrap();
        assert_eq!(noted.all(), ["bob", "bob", "bob"], "{name}");
    }
    assert_eq!(world.dead_letters().await.len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delete_marker_is_not_read_traced_or_verified() {
    let world = marked().await;
    let mut reader = world
        .bus
        .read("EVENTS", &[], StartFrom::Beginning)
        .await
        .unwrap();
    let seen = within("the event", reader.next()).await.unwrap();
    assert_eq!(seen.envelope.unwrap().key(), Some("bob"));
    assert!(
        tokio::time::timeout(Duration::from_millis(200), reader.next())
            .await
            .is_err()
    );

    let relay = world.relay();
    let mut tx = world.outbox.begin().await.unwrap();
    tx.publish(&User::new("eve")).unwrap();
    tx.commit().await.unwrap();
    eventually("it is published", || async {
        world.outbox.status().await.unwrap().backlog == 0
    })
    .await;
    relay.stop().await.unwrap();
    mark(&world).await;
    mark(&world).await;
    let found = within(
        "it is verified",
        Verify::new(&world.bus, &world.outbox).run(),
    )
    .await
    .unwrap();
    assert!(found.is_ok(), "{found:?}");
    assert_eq!(
        (found.streams[0].ok, found.streams[0].foreign),
        (1, 0),
        "{found:?}"
    );
    let trace = Trace::new(&world.bus).streams(["EVENTS"]);
    let found = within(
        "it is traced",
        trace.run(&TraceTarget::Key("bob".to_owned())),
    )
    .await
    .unwrap();
    assert_eq!(found.events.len(), 1, "{found:?}");
}
