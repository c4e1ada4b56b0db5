//! P5: what a handler's database does not let be handled waits elsewhere, and keeps no place from the events of others.

use std::time::Duration;

use sqlx::{Postgres, postgres::PgPoolOptions};
use tidings::{
    Context, EventPublisher, EventSubscriber, Failure, InboxTransaction, Outbox, Worker,
};

use crate::{
    both,
    support::{Counted, Database, Noted, Proxy, Running, Stream, User, World, eventually},
};

/// More than there are places.
const EVENTS: usize = 12;
const PLACES: usize = 3;

async fn book<DB: Database>(
    user: User,
    mut tx: InboxTransaction<DB>,
    _: Context<Noted>,
) -> Result<(), Failure> {
    DB::count_up(&mut tx, &user.id).await?;
    Ok(())
}

async fn note(counted: Counted, cx: Context<Noted>) -> Result<(), Failure> {
    cx.state().note(counted.key);
    Ok(())
}

/// One subscriber with a handler in a database, and one without.
fn run<DB: Database>(
    world: &World<DB>,
    database: &Outbox<DB>,
    noted: &Noted,
) -> Running<tidings::WorkerError> {
    let subscriber = EventSubscriber::durable("mixed")
        .on_once(database, book::<DB>)
        .on(note)
        .concurrency(PLACES);
    world.run(Worker::new(world.bus.clone(), noted.clone()).subscribe(subscriber))
}

/// One handler's events behind the other's, all the time: the one that works keeps the circuit closed.
async fn publish<DB: Database>(world: &World<DB>) {
    let publisher = EventPublisher::new(&world.bus);
    for n in 0..EVENTS {
        let key = format!("key-{n}");
        let counted = Counted { key, count: 1 };
        publisher.publish(&counted).await.unwrap();
        let user = User::new(&format!("user-{n}"));
        publisher.publish(&user).await.unwrap();
    }
}

async fn are_booked<DB: Database>(world: &World<DB>) {
    eventually("all have their effect", || async {
        let booked = "select count(*) from counter where count = 1";
        let booked = DB::number(world.outbox.pool(), booked).await;
        booked == i64::try_from(EVENTS).unwrap()
    })
    .await;
    assert_eq!(world.dead_letters().await.len(), 0);
}

both!(a_database_without_tables_keeps_no_place_from_other_handlers);

async fn a_database_without_tables_keeps_no_place_from_other_handlers<DB: Database>(
    world: World<DB>,
) {
    let elsewhere = world.outbox.clone().in_schema("elsewhere").unwrap();
    let noted = Noted::default();
    let running = run(&world, &elsewhere, &noted);
    publish(&world).await;
    noted.reach(EVENTS).await;
    eventually("an event is put off for longer each time", || async {
        let retries = Stream::read(&world.nats.url(), "RETRIES").await;
        let put_off = retries.0.iter().map(|retry| {
            let put_off = retry.header("tidings-retry-put-off");
            put_off.parse().unwrap_or(0)
        });
        put_off.max() >= Some(4)
    })
    .await;
    elsewhere.migrate().await.unwrap();
    are_booked(&world).await;
    running.stop().await.unwrap();
    assert_eq!(noted.len(), EVENTS);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_postgres_that_is_away_keeps_no_place_from_other_handlers() {
    let world = World::<Postgres>::start().await;
    let options = world.outbox.pool().connect_options();
    let proxy = Proxy::to(options.get_port()).await;
    let options = (*options).clone().host("127.0.0.1").port(proxy.port);
    // So long an event waits for a connection, and with it its place: only the first ones do.
    let waits = Duration::from_secs(4);
    let pool = PgPoolOptions::new().acquire_timeout(waits);
    let through = Outbox::new(pool.connect_lazy_with(options));
    proxy.cut();
    let noted = Noted::default();
    let running = run(&world, &through, &noted);
    let began = std::time::Instant::now();
    publish(&world).await;
    noted.reach(EVENTS).await;
    assert!(began.elapsed() < waits * 5, "{:?}", began.elapsed());
    proxy.mend();
    are_booked(&world).await;
    running.stop().await.unwrap();
}
