//! The endpoints as such: who may ask, what is refused, and that an application may serve them.

use std::{error::Error, pin::Pin};

use axum::Router;
use tidings::{
    Bus, EventSubscriber, Worker,
    ops::{Ops, OpsError},
    worker::{Background, WorkerError},
};
use tokio_util::sync::CancellationToken;

use super::{Endpoints, endpoints};
use crate::support::{Noted, World, note_id};

type Sqlite = sqlx::Sqlite;

#[tokio::test]
async fn a_page_with_a_name_of_its_own_is_not_answered() {
    let world = World::<Sqlite>::start().await;
    let (ops, endpoints) = endpoints();
    let running = world.run(Worker::new(world.bus.clone(), ()).with(ops));
    endpoints.says("/readyz", 200, "process: ok").await;
    let named = endpoints
        .ask_as("rebound.example", "/healthz")
        .await
        .unwrap();
    assert_eq!(named.status, 421, "{named:?}");
    let local = endpoints.ask_as("localhost:1", "/healthz").await.unwrap();
    assert_eq!(local.status, 200, "{local:?}");
    let unknown = endpoints.ask("/readyz?of=start").await;
    assert_eq!(unknown.status, 400, "{unknown:?}");
    running.stop().await.unwrap();
}

#[tokio::test]
async fn an_address_that_cannot_be_bound_ends_the_worker() {
    let world = World::<Sqlite>::start().await;
    let (_taken, endpoints) = endpoints();
    for (address, expected) in [
        ("0.0.0.0:0", "can be reached from other hosts"),
        (&*endpoints.0.to_string(), "cannot listen on"),
    ] {
        let worker = Worker::new(world.bus.clone(), ()).with(Ops::listen(address));
        let Err(WorkerError::Background { name, source }) = world.run(worker).end().await else {
            panic!("{address} was bound");
        };
        assert_eq!(name, "ops");
        let error = source.downcast::<OpsError>().unwrap();
        assert!(error.to_string().contains(expected), "{error}");
    }
    let mut public = Ops::listen("0.0.0.0:0").public();
    assert!(public.bind().is_ok());
}

#[tokio::test]
async fn an_application_serves_them_beside_its_own_routes() {
    let world = World::<Sqlite>::start().await;
    let ops = Ops::unserved();
    let app: Router = Router::new().merge(ops.router());
    let app = app.route("/", axum::routing::get(|| async { "shop" }));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoints = Endpoints(listener.local_addr().unwrap());
    let end = CancellationToken::new();
    let _end = end.clone().drop_guard();
    let serving = axum::serve(listener, app).with_graceful_shutdown(end.cancelled_owned());
    tokio::spawn(async move { serving.await });
    assert_eq!(endpoints.ask("/").await.text, "shop");
    let before = endpoints.ask("/readyz").await;
    assert_eq!(before.status, 503, "no worker has begun: {before:?}");
    let worker = Worker::new(world.bus.clone(), Noted::default());
    let worker = worker.subscribe(EventSubscriber::durable("welcome").on(note_id));
    let running = world.run(worker.with(ops));
    endpoints
        .says("/readyz", 200, "subscriber welcome: idle")
        .await;
    running.stop().await.unwrap();
    let after = endpoints.ask("/readyz").await;
    assert_eq!(after.status, 503, "the worker has stopped: {after:?}");
}

/// Work that ends at once.
struct Brief;

impl Background for Brief {
    fn name(&self) -> String {
        "brief".to_owned()
    }

    fn run(
        self: Box<Self>,
        _: Bus,
        _: CancellationToken,
    ) -> Pin<Box<dyn Future<Output = Result<(), Box<dyn Error + Send + Sync>>> + Send>> {
        Box::pin(async { Ok(()) })
    }
}

/// A supervisor that starts a process again only after a failure would leave it down.
#[tokio::test]
async fn background_work_that_ends_by_itself_is_an_error() {
    let world = World::<Sqlite>::start().await;
    let worker = Worker::new(world.bus.clone(), ()).with(Brief);
    let ended = worker.run(std::future::pending()).await;
    assert!(
        matches!(&ended, Err(WorkerError::Ended(name)) if name == "brief"),
        "{ended:?}"
    );
}
