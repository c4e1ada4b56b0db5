//! P7, P9: when a durable delivers names that an instance has no handler for, its other events continue to flow, and
//! the instance reports it.

use tidings::{Context, EventSubscriber, Failure, Rate, Worker, subscribers::Subscribers};

use crate::support::{Counted, Noted, User, World, eventually, log, note_id};

type Sqlite = sqlx::Sqlite;

async fn count(event: Counted, cx: Context<Noted>) -> Result<(), Failure> {
    cx.state().note(event.key);
    Ok(())
}

fn subscriber(name: &str, is_ordered: bool) -> EventSubscriber<Noted> {
    let subscriber = EventSubscriber::durable(name).on(note_id);
    match is_ordered {
        true => subscriber.ordered_by_key(),
        false => subscriber,
    }
}

/// Publishes more events without a handler than there are slots, then events with one, under a rate limit that the
/// former would use up.
async fn handled_names_continue(name: &'static str, is_ordered: bool) {
    const UNHANDLED: usize = 1_500;
    log::listen();
    let world = World::<Sqlite>::start().await;
    let noted = Noted::default();
    let run =
        |subscriber| world.run(Worker::new(world.bus.clone(), noted.clone()).subscribe(subscriber));
    let newer = run(subscriber(name, is_ordered).on(count));
    let counted = |key: String| Counted { key, count: 1 };
    world.publish(&[counted("known".to_owned())]).await;
    noted.reach(1).await;
    newer.stop().await.unwrap();

    let unhandled = (0..UNHANDLED).map(|n| counted(format!("key-{n}")));
    world.publish(&unhandled.collect::<Vec<_>>()).await;
    let users = (0..300).map(|n| User::new(&format!("user-{n}")));
    world.publish(&users.collect::<Vec<_>>()).await;
    let rate = Rate::per_second(400);
    let running = run(subscriber(name, is_ordered).rate_limit(rate));
    // Within the minute that every wait has, though the events without a handler are not settled.
    noted.reach(301).await;
    eventually("the status shows it", || async {
        let found = Subscribers::new(&world.bus).find(name).await.unwrap();
        let issues = found
            .instances
            .iter()
            .filter_map(|it| it.unhandled.as_ref());
        issues
            .into_iter()
            .any(|it| it.contains("count.raised") && it.contains("tidings subscribers prune"))
    })
    .await;
    let lines = log::said("unhandled event deferred");
    assert!((1..10).contains(&lines.len()), "{} lines", lines.len());
    running.stop().await.unwrap();

    // None of these events is lost.
    let newer = run(subscriber(name, is_ordered).on(count));
    noted.reach(301 + UNHANDLED).await;
    newer.stop().await.unwrap();
    assert_eq!(world.dead_letters().await.len(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handled_names_continue_in_order() {
    handled_names_continue("unhandled-ordered", true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handled_names_continue_without_order() {
    handled_names_continue("unhandled", false).await;
}
