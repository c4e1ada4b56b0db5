//! P9: what moves, what waits and what is dead-lettered is counted, from the commit of an event to its handler.

use std::{
    io::{ErrorKind, Write},
    process::{Command, Stdio},
    time::Duration,
};

use tidings::{
    Context, Envelope, EventSubscriber, Failure, Outbox, Relay, Retry, Worker, event::Event as _,
    ops::metrics::Metrics,
};

use crate::{
    both,
    support::{Database, Noted, User, World, eventually},
};

both!(
    two_workers_of_a_process_share_its_metrics,
    an_event_is_counted_from_its_commit_to_its_handler,
    an_outbox_without_tables_has_a_reason_and_no_figures,
    what_waits_in_the_outbox_is_shown_without_a_relay,
);

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const OPEN_METRICS: Option<&str> = Some("application/openmetrics-text;version=1.0.0");

async fn note(user: User, cx: Context<Noted>) -> Result<(), Failure> {
    if user.id.starts_with("bad") {
        return Err(Failure::reject("no such mailbox"));
    }
    cx.state().note(user.id);
    Ok(())
}

/// The value of a series.
fn value(text: &str, series: &str) -> Option<f64> {
    let mut lines = text.lines();
    let rest = lines.find_map(|line| line.strip_prefix(series)?.strip_prefix(' '))?;
    rest.split(' ').next()?.parse().ok()
}

/// Waits until a scrape shows this value, and returns what it shows.
async fn shows(metrics: &Metrics, series: &str, expected: f64) -> String {
    eventually(series, || async {
        let (_, text) = metrics.scrape(OPEN_METRICS).await;
        value(&text, series) == Some(expected)
    })
    .await;
    metrics.scrape(OPEN_METRICS).await.1
}

/// Two series with the same name and labels make a scrape invalid.
async fn two_workers_of_a_process_share_its_metrics<DB: Database>(world: World<DB>) {
    let metrics = Metrics::new();
    let noted = Noted::default();
    let subscribing = |name| {
        Worker::new(world.bus.clone(), noted.clone())
            .subscribe(EventSubscriber::durable(name).on(note))
            .with(metrics.clone())
    };
    let first = subscribing("mailer").with(Relay::new(world.outbox.clone()));
    let (first, second) = (world.run(first), world.run(subscribing("counts")));
    world.publish([&User::new("a")]).await;
    let acked = |name| {
        format!(
            "tidings_subscriber_attempts_total{{subscriber=\"{name}\",name=\"{}\",outcome=\"ack\"}}",
            User::NAME
        )
    };
    shows(&metrics, &acked("mailer"), 1.0).await;
    shows(&metrics, &acked("counts"), 1.0).await;
    let text = shows(&metrics, "tidings_nats_connected", 1.0).await;
    let series = text.lines().filter(|line| !line.starts_with('#'));
    let mut series: Vec<&str> = series
        .map(|line| match line.find("} ") {
            Some(end) => &line[..=end],
            None => line.split(' ').next().unwrap_or(line),
        })
        .collect();
    let all = series.len();
    series.sort_unstable();
    series.dedup();
    assert_eq!(series.len(), all, "{text}");
    first.stop().await.unwrap();
    second.stop().await.unwrap();
    let (_, text) = metrics.scrape(None).await;
    assert_eq!(value(&text, "tidings_nats_connected"), None, "{text}");
}

async fn an_event_is_counted_from_its_commit_to_its_handler<DB: Database>(world: World<DB>) {
    let metrics = Metrics::new();
    metrics.outbox(&world.outbox);
    let (ops, endpoints) = super::endpoints();
    let noted = Noted::default();
    let subscriber = EventSubscriber::durable("mailer").on(note).concurrency(7);
    // The relay joins the process before it is observed.
    let worker = Worker::new(world.bus.clone(), noted.clone())
        .subscribe(subscriber)
        .with(Relay::new(world.outbox.clone()))
        .with(metrics.clone())
        .with(ops.merge(metrics.router()));
    let running = world.run(worker);
    let mut tx = world.outbox.begin().await.unwrap();
    let traced = Envelope::of(&User::new("traced")).unwrap();
    let traced = traced.traced(format!("00-{TRACE}-00f067aa0ba902b7-01"));
    tx.publish(traced.unwrap()).unwrap();
    for id in ["plain", "bad"] {
        tx.publish(&User::new(id)).unwrap();
    }
    tx.commit().await.unwrap();

    let letters = format!(
        "tidings_dead_letters_total{{subscriber=\"mailer\",name=\"{}\",cause=\"rejected\"}}",
        User::NAME
    );
    shows(&metrics, &letters, 1.0).await;
    let schema = "tidings";
    let of_stream = format!("{{outbox=\"{schema}\",stream=\"EVENTS\"}}");
    let of_outbox = format!("{{outbox=\"{schema}\"}}");
    let of = "{subscriber=\"mailer\"}";
    shows(
        &metrics,
        &format!("tidings_outbox_backlog_events{of_outbox}"),
        0.0,
    )
    .await;
    let text = shows(
        &metrics,
        &format!("tidings_commit_to_handled_seconds_count{of}"),
        2.0,
    )
    .await;
    for (series, expected) in [
        ("tidings_nats_connected".to_owned(), 1.0),
        ("tidings_worker_phase{phase=\"running\"}".to_owned(), 1.0),
        (
            "tidings_scrape_errors_total{part=\"outbox\"}".to_owned(),
            0.0,
        ),
        (
            format!("tidings_outbox_enqueued_events_total{of_outbox}"),
            3.0,
        ),
        (
            format!("tidings_commit_to_stream_seconds_count{of_stream}"),
            3.0,
        ),
        (
            format!("tidings_relay_state{{outbox=\"{schema}\",state=\"active\"}}"),
            1.0,
        ),
        (format!("tidings_subscriber_deliveries_total{of}"), 3.0),
        (format!("tidings_subscriber_concurrency{of}"), 7.0),
        (format!("tidings_stored_to_handled_seconds_count{of}"), 2.0),
    ] {
        assert_eq!(value(&text, &series), Some(expected), "{series}: {text}");
    }
    let exemplar = format!(" # {{trace_id=\"{TRACE}\"}} ");
    assert!(text.contains(&exemplar), "{text}");
    let served = endpoints.ask("/metrics").await;
    assert_eq!(served.status, 200, "{served:?}");
    assert_eq!(value(&served.text, "tidings_nats_connected"), Some(1.0));
    promtool_accepts(&served.text);
    consumers_are_described(&world).await;
    running.stop().await.unwrap();
}

