//! P5, P7, P8: CloudEvents of other publishers reach handlers unchanged, on every path.

use std::time::Duration;

use sqlx::Sqlite;
use tidings::{
    Context, EventSubscriber, Failure, InboxTransaction, Retry, StartFrom, Worker,
    dead_letters::{DeadLetterSelection, DeadLetters},
    trace::{Trace, TraceTarget},
    verify::Verify,
    worker::WorkerError,
};

use crate::{
    both,
    support::{Database, Running, Shop, User, World, eventually, everything, within},
};

const DURABLE: &str = "foreign";

/// Records everything that must be equal in all deliveries.
async fn handle<DB: Database>(
    user: User,
    mut tx: InboxTransaction<DB>,
    cx: Context<Shop>,
) -> Result<(), Failure> {
    let key = cx.key().unwrap_or_default();
    let tenant = cx.extension("tenant").unwrap_or_default();
    let version = cx.version();
    let id = cx.event_id();
    cx.state()
        .called
        .note(format!("{} {key} {tenant} {version} {id}", user.email));
    DB::count_up(&mut tx, &user.id).await?;
    cx.state().answer(Failure::retry("not yet"))
}

fn run<DB: Database>(world: &World<DB>, shop: &Shop) -> Running<WorkerError> {
    let pause = Duration::from_millis(300);
    let subscriber = EventSubscriber::durable(DURABLE)
        .on_transactional(&world.outbox, handle::<DB>)
        .retry(Retry::exponential(pause, pause).attempts(2));
    world.run(Worker::new(world.bus.clone(), shop.clone()).subscribe(subscriber))
}

/// The format of other SDKs.
const WRAPPER: &str = r#"{"specversion":"1.0","id":"0190d1e2-0000-7000-8000-000000000001","source":"/shop",
    "type":"user.created.v1","subject":"Zo\u00eb","tenant":"acme","datacontenttype":"application/json",
    "data":{"id":"ada","email":"ada@example.org"}}"#;
const STRUCTURED: &[u8] = b"Content-Type: Application/CloudEvents+JSON; charset=utf-8";
const BINARY: &[u8] = b"ce-specversion: 1.0\r\nce-id: 0190d1e2-0000-7000-8000-000000000001\r\nce-source: /shop\r\n\
    ce-type: user.created.v1\r\nce-subject: \"Zo%C3%AB\"\r\nce-tenant: acme\r\nContent-Type: application/json";
const DATA: &str = r#"{"id":"ada","email":"ada@example.org"}"#;

both!(
    a_structured_event_is_one_event_on_every_path,
    a_binary_event_is_one_event_on_every_path,
    one_id_of_two_sources_is_two_events_and_of_one_source_one,
    a_duplicate_of_a_foreign_publisher_is_no_stream_issue,
);

/// Live, retried, dead-lettered, redriven, replayed, read and traced.
async fn all_ways<DB: Database>(world: World<DB>, headers: &[u8], payload: &str) {
    let shop = Shop::default();
    let running = run(&world, &shop);
    world
        .publish_raw_with(b"user.created", headers, payload.as_bytes())
        .await;
    eventually("the dead letter", || async {
        world.dead_letters().await.len() == 1
    })
    .await;
    let letters = DeadLetters::new(&world.bus);
    let mut reader = letters.read(DeadLetterSelection::default()).await.unwrap();
    let letter = reader.next().await.unwrap().unwrap();
    assert_eq!(letter.key.as_deref(), Some("Zo\u{eb}"));
    shop.accept(true);
    letters
        .redriver()
        .await
        .unwrap()
        .redrive(&letter)
        .await
        .unwrap();
    eventually("its effect", || async { world.counted("ada").await == 1 }).await;
    world.replayed(DURABLE, &everything().key("Zo\u{eb}")).await;
    running.stop().await.unwrap();
    let called = shop.called.all();
    assert_eq!((called.len(), world.counted("ada").await), (4, 2));
    assert!(called.iter().all(|call| *call == called[0]), "{called:?}");
    let id = letter.event.unwrap();
    assert_eq!(called[0], format!("ada@example.org Zo\u{eb} acme 1 {id}"));

    let mut reader = world
        .bus
        .read("EVENTS", &[], StartFrom::Beginning)
        .await
        .unwrap();
    let seen = within("it is read", reader.next()).await.unwrap();
    let envelope = seen.envelope.unwrap();
    assert_eq!(
        (envelope.id(), envelope.extensions().get("tenant")),
        (id, Some("acme"))
    );
    assert_eq!(envelope.payload(), DATA);
    let trace = Trace::new(&world.bus).streams(["EVENTS"]);
    for sought in [
        TraceTarget::Event(id),
        TraceTarget::Key("Zo\u{eb}".to_owned()),
    ] {
        let found = within("it is found", trace.run(&sought)).await.unwrap();
        assert_eq!(found.events.len(), 1, "{found:?}");
        assert_eq!(
            (found.events[0].event, found.events[0].stored.len()),
            (id, 1)
        );
    }
}

async fn a_structured_event_is_one_event_on_every_path<DB: Database>(world: World<DB>) {
    all_ways(world, STRUCTURED, WRAPPER).await;
}

async fn a_binary_event_is_one_event_on_every_path<DB: Database>(world: World<DB>) {
    all_ways(world, BINARY, DATA).await;
}

