//! What the doctor finds while handlers hang, fail, or are missing, while keys wait or are parked, and while retries and
//! replays wait.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tidings::{
    Bus, CircuitBreaker, Context, Event, EventPublisher, EventSubscriber, Failure, Retry,
    StartFrom,
    handler::OnExhausted,
    replays::{ReplayRequest, Replays},
};
use tidings_test_support::User;

use super::{has, working::Working};
use crate::support::{Store, World};

const HOUR: Duration = Duration::from_secs(3_600);

#[derive(Debug, Clone, Serialize, Deserialize, Event)]
#[event(name = "user.renamed", version = 1, key = id)]
struct Renamed {
    id: String,
    name: String,
}

/// Users whose ids begin with these words hang, fail, are rejected, or wait for an hour.
async fn handle(user: User, _: Context<()>) -> Result<(), Failure> {
    let word = user.id.split('-').next().unwrap_or_default();
    match word {
        "hangs" => std::future::pending().await,
        "fails" => Err(Failure::retry("the mail server says 503")),
        "bad" => Err(Failure::reject("no such account")),
        "later" => Err(Failure::retry_after(HOUR, "in an hour")),
        _ => Ok(()),
    }
}

async fn rename(_: Renamed, _: Context<()>) -> Result<(), Failure> {
    Ok(())
}

fn subscriber(name: &str) -> EventSubscriber<()> {
    EventSubscriber::durable(name).on(handle)
}

async fn world() -> World {
    World::start(Store::Sqlite).await.set_up().await
}

#[tokio::test]
async fn slots_that_all_hang_are_named_with_the_oldest() {
    let world = world().await;
    let hangs = subscriber("hangs").concurrency(2);
    let hangs = hangs.stuck_after(Duration::from_secs(20));
    let working = Working::start(&world, hangs).await;
    world.users(&["hangs-1", "hangs-2", "waits"]).await;
    let id = "subscriber/slots-taken/hangs";
    let early = world.finds(id, "notice", 0).await;
    has(&early, "cause", "all 2 slots are taken");
    let finding = world.finds(id, "stuck", 2).await;
    has(&finding, "cause", "the oldest, of user.created ");
    has(&finding, "cure", ".stuck_after");
    assert!(finding["for_s"].as_i64() >= Some(20), "{finding}");
    assert_eq!(finding["command"], "tidings subscribers show hangs");
    let shown = world.run(&["subscribers", "show", "hangs"]).await;
    assert!(shown.stdout.contains("oldest attempt"), "{shown:?}");
    // Its handlers do not end: the worker hands their events back.
    working.abandon();
}

#[tokio::test]
async fn an_open_circuit_has_its_error_and_its_next_probe() {
    let world = world().await;
    let minute = Duration::from_secs(60);
    let breaker = CircuitBreaker::default().within(minute, 3);
    let fails = subscriber("fails").circuit_breaker(breaker.open_for(minute, minute));
    let working = Working::start(&world, fails).await;
    world
        .users(&["fails-1", "fails-2", "fails-3", "fails-4"])
        .await;
    let finding = world
        .finds("subscriber/circuit-open/fails", "stuck", 2)
        .await;
    has(&finding, "cause", "the circuit is open");
    has(&finding, "cause", "the next one at 20");
    has(
        &finding,
        "cause",
        "the last error: the mail server says 503",
    );
    assert!(finding["since"].is_string(), "{finding}");
    working.stop().await;
}

fn ordered(name: &str) -> EventSubscriber<()> {
    let second = Duration::from_secs(1);
    let retry = Retry::exponential(second, second).attempts(u32::MAX);
    let ordered = subscriber(name).ordered_by_key().retry(retry);
    ordered.circuit_breaker(CircuitBreaker::off())
}

#[tokio::test]
async fn a_key_behind_a_failing_event_is_degraded() {
    let world = world().await;
    let working = Working::start(&world, ordered("mails")).await;
    world.users(&["fails-7", "fails-7", "fails-7", "ada"]).await;
    let finding = world
        .finds("subscriber/key-waits/mails", "degraded", 1)
        .await;
    has(&finding, "cause", "fails-7 (2 behind user.created ");
    has(&finding, "cause", "the next at 20");
    has(&finding, "cure", "tidings trace ");
    assert_eq!(finding["runbook"], "stuck-key.md");
    let shown = world.run(&["subscribers", "show", "mails"]).await;
    assert!(shown.stdout.contains("failing key"), "{shown:?}");
    working.stop().await;
}

