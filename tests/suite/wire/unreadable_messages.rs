//! A message of a foreign publisher that a client cannot parse ends the connection of that client, and holds up no
//! other message.

use std::time::Duration;

use chrono::Utc;
use sqlx::Sqlite;
use tidings::{
    CircuitBreaker, Context, EventSubscriber, Failure, StartFrom, Worker,
    event::Pattern,
    trace::{Trace, TraceTarget},
    verify::Verify,
};

use crate::{
    both,
    support::{Counted, Database, Noted, User, World, eventually, log, within},
};

both!(
    a_relay_resumes_behind_an_unreadable_message,
    verify_and_trace_read_past_unreadable_messages,
);

/// Each ends the connection of a client that receives it; the last one ends the client.
const BAD: [&[u8]; 5] = [
    b"x-bad: \xff\xfe",
    b"no colon here",
    b"a name: 1",
    b"n\xc3\xa4me: 1",
    b"a: b\rc",
];

async fn bad<DB: Database>(world: &World<DB>) {
    for lines in BAD {
        world.publish_raw(b"count.raised", lines).await;
    }
    world.publish_raw(b"count.r\xff", b"a: 1").await;
}

async fn commit<DB: Database>(world: &World<DB>, counts: std::ops::Range<i64>) {
    let mut tx = world.outbox.begin().await.unwrap();
    for count in counts {
        let key = "one".to_owned();
        tx.publish(&Counted { key, count }).unwrap();
    }
    tx.commit().await.unwrap();
}

async fn is_relayed<DB: Database>(world: &World<DB>) {
    eventually("everything is published", || async {
        world.outbox.status().await.unwrap().backlog == 0
    })
    .await;
}

async fn a_relay_resumes_behind_an_unreadable_message<DB: Database>(world: World<DB>) {
    log::listen();
    let relay = world.relay();
    commit(&world, 0..3).await;
    is_relayed(&world).await;
    relay.stop().await.unwrap();
    bad(&world).await;
    world.publish([&User::new("between")]).await;
    bad(&world).await;

    let relay = world.relay();
    commit(&world, 3..6).await;
    is_relayed(&world).await;
    relay.stop().await.unwrap();
    assert_eq!(
        world
            .bus
            .read("EVENTS", &[], StartFrom::Beginning)
            .await
            .unwrap()
            .pending(),
        3 + 6 + 1 + 6 + 3
    );
    let fault = "a header is not UTF-8";
    let said = log::said(fault);
    assert!(
        said.iter().any(|line| line.contains("sequence=4 ")),
        "{said:?}"
    );
    assert!(
        said.iter().all(|line| line.contains("stream=\"EVENTS\"")),
        "{said:?}"
    );
}

async fn verify_and_trace_read_past_unreadable_messages<DB: Database>(world: World<DB>) {
    bad(&world).await;
    let relay = world.relay();
    commit(&world, 0..3).await;
    is_relayed(&world).await;
    bad(&world).await;
    commit(&world, 3..6).await;
    is_relayed(&world).await;
    relay.stop().await.unwrap();
    bad(&world).await;

    let verify = Verify::new(&world.bus, &world.outbox).payloads();
    let found = within("it is verified", verify.run()).await.unwrap();
    assert_eq!(found.streams[0].ok, 6, "{found:?}");

    let trace = Trace::new(&world.bus).streams(["EVENTS"]);
    let key = TraceTarget::Key("one".to_owned());
    let found = within("it is searched", trace.run(&key)).await.unwrap();
    assert_eq!(found.events.len(), 6, "{found:?}");
}