/// Publishes a user with a fixed id from this source.
async fn from<DB: Database>(world: &World<DB>, source: &str, user: &str) {
    let id = "0190d1e2-0000-7000-8000-000000000009";
    let headers = format!("ce-id: {id}\r\nce-source: {source}\r\nce-type: user.created.v1");
    let payload = serde_json::to_vec(&User::new(user)).unwrap();
    world
        .publish_raw_with(b"user.created", headers.as_bytes(), &payload)
        .await;
}

async fn one_id_of_two_sources_is_two_events_and_of_one_source_one<DB: Database>(world: World<DB>) {
    let shop = Shop::default();
    shop.accept(true);
    for (source, user) in [
        ("shop", "ada"),
        ("bank", "bob"),
        ("shop", "ada"),
        ("bank", "bob"),
    ] {
        from(&world, source, user).await;
    }
    world.publish([&User::new("last")]).await;
    let running = run(&world, &shop);
    eventually("the last one", || async {
        world.counted("last").await == 1
    })
    .await;
    eventually("all effects", || async {
        world.counted("ada").await == 1 && world.counted("bob").await == 1
    })
    .await;
    running.stop().await.unwrap();
    assert_eq!(
        (world.counted("ada").await, world.counted("bob").await),
        (1, 1)
    );
    assert_eq!(world.dead_letters().await.len(), 0);
}

async fn a_duplicate_of_a_foreign_publisher_is_no_stream_issue<DB: Database>(world: World<DB>) {
    let relay = world.relay();
    let mut tx = world.outbox.begin().await.unwrap();
    let id = tx.publish(&User::new("own")).unwrap();
    tx.commit().await.unwrap();
    // `verify` ignores messages before the first event of the outbox.
    eventually("it is published", || async {
        world.outbox.status().await.unwrap().backlog == 0
    })
    .await;
    for source in ["shop", "bank", "shop", "bank"] {
        from(&world, source, "ada").await;
    }
    // An event of another publisher may even have the id of one of ours.
    let lines = format!("ce-id: {id}\r\nce-source: elsewhere\r\nce-type: user.created.v1");
    world
        .publish_raw_with(b"user.created", lines.as_bytes(), b"{}")
        .await;
    world
        .publish_raw_with(b"user.created", STRUCTURED, WRAPPER.as_bytes())
        .await;
    world
        .publish_raw_with(b"user.created", STRUCTURED, WRAPPER.as_bytes())
        .await;
    relay.stop().await.unwrap();
    let found = Verify::new(&world.bus, &world.outbox).run().await.unwrap();
    let stream = &found.streams[0];
    assert_eq!(
        (stream.ok, stream.foreign, stream.duplicates),
        (1, 7, 0),
        "{found:?}"
    );
    assert!(found.is_ok(), "{found:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unreadable_event_becomes_a_dead_letter_with_a_reason() {
    let world = World::<Sqlite>::start().await;
    let shop = Shop::default();
    let running = run(&world, &shop);
    let batch = format!("[{WRAPPER}]");
    let cases: [(&[u8], &str, &str); 6] = [
        (
            b"content-type: application/cloudevents-batch+json",
            &batch,
            "each event of the batch",
        ),
        (
            b"content-type: application/cloudevents+avro",
            "x",
            "application/cloudevents+avro",
        ),
        (
            b"content-type: application/cloudevents+json; charset=utf-16",
            WRAPPER,
            "utf-16",
        ),
        (
            STRUCTURED,
            r#"{"specversion":"1.0","data":1,"data_base64":"AA=="}"#,
            "both data and data_base64",
        ),
        (
            b"content-type: application/json\r\nContent-Encoding: gzip",
            DATA,
            "content-encoding is \"gzip\"",
        ),
        (
            b"content-type: text/xml",
            "<user/>",
            "the payload is text/xml, not JSON",
        ),
    ];
    for (at, (headers, payload, why)) in cases.into_iter().enumerate() {
        world
            .publish_raw_with(b"user.created", headers, payload.as_bytes())
            .await;
        eventually(why, || async { world.dead_letters().await.len() == at + 1 }).await;
        let letter = world.dead_letters().await.0.remove(at);
        assert_eq!(letter.header("tidings-dead-cause"), "undecodable");
        let error = letter.header("tidings-dead-error");
        assert!(error.contains(why), "{error}");
        assert_eq!(letter.payload, payload.as_bytes());
    }
    // An event with a wrong media type is still decoded.
    shop.accept(true);
    world
        .publish_raw_with(
            b"user.created",
            b"content-type: text/plain",
            DATA.as_bytes(),
        )
        .await;
    eventually("its effect", || async { world.counted("ada").await == 1 }).await;
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edited_payload_is_read_as_what_it_is() {
    let world = World::<Sqlite>::start().await;
    let shop = Shop::default();
    shop.accept(true);
    let running = run(&world, &shop);
    let batch: &[u8] =
        b"content-type: application/cloudevents-batch+json\r\ncontent-encoding: gzip";
    world.publish_raw_with(b"user.created", batch, b"[]").await;
    eventually("the dead letter", || async {
        world.dead_letters().await.len() == 1
    })
    .await;
    let letters = DeadLetters::new(&world.bus);
    let letter = letters.find(1).await.unwrap();
    let redriver = letters.redriver().await.unwrap();
    redriver
        .redrive_edited(&letter, &tidings::dead_letters::Edit::new(DATA, "grace"))
        .await
        .unwrap();
    eventually("its effect", || async { world.counted("ada").await == 1 }).await;
    running.stop().await.unwrap();
}