#[tokio::test]
async fn a_parked_key_is_named_with_what_parked_it() {
    let world = world().await;
    let parks = ordered("mails").on_exhausted(OnExhausted::ParkKey);
    let working = Working::start(&world, parks).await;
    world.users(&["bad-7", "bad-7", "ada"]).await;
    let id = "subscriber/key-parked/mails";
    let finding = world.finds(id, "degraded", 1).await;
    has(&finding, "cause", "1 key is parked");
    has(
        &finding,
        "cause",
        "bad-7 (by the event 1 of EVENTS, rejected: no such account)",
    );
    has(
        &finding,
        "cure",
        "dead-letters redrive --subscriber mails --key",
    );
    assert_eq!(finding["runbook"], "stuck-key.md");
    assert_eq!(finding["facts"]["parked_keys"], 1);
    let letters = world
        .finds("subscriber/dead-letters/mails", "degraded", 1)
        .await;
    has(&letters, "cause", "for a decision");
    world.users(&["bad-8", "bad-9", "bad-10", "bad-11"]).await;
    let said = world
        .says("all of them", |said| {
            let finding = said.finding(id);
            finding.is_some_and(|it| it["facts"]["parked_keys"] == 5)
        })
        .await;
    let cause = said.finding(id).unwrap()["cause"].as_str().unwrap();
    assert!(cause.contains("5 keys are parked"), "{cause}");
    assert_eq!(cause.matches("(by the event ").count(), 3, "{cause}");
    working.stop().await;
    world.finds(id, "degraded", 1).await;
}

#[tokio::test]
async fn a_name_that_no_instance_handles_is_named() {
    let world = world().await;
    let newer = Working::start(&world, subscriber("names").on(rename)).await;
    newer.stop().await;
    let older = Working::start(&world, subscriber("names")).await;
    let id = "subscriber/name-without-handler/names";
    let finding = world.finds(id, "notice", 0).await;
    has(&finding, "cause", "deliver user.renamed");
    let bus = Bus::connect(world.nats.url()).await.unwrap();
    let renamed = Renamed {
        id: "ada".to_owned(),
        name: "Ada".to_owned(),
    };
    EventPublisher::new(&bus).publish(&renamed).await.unwrap();
    let finding = world.finds(id, "degraded", 1).await;
    has(
        &finding,
        "cause",
        "no handler of this instance takes user.renamed",
    );
    has(&finding, "cure", "tidings subscribers prune names");
    older.stop().await;
}

#[tokio::test]
async fn retries_and_replays_that_wait_are_notices() {
    let world = world().await;
    let working = Working::start(&world, subscriber("later")).await;
    world.users(&["later-1", "later-2", "ada"]).await;
    let id = "subscriber/retries-far/later";
    let both = |finding: Option<&Value>| {
        finding.is_some_and(|it| it["cause"].as_str().unwrap().contains("2 retries wait"))
    };
    let said = world.says(id, |said| both(said.finding(id))).await;
    let finding = said.finding(id).unwrap();
    assert_eq!((&finding["status"], said.code), (&"notice".into(), Some(0)));
    has(finding, "cure", "clocks");

    let bus = Bus::connect(world.nats.url()).await.unwrap();
    let replays = Replays::new(&bus);
    let request = ReplayRequest::new(StartFrom::Beginning).force();
    working.stop().await;
    let replay = replays.start("later", &request).await.unwrap();
    let id = "subscriber/replay-stuck/later";
    let finding = world.finds(id, "degraded", 1).await;
    has(&finding, "cause", "no instance answers");
    replays.pause(replay.id).await.unwrap();
    let id = "subscriber/replay-paused/later";
    let finding = world.finds(id, "notice", 0).await;
    has(
        &finding,
        "cause",
        &format!("the replay {} of 3 events is paused", replay.id),
    );
    has(&finding, "cure", "tidings replay resume");
    assert!(finding["since"].is_string(), "{finding}");
}

#[tokio::test]
async fn a_pause_says_its_end_and_what_waits() {
    let world = world().await;
    let working = Working::start(&world, subscriber("paused")).await;
    world.ok(&["subscribers", "pause", "paused"]).await;
    world.users(&["ada", "bob"]).await;
    let finding = world.finds("subscriber/paused/paused", "notice", 0).await;
    has(&finding, "cause", "without an end");
    has(&finding, "cause", "2 events wait");
    assert_eq!(finding["command"], "tidings subscribers resume paused");
    working.stop().await;
}

/// Each event takes a while, and more of them wait than are handled within the test.
#[tokio::test]
async fn a_subscriber_that_is_behind_is_well() {
    async fn slowly(_: User, _: Context<()>) -> Result<(), Failure> {
        // real time: this is what the handler does
        tokio::time::sleep(Duration::from_millis(200)).await;
        Ok(())
    }
    let world = world().await;
    let behind = EventSubscriber::durable("behind").on(slowly).concurrency(1);
    let working = Working::start(&world, behind).await;
    let ids: Vec<String> = (0..300).map(|n| format!("user-{n}")).collect();
    let ids: Vec<&str> = ids.iter().map(|id| &**id).collect();
    world.users(&ids).await;
    for _ in 0..5 {
        let said = world.doctor().await;
        assert_eq!(
            (said.code, &said.verdict["well"]["subscribers"]),
            (Some(0), &1.into())
        );
    }
    let shown = world
        .json(&["subscribers", "show", "behind", "--json"])
        .await;
    assert!(shown[0]["known_pending"].as_u64() > Some(50), "{shown:?}");
    working.abandon();
}
