//! P5, P7: a dead letter that was lost with its store is stored again when its event is redelivered, and never in
//! addition to an effect.

use std::time::Duration;

use serde_json::json;
use tidings::{
    EventPublisher, StreamSpec,
    dead_letters::{DeadLetterSelection, DeadLetters},
};
use uuid::Uuid;

use crate::{
    both,
    support::{CHARGES, Database, Shop, User, World, deliver, eventually},
};

async fn is_idle<DB: Database>(world: &World<DB>, stream: &str) {
    let context = world.jetstream().await;
    eventually("all is answered", || async {
        let stream = context.get_stream(stream).await.unwrap();
        let Ok(info) = stream.consumer_info(CHARGES).await else {
            return false;
        };
        info.num_pending == 0 && info.num_ack_pending == 0 && info.delivered.stream_sequence > 0
    })
    .await;
}

/// The server has forgotten the acks.
async fn comes_again<DB: Database>(world: &World<DB>) {
    let reset = format!("CONSUMER.RESET.EVENTS.{CHARGES}");
    let reset: serde_json::Value = world
        .jetstream()
        .await
        .request(reset, &json!({ "seq": 1 }))
        .await
        .unwrap();
    assert_eq!(reset["reset_seq"], 1, "{reset}");
}

/// Recreates the stream of dead letters without any.
async fn set_back<DB: Database>(world: &World<DB>) {
    let context = world.jetstream().await;
    context.delete_stream("DEAD_LETTERS").await.unwrap();
    world
        .bus
        .apply_stream(&StreamSpec::dead_letters())
        .await
        .unwrap();
}

/// An event that was dead-lettered; its dead letter is stored.
async fn dead_lettered<DB: Database>(world: &World<DB>, shop: &Shop) {
    let running = world.run_charges(shop);
    let publisher = EventPublisher::new(&world.bus);
    publisher.publish(&User::new("ada")).await.unwrap();
    world.has_dead_letters(1).await;
    is_idle(world, "EVENTS").await;
    running.stop().await.unwrap();
    shop.accept(true);
}

/// Checks that the dead letter is stored as before, that no handler was called, and that a redrive has the effect.
async fn is_stored_again<DB: Database>(world: &World<DB>, shop: &Shop) {
    let running = world.run_charges(shop);
    let of_ada = || async {
        let letters = world.dead_letters().await.0.into_iter();
        let letters = letters.filter(|letter| letter.json()["id"] == "ada");
        letters.collect::<Vec<_>>()
    };
    eventually("its letter", || async { of_ada().await.len() == 1 }).await;
    is_idle(world, "EVENTS").await;
    assert_eq!((shop.called.len(), world.counted("ada").await), (1, 0));
    let letter = of_ada().await.remove(0);
    let told = ["cause", "error", "attempts"]
        .map(|about| letter.header(&format!("tidings-dead-{about}")).to_owned());
    assert_eq!(told, ["rejected", "declined", "1"]);

    let letters = DeadLetters::new(&world.bus);
    let of_durable = DeadLetterSelection::default().subscriber(CHARGES);
    let mut reader = letters.read(of_durable).await.unwrap();
    let letter = reader.next().await.unwrap().unwrap();
    letters
        .redriver()
        .await
        .unwrap()
        .redrive(&letter)
        .await
        .unwrap();
    eventually("its effect", || async { world.counted("ada").await == 1 }).await;
    is_idle(world, "RETRIES").await;
    running.stop().await.unwrap();

    comes_again(world).await;
    let running = world.run_charges(shop);
    is_idle(world, "EVENTS").await;
    running.stop().await.unwrap();
    assert_eq!((shop.called.len(), world.counted("ada").await), (2, 1));
    assert_eq!(of_ada().await.len(), 0);
}

both!(
    a_lost_dead_letter_is_stored_again,
    a_lost_dead_letter_is_noticed_after_later_ones,
    a_lost_dead_letter_of_a_moved_event_is_stored_again,
    an_event_with_a_waiting_retry_has_no_dead_letter,
    a_dead_letter_discarded_behind_others_is_not_stored_again,
);

async fn a_lost_dead_letter_is_stored_again<DB: Database>(world: World<DB>) {
    let shop = Shop::default();
    dead_lettered(&world, &shop).await;
    set_back(&world).await;
    comes_again(&world).await;
    is_stored_again(&world, &shop).await;
}

async fn a_lost_dead_letter_is_noticed_after_later_ones<DB: Database>(world: World<DB>) {
    let shop = Shop::default();
    dead_lettered(&world, &shop).await;
    set_back(&world).await;
    for _ in 0..3 {
        let context = world.jetstream().await;
        let stored = context.publish("dead-letter.other.user.created", "{}".into());
        stored.await.unwrap().await.unwrap();
    }
    comes_again(&world).await;
    is_stored_again(&world, &shop).await;
}

async fn a_lost_dead_letter_of_a_moved_event_is_stored_again<DB: Database>(world: World<DB>) {
    let shop = Shop::default();
    let id = Uuid::now_v7();
    let running = world.run_charges(&shop);
    deliver(&world.nats.url(), id, "ada").await;
    world.has_dead_letters(1).await;
    is_idle(&world, "EVENTS").await;
    running.stop().await.unwrap();
    shop.accept(true);
    set_back(&world).await;
    let events = world.jetstream().await.get_stream("EVENTS").await.unwrap();
    events.delete_message(1).await.unwrap();
    deliver(&world.nats.url(), id, "ada").await;
    is_stored_again(&world, &shop).await;
}

async fn an_event_with_a_waiting_retry_has_no_dead_letter<DB: Database>(world: World<DB>) {
    let shop = Shop::default();
    dead_lettered(&world, &shop).await;
    let letters = DeadLetters::new(&world.bus);
    let letter = letters.find(1).await.unwrap();
    letters
        .redriver()
        .await
        .unwrap()
        .redrive(&letter)
        .await
        .unwrap();
    set_back(&world).await;
    comes_again(&world).await;
    let running = world.run_charges(&shop);
    eventually("its effect", || async { world.counted("ada").await == 1 }).await;
    is_idle(&world, "EVENTS").await;
    is_idle(&world, "RETRIES").await;
    running.stop().await.unwrap();
    assert_eq!(
        (shop.called.len(), world.dead_letters().await.len()),
        (2, 0)
    );
}

async fn a_dead_letter_discarded_behind_others_is_not_stored_again<DB: Database>(world: World<DB>) {
    let mut forgetful = StreamSpec::dead_letters();
    forgetful.duplicate_window = Duration::from_millis(100);
    world.bus.apply_stream(&forgetful).await.unwrap();
    let shop = Shop::default();
    let running = world.run_charges(&shop);
    let publisher = EventPublisher::new(&world.bus);
    for user in ["ada", "bob", "eve"] {
        publisher.publish(&User::new(user)).await.unwrap();
    }
    world.has_dead_letters(3).await;
    is_idle(&world, "EVENTS").await;
    running.stop().await.unwrap();
    let letters = DeadLetters::new(&world.bus);
    let of_all = DeadLetterSelection::default();
    let mut reader = letters.read(of_all).await.unwrap();
    let second = [reader.next().await.unwrap(), reader.next().await.unwrap()];
    let [_, Some(second)] = second else {
        panic!("{second:?}")
    };
    assert!(letters.discard(&second).await.unwrap());
    comes_again(&world).await;
    let running = world.run_charges(&shop);
    is_idle(&world, "EVENTS").await;
    running.stop().await.unwrap();
    assert_eq!(
        (shop.called.len(), world.dead_letters().await.len()),
        (3, 2)
    );
}
