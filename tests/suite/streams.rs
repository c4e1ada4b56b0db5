//! Declaring streams: what is created, what is changed, and what is left alone.

use std::time::Duration;

use tidings::{Pattern, Plan, StreamSpec};

use crate::support::World;

type World_ = World<sqlx::Sqlite>;

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_is_created_updated_and_then_left_alone() {
    let world = World_::start().await;
    let mut spec = StreamSpec::new("ORDERS", [Pattern::parse("order.>").unwrap()]).unwrap();
    assert_eq!(world.bus.plan_stream(&spec).await.unwrap(), Plan::Create);
    assert_eq!(world.bus.apply_stream(&spec).await.unwrap(), Plan::Create);
    assert_eq!(
        world.bus.apply_stream(&spec).await.unwrap(),
        Plan::Unchanged
    );
    spec.max_age = Some(Duration::from_secs(3600));
    let Plan::Update(differs) = world.bus.plan_stream(&spec).await.unwrap() else {
        panic!("an update is planned")
    };
    assert_eq!(
        differs,
        [("max_age".into(), "0".into(), "3600000000000".into())]
    );
    world.bus.apply_stream(&spec).await.unwrap();
    assert_eq!(world.bus.plan_stream(&spec).await.unwrap(), Plan::Unchanged);
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_of_others_survive_an_update() {
    let world = World_::start().await;
    let client = async_nats::connect(world.nats.url()).await.unwrap();
    let context = async_nats::jetstream::new(client);
    let mut config = context
        .get_stream("EVENTS")
        .await
        .unwrap()
        .cached_info()
        .config
        .clone();
    config.description = Some("somebody else's words".into());
    context.update_stream(&config).await.unwrap();
    let spec = StreamSpec::new("EVENTS", [Pattern::parse("user.>").unwrap()]).unwrap();
    world.bus.apply_stream(&spec).await.unwrap();
    let stream = context.get_stream("EVENTS").await.unwrap();
    let config = &stream.cached_info().config;
    assert_eq!(config.description.as_deref(), Some("somebody else's words"));
    assert_eq!(config.subjects, ["user.>"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn subjects_that_another_stream_has_are_an_error_in_the_servers_words() {
    let world = World_::start().await;
    let spec = StreamSpec::new("TWICE", [Pattern::parse("user.created").unwrap()]).unwrap();
    let error = world.bus.apply_stream(&spec).await.unwrap_err();
    assert!(error.to_string().contains("overlap"), "{error}");
}
