//! `tidings subscribers show`: one subscriber in full. Never changes anything.

use chrono::{DateTime, Utc};
use clap::Args;
use tidings::{
    judge::judge_subscribers,
    nats::setting_text,
    subscribers::{
        Instance, SubscriberConsumer, SubscriberOverview, SubscriberState, Subscribers,
        WaitingRetries,
    },
};

use super::{issue, pause, retries};
use crate::{
    cli::{connect, judged, output, report::Outcome},
    config::{Config, duration},
};

#[derive(Args)]
pub(super) struct Show {
    /// The subscriber's name
    name: String,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

impl Show {
    pub(super) async fn run(&self, config: &Config) -> Outcome {
        let bus = connect(config).await?;
        let subscriber = Subscribers::new(&bus).find(&self.name).await?;
        match self.json {
            true => output::json(&subscriber)?,
            false => output::table(&rows(&subscriber))?,
        }
        let mut alone = SubscriberOverview::default();
        alone.subscribers.push(subscriber);
        judged::ends(&judge_subscribers(&alone, Utc::now()))
    }
}

fn rows(subscriber: &SubscriberState) -> Vec<[String; 2]> {
    let mut rows = vec![row("subscriber", &subscriber.name)];
    rows.extend(subscriber.issues.iter().map(|one| row("issue", issue(one))));
    rows.extend(subscriber.unseen.iter().map(|what| row("not seen", what)));
    rows.push(row("paused until", pause(subscriber.paused_until)));
    add_retries(&mut rows, subscriber.retries.as_ref());
    for consumer in &subscriber.consumers {
        add_consumer(&mut rows, consumer);
    }
    for missing in &subscriber.missing {
        let stream = missing.stream.as_deref();
        rows.push(row("stream", stream.unwrap_or("unknown")));
        rows.push(row(
            "  events",
            "no consumer: the number of waiting events is not known",
        ));
    }
    if subscriber.instances.is_empty() {
        rows.push(row("instance", "none answers"));
        rows.push(row("  last seen", at(subscriber.last_seen_at)));
    }
    for instance in &subscriber.instances {
        add_instance(&mut rows, instance);
    }
    rows
}

fn add_retries(rows: &mut Vec<[String; 2]>, waiting: Option<&WaitingRetries>) {
    rows.push(row("retries", retries(waiting)));
    let Some(waiting) = waiting.filter(|waiting| waiting.scheduled > 0) else {
        return;
    };
    let WaitingRetries { due, scheduled, .. } = waiting;
    let text = format!(
        "{due} due, {scheduled} later: the next at {}, the last at {}",
        at(waiting.next_at),
        at(waiting.farthest_at)
    );
    rows.push(row("  when", text));
}

fn row(what: &str, text: impl AsRef<str>) -> [String; 2] {
    [what.to_owned(), text.as_ref().to_owned()]
}

fn add_consumer(rows: &mut Vec<[String; 2]>, consumer: &SubscriberConsumer) {
    let SubscriberConsumer {
        pending,
        ack_pending,
        redelivered,
        pulls,
        delivered,
        acknowledged,
        ..
    } = consumer;
    let place = format!("delivered to sequence {delivered}, acknowledged to {acknowledged}");
    let counts = format!(
        "{pending} pending, {ack_pending} ack pending, {redelivered} of them redelivered, {pulls} waiting pulls"
    );
    rows.push(row("stream", &consumer.stream));
    rows.push(row("  events", counts));
    rows.push(row("  position", place));
    rows.push(row("  paused until", pause(consumer.paused_until)));
    rows.push(row("  last delivery", at(consumer.last_delivery_at)));
    for (setting, value) in &consumer.config {
        rows.push(row(
            "  setting",
            format!("{setting} = {}", setting_text(setting, value)),
        ));
    }
    for drift in &consumer.drift {
        let cure = match drift.setting.starts_with("filter_subject") {
            true => "`tidings subscribers prune` removes what no instance handles",
            false => "the next worker that starts updates it",
        };
        let text = format!(
            "{} is {}, and {} of the instances want {}; {cure}",
            drift.setting,
            setting_text(&drift.setting, &drift.now),
            drift.instances.len(),
            setting_text(&drift.setting, &drift.wanted)
        );
        rows.push(row("  differs", text));
    }
}

fn add_instance(rows: &mut Vec<[String; 2]>, instance: &Instance) {
    let number = |number: Option<usize>| number.map_or("-".to_owned(), |number| number.to_string());
    let place = format!(
        "{}, process {} on {}, tidings {}, since {}",
        instance.id,
        instance.pid,
        instance.host,
        instance.version,
        output::second(instance.started_at)
    );
    let (running, resting) = (number(instance.running), number(instance.resting));
    let (events, bytes) = (instance.in_flight, instance.in_flight_bytes);
    let in_flight =
        format!("{events} events of {bytes} bytes: {running} running, {resting} resting");
    let counts = format!(
        "{} handled, {} failed attempts, {} dead letters",
        instance.handled, instance.failed, instance.dead_lettered
    );
    let limits = format!(
        "{} at once, {}, {} bytes, {} an attempt",
        instance.concurrency,
        instance.rate.as_deref().unwrap_or("no rate limit"),
        instance.max_in_flight_bytes,
        duration::show(std::time::Duration::from_millis(instance.timeout_ms))
    );
    let lease = match instance.holds_lease {
        None => "not ordered",
        Some(true) => "ordered, holds the lease",
        Some(false) => "ordered, does not hold the lease",
    };
    rows.extend([
        row("instance", place),
        row("  activity", instance.activity.as_str()),
        row("  issue", instance.issue.as_deref().unwrap_or("-")),
        row("  circuit", instance.circuit.as_str()),
        row("  order", lease),
        row("  in flight", in_flight),
        row("  since its start", counts),
        row("  last delivery", at(instance.last_delivery_at)),
        row("  limits", limits),
        row("  retry", &instance.retry),
    ]);
    let unhandled = instance.unhandled.as_ref();
    rows.extend(unhandled.map(|why| row("  unhandled", why)));
    if let Some(oldest) = &instance.oldest_attempt {
        let lasts = duration::show(std::time::Duration::from_millis(oldest.for_ms));
        let text = format!("{} {}, for {lasts}", oldest.name, oldest.event);
        rows.push(row("  oldest attempt", text));
    }
    let of_replays = instance.replay_issue.as_ref();
    rows.extend(of_replays.map(|why| row("  replays", format!("none runs: {why}"))));
    for key in &instance.failing {
        let text = format!(
            "{}: {} {}, {} attempts failed, the next at {}; {} wait behind it",
            key.key,
            key.name,
            key.event,
            key.attempts,
            output::second(key.next_at),
            key.waiting
        );
        rows.push(row("  failing key", text));
    }
    for hot in &instance.hottest {
        rows.push(row(
            "  hot key",
            format!("{}: {} wait", hot.key, hot.waiting),
        ));
    }
}

fn at(moment: Option<DateTime<Utc>>) -> String {
    moment.map_or("-".to_owned(), output::second)
}