/// The sequences that are read, up to this one.
async fn read<DB: Database>(
    world: &World<DB>,
    subjects: &[&str],
    start: StartFrom,
    up_to: u64,
) -> Vec<u64> {
    let subjects: Vec<_> = subjects
        .iter()
        .map(|s| Pattern::parse(s).unwrap())
        .collect();
    let mut reader = world.bus.read("EVENTS", &subjects, start).await.unwrap();
    let mut sequences = Vec::new();
    while sequences.last() != Some(&up_to) {
        sequences.push(
            within("the next one", reader.next())
                .await
                .unwrap()
                .sequence,
        );
    }
    sequences
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_sees_every_message_from_any_start() {
    let world = World::<Sqlite>::start().await;
    let begin = Utc::now() - Duration::from_secs(60);
    world.publish([&User::new("first")]).await;
    for _ in 0..20 {
        bad(&world).await;
    }
    let users: Vec<_> = (0..60).map(|n| User::new(&n.to_string())).collect();
    world.publish(&users).await;
    // The last message is unreadable, too.
    world.publish_raw(b"user.created", BAD[0]).await;

    let all: Vec<u64> = (1..=182).collect();
    assert_eq!(read(&world, &[], StartFrom::Beginning, 182).await, all);
    assert_eq!(read(&world, &[], StartFrom::Time(begin), 182).await, all);
    assert_eq!(
        read(&world, &[], StartFrom::Sequence(30), 182).await,
        all[29..]
    );
    let users: Vec<u64> = std::iter::once(1).chain(122..=182).collect();
    assert_eq!(
        read(&world, &["user.>"], StartFrom::Beginning, 182).await,
        users
    );
    let both = ["user.>", "count.raised"];
    assert_eq!(
        read(&world, &both, StartFrom::Beginning, 182).await.len(),
        62 + 100
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_of_new_messages_sees_an_unreadable_first_one() {
    let world = World::<Sqlite>::start().await;
    world.publish([&User::new("before")]).await;
    let mut reader = world.bus.read("EVENTS", &[], StartFrom::New).await.unwrap();
    world
        .publish_raw(
            b"user.created",
            b"ce-type: user.created.v1\r\nce-id: 0190d1e2-0000-7000-8000-000000000001\r\n\
              Nats-Msg-Id: 0190d1e2-0000-7000-8000-000000000001\r\nx: \xff",
        )
        .await;
    world.publish([&User::new("after")]).await;
    let first = within("the first one", reader.next()).await.unwrap();
    assert_eq!(
        (first.sequence, first.subject.as_str()),
        (2, "user.created")
    );
    let id = first.envelope.unwrap().id().to_string();
    assert_eq!(id, "0190d1e2-0000-7000-8000-000000000001");
    let second = within("the second one", reader.next()).await.unwrap();
    assert_eq!(second.sequence, 3);
}

/// Waits until every delivery is acked.
async fn is_settled(world: &World<Sqlite>, up_to: u64) {
    let client = async_nats::connect(world.nats.url()).await.unwrap();
    let stream = async_nats::jetstream::new(client)
        .get_stream("EVENTS")
        .await
        .unwrap();
    eventually("everything is answered", || async {
        let info = stream.consumer_info("counting").await;
        info.is_ok_and(|info| (info.ack_floor.stream_sequence, info.num_ack_pending) == (up_to, 0))
    })
    .await;
}

const EVENT: &[u8] = b"ce-type: count.raised.v1\r\nce-partitionkey: one\r\nce-id: 0190d1e2-0000-7000-8000-00000000000";

/// Unreadable messages that are no event, one that is, and good ones before, between and behind them: 14 messages.
async fn mixture(world: &World<Sqlite>) {
    let counted = |count| Counted {
        key: "one".to_owned(),
        count,
    };
    world.publish([&counted(1)]).await;
    for lines in BAD {
        world.publish_raw(b"count.raised", lines).await;
    }
    world.publish([&counted(2)]).await;
    let event = [EVENT, b"1\r\nx: \xff"].concat();
    let payload = br#"{"key":"one","count":3}"#;
    world
        .publish_raw_with(b"count.raised", &event, payload)
        .await;
    for count in 4..10 {
        world.publish([&counted(count)]).await;
    }
}

/// The events of the mixture that a subscriber handles, in order.
async fn handled(subscriber: EventSubscriber<Noted>) -> Vec<String> {
    async fn count(counted: Counted, cx: Context<Noted>) -> Result<(), Failure> {
        cx.state().note(counted.count.to_string());
        Ok(())
    }
    log::listen();
    let world = World::<Sqlite>::start().await;
    mixture(&world).await;
    let noted = Noted::default();
    let subscriber = subscriber.on(count).circuit_breaker(CircuitBreaker::off());
    let worker = Worker::new(world.bus.clone(), noted.clone()).subscribe(subscriber);
    let worker = world.run(worker);
    is_settled(&world, 14).await;
    worker.stop().await.unwrap();
    let dead = world.dead_letters().await;
    assert_eq!(dead.len(), BAD.len(), "no event has a payload that is none");
    let said = log::said("unreadable message found");
    assert!(
        said.iter().any(|line| line.contains("sequence=8 ")),
        "{said:?}"
    );
    assert!(log::said("crash suspected").is_empty());
    noted.all()
}

const NINE: [&str; 9] = ["1", "2", "3", "4", "5", "6", "7", "8", "9"];

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_handles_readable_messages_and_dead_letters_others() {
    let mut all = handled(EventSubscriber::durable("counting")).await;
    all.sort();
    assert_eq!(all, NINE);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ordered_worker_keeps_the_order_past_unreadable_ones() {
    let all = handled(EventSubscriber::durable("counting").ordered_by_key()).await;
    assert_eq!(all, NINE);
}
