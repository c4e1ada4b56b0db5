//! P7: dead letters can be found, understood, and redriven to the subscriber that failed.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_nats::HeaderMap;
use tidings::{
    Bus, CircuitBreaker, Context, EventPublisher, EventSubscriber, Failure, Retry, StreamSpec,
    Worker,
    dead_letters::{DeadLetterSelection, DeadLetters, DeadLettersError, Edit, StoredDeadLetter},
    handler::Cause,
    worker::WorkerError,
};
use tidings_test_servers::NatsServer;

use crate::support::{Counted, Database, Noted, Running, User, World, eventually, within};

type Sqlite = sqlx::Sqlite;

/// A service whose mail server is down until it is repaired.
#[derive(Clone, Default)]
struct Shop {
    welcomed: Noted,
    audited: Noted,
    counted: Noted,
    is_repaired: Arc<AtomicBool>,
}

impl Shop {
    fn check(&self) -> Result<(), Failure> {
        match self.is_repaired.load(Ordering::SeqCst) {
            true => Ok(()),
            false => Err(Failure::retry("mail server 10.0.0.7 is down for 30s")),
        }
    }
}

async fn welcome(user: User, cx: Context<Shop>) -> Result<(), Failure> {
    cx.state().check()?;
    let headers = cx.headers().iter();
    let headers: Vec<String> = headers
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    cx.state().welcomed.note(format!(
        "{} {} attempt {} {} {}",
        cx.event_id(),
        user.email,
        cx.attempt(),
        cx.correlation_id(),
        headers.join(",")
    ));
    Ok(())
}

async fn audit(user: User, cx: Context<Shop>) -> Result<(), Failure> {
    cx.state().audited.note(user.id);
    Ok(())
}

async fn count(counted: Counted, cx: Context<Shop>) -> Result<(), Failure> {
    cx.state().check()?;
    let Counted { key, count } = counted;
    cx.state().counted.note(format!("{key} {count}"));
    Ok(())
}

fn run(world: &World<Sqlite>, shop: &Shop) -> Running<WorkerError> {
    let retry =
        Retry::exponential(Duration::from_millis(20), Duration::from_millis(20)).attempts(2);
    let worker = Worker::new(world.bus.clone(), shop.clone())
        .subscribe(EventSubscriber::durable("welcome").on(welcome).retry(retry))
        .subscribe(EventSubscriber::durable("audit").on(audit))
        .subscribe(
            EventSubscriber::durable("counts")
                .on(count)
                .retry(retry)
                // All events fail here, on purpose.
                .circuit_breaker(CircuitBreaker::off())
                .ordered_by_key(),
        );
    world.run(worker)
}

async fn publish(world: &World<Sqlite>, id: &str) -> String {
    let envelope = tidings::Envelope::of(&User::new(id)).unwrap();
    let envelope = envelope.header("x-tenant", "acme").unwrap();
    let envelope = envelope.with_correlation_id("order-7").unwrap();
    let id = envelope.id().to_string();
    EventPublisher::new(&world.bus)
        .publish(envelope)
        .await
        .unwrap();
    id
}

async fn letters(world: &World<Sqlite>) -> Vec<StoredDeadLetter> {
    selected(world, DeadLetterSelection::default()).await
}

async fn selected(world: &World<Sqlite>, selection: DeadLetterSelection) -> Vec<StoredDeadLetter> {
    let mut reader = DeadLetters::new(&world.bus).read(selection).await.unwrap();
    let mut letters = Vec::new();
    while let Some(letter) = within("a letter", reader.next()).await.unwrap() {
        letters.push(letter);
    }
    letters
}

async fn until_dead(world: &World<Sqlite>, count: usize) -> Vec<StoredDeadLetter> {
    eventually("the dead letters", || async {
        letters(world).await.len() >= count
    })
    .await;
    letters(world).await
}

