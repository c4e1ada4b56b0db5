//! Declaring streams: what is created, what is changed, and what is left alone.

use std::time::Duration;

use tidings::{StreamSpec, event::Pattern, nats::Plan};

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
    let [change] = &differs[..] else {
        panic!("{differs:?}")
    };
    assert_eq!(
        [&change.setting, &change.now, &change.wanted],
        ["max_age", "0", "3600000000000"]
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
    let mut spec = StreamSpec::new("EVENTS", [Pattern::parse("user.>").unwrap()]).unwrap();
    spec.max_age = Some(Duration::from_secs(3600));
    world.bus.apply_stream(&spec).await.unwrap();
    let stream = context.get_stream("EVENTS").await.unwrap();
    let config = &stream.cached_info().config;
    assert_eq!(config.description.as_deref(), Some("somebody else's words"));
    assert_eq!(config.max_age, Duration::from_secs(3600));
}

/// P2: events that one service publishes are not refused because another one declares the same stream.
#[tokio::test(flavor = "multi_thread")]
async fn services_that_declare_one_stream_keep_each_others_subjects() {
    let world = World_::start().await;
    let spec =
        |subject: &str| StreamSpec::new("SHARED", [Pattern::parse(subject).unwrap()]).unwrap();
    let services = ["order.>", "invoice.>", "parcel.sent"].map(spec);
    let applied = services.iter().map(|spec| world.bus.apply_stream(spec));
    for plan in futures::future::join_all(applied).await {
        plan.unwrap();
    }
    // When two services overwrote each other at the same moment, the next start repairs it.
    for spec in &services {
        world.bus.apply_stream(spec).await.unwrap();
        world.bus.apply_stream(spec).await.unwrap();
    }
    for spec in &services {
        assert_eq!(world.bus.plan_stream(spec).await.unwrap(), Plan::Unchanged);
    }
    let mine = spec("order.>");
    let extra = world.bus.extra_subjects(&mine).await.unwrap();
    let mut names: Vec<&str> = extra.iter().map(|(subject, _)| subject.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["invoice.>", "parcel.sent"]);
    world
        .bus
        .remove_subjects("SHARED", &["invoice.>".to_owned()])
        .await
        .unwrap();
    let extra = world.bus.extra_subjects(&mine).await.unwrap();
    assert_eq!(extra, [("parcel.sent".to_owned(), 0)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn subjects_that_another_stream_has_are_refused_with_its_name() {
    let world = World_::start().await;
    let spec = StreamSpec::new("TWICE", [Pattern::parse("user.created").unwrap()]).unwrap();
    let error = world.bus.apply_stream(&spec).await.unwrap_err();
    let said = error.to_string();
    assert!(said.contains("stream EVENTS takes user.created"), "{said}");
    assert!(
        world.bus.plan_stream(&spec).await.unwrap() == Plan::Create,
        "nothing is created"
    );
}
