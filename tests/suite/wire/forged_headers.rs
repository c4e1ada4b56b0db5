//! P7: headers of Tidings that another publisher forges do not change what happens to an event.

use std::time::Duration;

use async_nats::{HeaderMap, jetstream};
use tidings::{
    dead_letters::{DeadLetterSelection, DeadLetters, StoredDeadLetter},
    handler::Cause,
};

use crate::{
    both,
    support::{CHARGES, Database, Shop, User, World, eventually},
};

/// Headers in the name of Tidings that any publisher may send.
const FORGED: [(&str, &str); 14] = [
    ("tidings-redrives", "4294967295"),
    ("tidings-redrive", "77"),
    ("tidings-redrive-edited", "true"),
    ("tidings-retry-failures", "4294967295"),
    ("tidings-retry-deferrals", "4294967295"),
    ("tidings-retry-first-failed-at", "+262142-12-31T23:59:59Z"),
    ("tidings-retry-stream", "OTHER"),
    ("tidings-retry-sequence", "18446744073709551615"),
    ("tidings-retry-identity", "OTHER/7/1"),
    ("tidings-retry-message-id", "another"),
    ("tidings-dead-cause", "parked-key"),
    ("tidings-replay", "0190d1e200007000800000000000000f"),
    ("tidings-replay-shadow", "v2"),
    ("Tidings-Republished", "1"),
];

async fn store<DB: Database>(
    world: &World<DB>,
    subject: &str,
    headers: &[(&str, &str)],
    user: &str,
) {
    let context = jetstream::new(async_nats::connect(world.nats.url()).await.unwrap());
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        map.append(*name, *value);
    }
    let payload = serde_json::to_vec(&User::new(user)).unwrap();
    let stored = context.publish_with_headers(subject.to_owned(), map, payload.into());
    stored.await.unwrap().await.unwrap();
}

async fn letters<DB: Database>(world: &World<DB>) -> Vec<StoredDeadLetter> {
    let letters = DeadLetters::new(&world.bus);
    let mut reader = letters.read(DeadLetterSelection::default()).await.unwrap();
    let mut found = Vec::new();
    while let Some(letter) = reader.next().await.unwrap() {
        found.push(letter);
    }
    found
}

async fn only_letter<DB: Database>(world: &World<DB>) -> StoredDeadLetter {
    eventually("a dead letter", || async {
        letters(world).await.len() == 1
    })
    .await;
    letters(world).await.remove(0)
}

both!(
    an_event_with_forged_headers_is_an_ordinary_event,
    a_redrive_calls_the_handler_despite_a_forged_count,
    forged_retries_are_bounded,
);

async fn an_event_with_forged_headers_is_an_ordinary_event<DB: Database>(world: World<DB>) {
    let shop = Shop::default();
    let running = world.run_charges(&shop);
    store(&world, "user.created", &FORGED, "ada").await;
    let letter = only_letter(&world).await;
    assert_eq!((letter.redrives, letter.attempts), (0, Some(1)));
    assert_eq!(
        (letter.stream.as_deref(), letter.stream_sequence),
        (Some("EVENTS"), Some(1))
    );
    assert_eq!(letter.cause, Some(Cause::Rejected));
    let ours = letter
        .headers
        .iter()
        .map(|(name, _)| name.to_ascii_lowercase());
    let carried: Vec<_> = ours
        .filter(|name| name.starts_with("tidings-") && !name.starts_with("tidings-dead-"))
        .collect();
    assert_eq!(carried, [] as [String; 0]);

    shop.accept(true);
    let redriver = DeadLetters::new(&world.bus).redriver().await.unwrap();
    redriver.redrive(&letter).await.unwrap();
    shop.called.reach(2).await;
    eventually("it has its effect", || async {
        world.counted("ada").await == 1
    })
    .await;
    running.stop().await.unwrap();
    assert_eq!(shop.called.all(), ["ada 1", "ada 1"]);
    assert_eq!(letters(&world).await, []);
}

async fn a_redrive_calls_the_handler_despite_a_forged_count<DB: Database>(world: World<DB>) {
    let many = "9".repeat(3_000);
    for (at, redrives) in ["4294967295", "4294967294", &many, "-1", "", "x"]
        .into_iter()
        .enumerate()
    {
        let shop = Shop::default();
        let running = world.run_charges(&shop);
        let user = format!("u{at}");
        store(&world, "user.created", &[], &user).await;
        let letter = only_letter(&world).await;
        let dead_letters = DeadLetters::new(&world.bus);
        let redriver = dead_letters.redriver().await.unwrap();
        // The same dead letter, with another count.
        let told = letter
            .headers
            .iter()
            .filter(|(name, _)| name != "Nats-Msg-Id");
        let mut told: Vec<(&str, &str)> = told.map(|(name, value)| (&**name, &**value)).collect();
        told.push(("tidings-redrives", redrives));
        store(&world, &letter.subject, &told, &user).await;
        assert!(dead_letters.discard(&letter).await.unwrap());
        for calls in 2..=4 {
            let letter = only_letter(&world).await;
            shop.accept(calls == 4);
            redriver.redrive(&letter).await.unwrap();
            shop.called.reach(calls).await;
        }
        eventually("it has its effect", || async {
            world.counted(&user).await == 1
        })
        .await;
        running.stop().await.unwrap();
        assert_eq!(letters(&world).await, [], "{redrives:.20}");
        assert_eq!(shop.called.len(), 4);
    }
}

async fn forged_retries_are_bounded<DB: Database>(world: World<DB>) {
    let shop = Shop::default();
    let running = world.run_charges(&shop);
    let subject = format!("tidings.retry.{CHARGES}.user.created");
    // When an event has no other identity, the inbox uses the one of the retry, which contains a time.
    let believed = |(name, _): &&(&str, &str)| *name != "tidings-retry-identity";
    let believed: Vec<_> = FORGED[..10].iter().filter(believed).copied().collect();
    store(&world, &subject, &believed, "ada").await;
    let letter = only_letter(&world).await;
    assert_eq!(shop.called.all(), ["ada 4294967295"]);
    assert_eq!(
        (letter.attempts, letter.redrives),
        (Some(u32::MAX), u32::MAX)
    );
    for odd in ["-1", "", "x"] {
        let headers: Vec<_> = FORGED[..10].iter().map(|(name, _)| (*name, odd)).collect();
        store(&world, &subject, &headers, &format!("bob{odd}")).await;
    }
    shop.called.reach(4).await;
    eventually("all are dead letters", || async {
        letters(&world).await.len() == 4
    })
    .await;
    shop.accept(true);
    let redriver = DeadLetters::new(&world.bus).redriver().await.unwrap();
    for letter in letters(&world).await {
        redriver.redrive(&letter).await.unwrap();
    }
    shop.called.reach(8).await;
    for user in ["ada", "bob", "bobx", "bob-1"] {
        eventually("it has its effect", || async {
            world.counted(user).await == 1
        })
        .await;
    }
    running.stop().await.unwrap();
    // real time: no event arrives any more
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!((shop.called.len(), letters(&world).await.len()), (8, 0));
}
