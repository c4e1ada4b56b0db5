//! P7, P9: a dead letter is not redriven to a subscriber without a consumer, and retries without one are listed.

use serde_json::json;
use tidings::{
    Context, EventSubscriber, Failure,
    dead_letters::{DeadLetterSelection, DeadLetters, DeadLettersError},
    subscribers::Subscribers,
};

use crate::support::{
    Noted, Tool, User, eventually,
    working::{Working, publish, server},
};

async fn refuse(event: User, cx: Context<Noted>) -> Result<(), Failure> {
    cx.state().note(event.id);
    Err(Failure::reject("no such mailbox"))
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_and_retries_of_a_removed_subscriber_stay() {
    let (server, bus) = server().await;
    let tool = Tool::at(&server).await;
    let working = Working::run(&bus, [EventSubscriber::durable("gone").on(refuse)]);
    publish(&bus, "bad").await;
    working.has("bad").await;
    let letters = DeadLetters::new(&bus);
    let read = || letters.read(DeadLetterSelection::default());
    eventually("a letter", || async {
        read().await.unwrap().next().await.unwrap().is_some()
    })
    .await;
    working.end().await;
    let subscribers = Subscribers::new(&bus);
    eventually("it is removed", || async {
        match subscribers.plan_remove("gone").await {
            Ok(removal) => subscribers.remove(&removal).await.is_ok(),
            Err(_) => false,
        }
    })
    .await;

    let redriver = letters.redriver().await.unwrap();
    let letter = read().await.unwrap().next().await.unwrap().unwrap();
    for refused in [
        redriver.check(&letter).await,
        redriver.redrive(&letter).await,
    ] {
        let is_it = matches!(&refused, Err(DeadLettersError::NoSubscriber { subscriber }) if subscriber == "gone");
        assert!(is_it, "{refused:?}");
    }
    assert!(read().await.unwrap().next().await.unwrap().is_some());
    assert!(subscribers.overview().await.issues.is_empty());

    tool.put("tidings.retry.gone.user.created", &[], "{}").await;
    eventually("it is listed", || async {
        let issues = subscribers.overview().await.issues;
        issues
            .iter()
            .any(|issue| issue.kind.as_str() == "retries-orphaned" && issue.cause.contains("gone"))
    })
    .await;
    tool.done("STREAM.PURGE.RETRIES", json!({})).await;
    assert!(subscribers.overview().await.issues.is_empty());
}