async fn fails(user: User, _: Context<()>) -> Result<(), Failure> {
    match &*user.id {
        "hangs" => std::future::pending().await,
        "panics" => panic!("no mailbox"),
        _ => Err(Failure::retry("the mail server is down")),
    }
}

#[tokio::test]
async fn a_timeout_and_a_panic_are_counted_apart_from_errors() {
    let world = World::<sqlx::Sqlite>::start().await;
    let metrics = Metrics::new();
    let subscriber = EventSubscriber::durable("mailer").on(fails);
    let hour = Duration::from_secs(3600);
    let subscriber = subscriber
        .timeout(Duration::from_millis(50))
        .retry(Retry::exponential(hour, hour));
    let worker = Worker::new(world.bus.clone(), ()).subscribe(subscriber);
    let running = world.run(worker.with(metrics.clone()));
    world.publish_users(["fails", "hangs", "panics"]).await;
    for outcome in ["retry", "timeout", "panic"] {
        let series = format!(
            "tidings_subscriber_attempts_total{{subscriber=\"mailer\",name=\"{}\",outcome=\"{outcome}\"}}",
            User::NAME
        );
        shows(&metrics, &series, 1.0).await;
    }
    running.stop().await.unwrap();
}

/// For the tools that export the consumers of a nats-server.
async fn consumers_are_described<DB: Database>(world: &World<DB>) {
    let jetstream = world.jetstream().await;
    for (stream, kind, description) in [
        ("EVENTS", "live", "Tidings: events of mailer"),
        ("RETRIES", "retries", "Tidings: retries of mailer"),
    ] {
        let stream = jetstream.get_stream(stream).await.unwrap();
        let config = stream.consumer_info("mailer").await.unwrap().config;
        assert_eq!(config.description.as_deref(), Some(description));
        let metadata = |name: &str| config.metadata.get(name).map(String::as_str);
        assert_eq!(metadata("tidings.kind"), Some(kind));
        assert_eq!(metadata("tidings.subscriber"), Some("mailer"));
    }
}

/// Where it is installed; `.ci/run` installs it where it can.
fn promtool_accepts(text: &str) {
    let mut checking = Command::new("promtool");
    checking.args(["check", "metrics"]).stdin(Stdio::piped());
    let mut checking = match checking
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
    {
        Ok(checking) => checking,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            eprintln!("skipped: there is no promtool on the PATH (Debian: the package prometheus)");
            return;
        }
        Err(error) => panic!("{error}"),
    };
    let mut input = checking.stdin.take().unwrap();
    input.write_all(text.as_bytes()).unwrap();
    drop(input);
    let checked = checking.wait_with_output().unwrap();
    let told = String::from_utf8_lossy(&checked.stderr);
    assert!(checked.status.success(), "{told}{text}");
}

async fn an_outbox_without_tables_has_a_reason_and_no_figures<DB: Database>(world: World<DB>) {
    let elsewhere = Outbox::new(world.outbox.pool().clone());
    let elsewhere = elsewhere.in_schema("elsewhere").unwrap();
    let metrics = Metrics::new();
    metrics.outbox(&elsewhere);
    let refuses = "tidings_relay_refuses{outbox=\"elsewhere\",reason=\"not-migrated\"}";
    let text = shows(&metrics, refuses, 1.0).await;
    assert!(!text.contains("tidings_outbox_backlog_events{"), "{text}");
}

async fn what_waits_in_the_outbox_is_shown_without_a_relay<DB: Database>(world: World<DB>) {
    let metrics = Metrics::new();
    metrics.outbox(&world.outbox);
    let mut tx = world.outbox.begin().await.unwrap();
    tx.publish(&User::new("a")).unwrap();
    tx.publish_at(
        &User::new("b"),
        chrono::Utc::now() + Duration::from_secs(3600),
    )
    .unwrap();
    tx.commit().await.unwrap();
    let of = "{outbox=\"tidings\"}";
    let text = shows(&metrics, &format!("tidings_outbox_backlog_events{of}"), 1.0).await;
    let delayed = value(&text, &format!("tidings_outbox_delayed_events{of}"));
    assert_eq!(delayed, Some(1.0), "{text}");
    let oldest = value(
        &text,
        &format!("tidings_outbox_oldest_unpublished_seconds{of}"),
    );
    assert!(oldest.is_some_and(|oldest| oldest > 0.0), "{text}");
    assert!(!text.contains("tidings_relay_state{"), "{text}");
}