async fn bury(world: &World<Sqlite>, subject: &str, headers: &[(&str, &str)], payload: &str) {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        map.append(*name, *value);
    }
    let context = world.jetstream().await;
    let stored = context.publish_with_headers(subject.to_owned(), map, payload.to_owned().into());
    stored.await.unwrap().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redriven_event_reaches_only_the_subscriber_that_failed() {
    let world = World::<Sqlite>::start().await;
    let shop = Shop::default();
    let running = run(&world, &shop);
    let id = publish(&world, "ada").await;
    let letter = until_dead(&world, 1).await.remove(0);
    shop.audited.reach(1).await;
    assert_eq!(letter.subscriber, "welcome");
    assert_eq!(letter.name, "user.created");
    assert_eq!(letter.key.as_deref(), Some("ada"));
    assert_eq!(letter.event.unwrap().to_string(), id);
    assert_eq!(letter.cause, Some(Cause::Exhausted));
    assert_eq!(letter.attempts, Some(2));
    assert!(letter.first_failed_at < letter.last_failed_at);
    assert!(letter.first_failed_at.is_some() && letter.consumer_sequence.is_some());
    assert!(
        letter.handler.as_deref().unwrap().contains("welcome"),
        "{letter:?}"
    );
    assert_eq!(
        (letter.stream.as_deref(), letter.stream_sequence),
        (Some("EVENTS"), Some(1))
    );

    shop.is_repaired.store(true, Ordering::SeqCst);
    let redriver = DeadLetters::new(&world.bus).redriver().await.unwrap();
    redriver.redrive(&letter).await.unwrap();
    shop.welcomed.reach(1).await;
    running.stop().await.unwrap();
    assert_eq!(
        shop.welcomed.all(),
        [format!(
            "{id} ada@example.org attempt 1 order-7 x-tenant=acme"
        )]
    );
    assert_eq!(shop.audited.all(), ["ada"]);
    assert_eq!(letters(&world).await, []);
    assert_eq!(world.stored().await.len(), 1);
    assert!(matches!(
        redriver.redrive(&letter).await,
        Err(DeadLettersError::Gone { sequence: 1 })
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redriven_event_that_fails_is_a_dead_letter_with_a_count() {
    let world = World::<Sqlite>::start().await;
    let shop = Shop::default();
    let running = run(&world, &shop);
    let id = publish(&world, "ada").await;
    let redriver = DeadLetters::new(&world.bus).redriver().await.unwrap();
    for redrives in 0..3 {
        let letter = until_dead(&world, 1).await.remove(0);
        assert_eq!(letter.redrives, redrives);
        assert_eq!(letter.event.unwrap().to_string(), id);
        assert_eq!(letter.attempts, Some(2));
        assert_eq!(letter.stream_sequence, Some(1));
        redriver.redrive(&letter).await.unwrap();
    }
    until_dead(&world, 1).await;
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redrive_keeps_the_order_of_each_key() {
    let world = World::<Sqlite>::start().await;
    let shop = Shop::default();
    let running = run(&world, &shop);
    let publisher = EventPublisher::new(&world.bus);
    for n in 1..=20 {
        for key in ["a", "b"] {
            let counted = Counted {
                key: key.to_owned(),
                count: n,
            };
            publisher.publish(&counted).await.unwrap();
        }
    }
    let dead = until_dead(&world, 40).await;
    shop.is_repaired.store(true, Ordering::SeqCst);
    let redriver = DeadLetters::new(&world.bus).redriver().await.unwrap();
    for letter in &dead {
        redriver.redrive(letter).await.unwrap();
    }
    shop.counted.reach(40).await;
    running.stop().await.unwrap();
    for key in ["a", "b"] {
        let seen = shop
            .counted
            .all()
            .into_iter()
            .filter(|note| note.starts_with(key));
        let expected: Vec<String> = (1..=20).map(|n| format!("{key} {n}")).collect();
        assert_eq!(seen.collect::<Vec<_>>(), expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_redrive_after_a_crash_has_no_second_effect() {
    let nats = NatsServer::options().config(
        "no_auth_user: admin\nauthorization { users: [ {user: admin, password: admin}, {user: slow, password: slow, \
         permissions: {publish: {allow: [\">\"], deny: [\"$JS.API.STREAM.MSG.DELETE.>\"]}}} ] }\n",
    );
    let nats = nats.start().await.unwrap();
    let world = World::<Sqlite>::with(<Sqlite as Database>::open().await, nats).await;
    let shop = Shop::default();
    let running = run(&world, &shop);
    publish(&world, "ada").await;
    let letter = until_dead(&world, 1).await.remove(0);
    shop.is_repaired.store(true, Ordering::SeqCst);

    // The redriver publishes, and does not get further than the deletion.
    let url = world.nats.url().replace("nats://", "nats://slow:slow@");
    let slow = Bus::connect(url).await.unwrap();
    let redriver = DeadLetters::new(&slow).redriver().await.unwrap();
    let dying = tokio::spawn({
        let letter = letter.clone();
        async move { redriver.redrive(&letter).await }
    });
    shop.welcomed.reach(1).await;
    dying.abort();
    assert!(dying.await.unwrap_err().is_cancelled());
    assert_eq!(letters(&world).await, std::slice::from_ref(&letter));

    let redriver = DeadLetters::new(&world.bus).redriver().await.unwrap();
    redriver.redrive(&letter).await.unwrap();
    assert_eq!(letters(&world).await, []);
    publish(&world, "bob").await;
    shop.welcomed.reach(2).await;
    running.stop().await.unwrap();
    let emails: Vec<bool> = shop
        .welcomed
        .all()
        .iter()
        .map(|note| note.contains("bob"))
        .collect();
    assert_eq!(emails, [false, true]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_handler_gets_an_edited_payload_and_the_edit_is_recorded() {
    let world = World::<Sqlite>::start().await;
    let shop = Shop::default();
    let running = run(&world, &shop);
    let id = publish(&world, "ada").await;
    let dead_letters = DeadLetters::new(&world.bus);
    let redriver = dead_letters.redriver().await.unwrap();
    let letter = until_dead(&world, 1).await.remove(0);
    let not_json = redriver
        .redrive_edited(&letter, &Edit::new("{", "grace"))
        .await;
    assert!(
        matches!(not_json, Err(DeadLettersError::Impossible { .. })),
        "{not_json:?}"
    );

    let edit = Edit::new(r#"{"id":"ada","email":"right@example.org"}"#, "grace");
    redriver.redrive_edited(&letter, &edit).await.unwrap();
    let letter = until_dead(&world, 1).await.remove(0);
    assert_eq!(letter.payload, edit.payload);
    assert_eq!(letter.header("tidings-redrive-edited"), Some("true"));
    assert_eq!(letter.header("tidings-redrive-edited-by"), Some("grace"));
    assert!(letter.header("tidings-redrive-edited-at").is_some());
    // printf '{"id":"ada","email":"ada@example.org"}' | sha256sum
    assert_eq!(
        letter.header("tidings-redrive-edited-from"),
        Some("2dd2f9ce8dfe344291c18d8b692258881a226bef8d7e650261da26320482b331")
    );
    shop.is_repaired.store(true, Ordering::SeqCst);
    redriver.redrive(&letter).await.unwrap();
    shop.welcomed.reach(1).await;
    running.stop().await.unwrap();
    let expected = format!("{id} right@example.org attempt 1 order-7 x-tenant=acme");
    assert_eq!(shop.welcomed.all(), [expected]);
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_dead_letters_hide_nothing_and_are_not_redriven() {
    let world = World::<Sqlite>::start().await;
    bury(&world, "dead-letter.x", &[], "\u{1}").await;
    bury(
        &world,
        "dead-letter.welcome.user.created",
        &[("Nats-Sequence", "99")],
        "not json",
    )
    .await;
    let unreadable = b"x-bad: \xff\xfe";
    world
        .publish_raw(b"dead-letter.welcome.user.created", unreadable)
        .await;
    let told = [
        ("tidings-dead-attempts", "many"),
        ("tidings-dead-at", "never"),
    ];
    bury(&world, "dead-letter.welcome.user.created", &told, "{}").await;

    let all = letters(&world).await;
    let sequences: Vec<u64> = all.iter().map(|letter| letter.sequence).collect();
    assert_eq!(sequences, [1, 2, 3, 4]);
    assert_eq!(all[2].payload, "{}");
    assert_eq!((all[3].attempts, all[3].last_failed_at), (None, None));
    let dead_letters = DeadLetters::new(&world.bus);
    assert_eq!(dead_letters.find(3).await.unwrap(), all[2]);
    let groups = dead_letters
        .groups(DeadLetterSelection::default())
        .await
        .unwrap();
    assert_eq!(groups.iter().map(|group| group.count).sum::<u64>(), 4);
    let redriver = dead_letters.redriver().await.unwrap();
    let refused = redriver.redrive(&all[0]).await;
    assert!(
        matches!(
            refused,
            Err(DeadLettersError::Impossible { sequence: 1, .. })
        ),
        "{refused:?}"
    );
    assert_eq!(letters(&world).await.len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_dead_letters_are_paged_selected_and_grouped() {
    let world = World::<Sqlite>::start().await;
    for n in 1..=600 {
        let (subscriber, key) = (["welcome", "audit"][n % 2], format!("key-{}", n % 3));
        let error = ["timeout after", "no such mailbox"][n % 2].to_owned() + &format!(" {n}");
        let headers = [
            ("ce-type", "user.created.v1"),
            ("ce-partitionkey", &*key),
            ("tidings-dead-cause", "exhausted"),
            ("tidings-dead-error", &*error),
        ];
        bury(
            &world,
            &format!("dead-letter.{subscriber}.user.created"),
            &headers,
            "{}",
        )
        .await;
    }
    let all = letters(&world).await;
    let sequences: Vec<u64> = all.iter().map(|letter| letter.sequence).collect();
    assert_eq!(sequences, (1..=600).collect::<Vec<u64>>());

    let selection = DeadLetterSelection::default;
    let of_audit = selected(&world, selection().subscriber("audit").key("key-0")).await;
    assert_eq!(of_audit.len(), 100);
    let since = all[499].stored_at;
    assert_eq!(selected(&world, selection().since(since)).await, all[499..]);
    assert_eq!(selected(&world, selection().until(since)).await, all[..499]);
    let kind = all[0].fingerprint.clone().unwrap();
    assert_eq!(
        selected(&world, selection().fingerprint(kind)).await.len(),
        300
    );
    assert_eq!(selected(&world, selection().sequence(7)).await, all[6..7]);
    assert_eq!(selected(&world, selection().sequence(700)).await, []);

    let groups = DeadLetters::new(&world.bus)
        .groups(selection())
        .await
        .unwrap();
    let counts: Vec<u64> = groups.iter().map(|group| group.count).collect();
    assert_eq!(counts, [300, 300]);
    assert_eq!(
        groups.iter().map(|group| group.last_sequence).max(),
        Some(600)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_without_payload_is_redriven_from_its_stream() {
    let world = World::<Sqlite>::start().await;
    let shop = Shop::default();
    shop.is_repaired.store(true, Ordering::SeqCst);
    let context = world.jetstream().await;
    let id = publish(&world, "ada").await;
    let stream = context.get_stream("EVENTS").await.unwrap();
    let stored_at = stream
        .get_raw_message(1)
        .await
        .unwrap()
        .time
        .unix_timestamp_nanos();
    let identity = format!("EVENTS/1/{stored_at}");
    let truncated = |identity: &'static str| {
        [
            ("tidings-dead-stream", "EVENTS"),
            ("tidings-dead-sequence", "1"),
            ("tidings-dead-truncated", "error, headers, payload"),
            ("tidings-dead-identity", identity),
        ]
    };
    let subject = "dead-letter.welcome.user.created";
    bury(&world, subject, &truncated(identity.leak()), "").await;
    bury(&world, subject, &truncated("EVENTS/1/7"), "").await;
    let [whole, another] = <[_; 2]>::try_from(letters(&world).await).unwrap();
    // A redrive to a subscriber without a consumer is refused.
    let running = run(&world, &shop);
    shop.welcomed.reach(1).await;
    let redriver = DeadLetters::new(&world.bus).redriver().await.unwrap();
    redriver.redrive(&whole).await.unwrap();
    let refused = redriver.redrive(&another).await;
    assert!(
        matches!(refused, Err(DeadLettersError::Impossible { .. })),
        "{refused:?}"
    );
    shop.welcomed.reach(2).await;
    running.stop().await.unwrap();
    let note = format!("{id} ada@example.org attempt 1 order-7 x-tenant=acme");
    // The event itself, and the redriven one.
    assert_eq!(shop.welcomed.all(), [note.clone(), note]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_internal_stream_is_named() {
    let world = World::<Sqlite>::start().await;
    let context = world.jetstream().await;
    let retries = StreamSpec::retries().name;
    context.delete_stream(&retries).await.unwrap();
    let dead_letters = DeadLetters::new(&world.bus);
    let refused = dead_letters.redriver().await.unwrap_err();
    assert!(matches!(&refused, DeadLettersError::NoStream { stream } if *stream == retries));
    assert!(
        refused.to_string().contains("tidings streams apply"),
        "{refused}"
    );
    context.delete_stream("DEAD_LETTERS").await.unwrap();
    let refused = dead_letters.read(DeadLetterSelection::default()).await;
    assert!(matches!(refused, Err(DeadLettersError::NoStream { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_discarded_dead_letter_is_deleted_and_not_redriven() {
    let world = World::<Sqlite>::start().await;
    bury(&world, "dead-letter.welcome.user.created", &[], "{}").await;
    bury(&world, "dead-letter.welcome.user.created", &[], "{}").await;
    let dead_letters = DeadLetters::new(&world.bus);
    let redriver = dead_letters.redriver().await.unwrap();
    let all = letters(&world).await;
    assert!(dead_letters.discard(&all[0]).await.unwrap());
    assert!(!dead_letters.discard(&all[0]).await.unwrap());
    assert_eq!(letters(&world).await, all[1..]);
    let refused = redriver.redrive(&all[0]).await;
    assert!(
        matches!(refused, Err(DeadLettersError::Gone { sequence: 1 })),
        "{refused:?}"
    );
}
