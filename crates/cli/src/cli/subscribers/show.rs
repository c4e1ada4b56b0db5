//! `tidings subscribers show`: one subscriber in full. Never changes anything.

use chrono::{DateTime, Utc};
use clap::Args;
use tidings::{
    Replica, SubscriberConsumer, SubscriberState, Subscribers, WaitingRetries, setting_text,
};

use super::{issue, pause, retries, unseen};
use crate::{
    cli::{
        connect, output,
        report::{Exit, Outcome, Report},
    },
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
        let subscriber = Subscribers::over(&bus).find(&self.name).await?;
        match self.json {
            true => output::json(&subscriber)?,
            false => output::table(&rows(&subscriber))?,
        }
        judge(&subscriber)
    }
}

/// Exits with 1 when something holds events up, else with 3 when something could not be seen.
fn judge(subscriber: &SubscriberState) -> Outcome {
    let stuck = subscriber.issues.iter().find(|issue| issue.is_stuck);
    if let Some(issue) = stuck {
        let report = Report::new(Exit::Failed, &issue.cause);
        return Err(match &issue.cure {
            Some(cure) => report.cure(cure),
            None => report,
        });
    }
    match subscriber.unseen.first() {
        Some(what) => Err(unseen(what)),
        None => Ok(()),
    }
}

fn rows(subscriber: &SubscriberState) -> Vec<[String; 2]> {
    let mut rows = vec![row("subscriber", &subscriber.name)];
    rows.extend(
        subscriber
            .issues
            .iter()
            .map(|one| row("trouble", issue(one))),
    );
    rows.extend(subscriber.unseen.iter().map(|what| row("not seen", what)));
    rows.push(row("paused until", pause(subscriber.paused_until)));
    add_retries(&mut rows, subscriber.retries.as_ref());
    for consumer in &subscriber.consumers {
        add_consumer(&mut rows, consumer);
    }
    for missing in &subscriber.missing {
        let stream = missing.stream.as_deref();
        rows.push(row("stream", stream.unwrap_or("unknown")));
        rows.push(row("  events", "no consumer: what waits is not known"));
    }
    if subscriber.replicas.is_empty() {
        rows.push(row("replica", "none answers"));
        rows.push(row("  last sign", at(subscriber.last_seen_at)));
    }
    for replica in &subscriber.replicas {
        add_replica(&mut rows, replica);
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
        unanswered,
        redelivered,
        pulls,
        delivered,
        acknowledged,
        ..
    } = consumer;
    let place = format!("delivered to sequence {delivered}, acknowledged to {acknowledged}");
    let counts = format!(
        "{pending} pending, {unanswered} unanswered, {redelivered} of them redelivered, {pulls} pulls wait"
    );
    rows.push(row("stream", &consumer.stream));
    rows.push(row("  events", counts));
    rows.push(row("  place", place));
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
            true => "`tidings subscribers narrow` drops what none of them wants",
            false => "a worker that starts updates it",
        };
        let text = format!(
            "{} is {}, and {} of the replicas want {}; {cure}",
            drift.setting,
            setting_text(&drift.setting, &drift.now),
            drift.replicas.len(),
            setting_text(&drift.setting, &drift.wanted)
        );
        rows.push(row("  differs", text));
    }
}

fn add_replica(rows: &mut Vec<[String; 2]>, replica: &Replica) {
    let number = |number: Option<usize>| number.map_or("-".to_owned(), |number| number.to_string());
    let place = format!(
        "{}, process {} on {}, tidings {}, since {}",
        replica.id,
        replica.pid,
        replica.host,
        replica.version,
        output::second(replica.started_at)
    );
    let (running, resting) = (number(replica.running), number(replica.resting));
    let (held, bytes) = (replica.in_hand, replica.in_hand_bytes);
    let in_hand = format!("{held} events of {bytes} bytes: {running} running, {resting} resting");
    let counts = format!(
        "{} handled, {} failed attempts, {} dead letters",
        replica.handled, replica.failed, replica.dead_lettered
    );
    let limits = format!(
        "{} at once, {}, {} bytes, {} an attempt",
        replica.concurrency,
        replica.rate.as_deref().unwrap_or("no rate"),
        replica.memory,
        duration::show(std::time::Duration::from_millis(replica.timeout_ms))
    );
    let lease = match replica.holds_lease {
        None => "not ordered",
        Some(true) => "ordered, holds the lease",
        Some(false) => "ordered, does not hold the lease",
    };
    rows.extend([
        row("replica", place),
        row("  activity", replica.activity.as_str()),
        row("  trouble", replica.trouble.as_deref().unwrap_or("-")),
        row("  circuit", &replica.circuit),
        row("  order", lease),
        row("  in hand", in_hand),
        row("  since its start", counts),
        row("  last delivery", at(replica.last_delivery_at)),
        row("  limits", limits),
        row("  retry", &replica.retry),
    ]);
    let of_replays = replica.replay_trouble.as_ref();
    rows.extend(of_replays.map(|why| row("  replays", format!("none is run: {why}"))));
    for hot in &replica.hottest {
        rows.push(row(
            "  hot key",
            format!("{}: {} wait", hot.key, hot.waiting),
        ));
    }
}

fn at(moment: Option<DateTime<Utc>>) -> String {
    moment.map_or("-".to_owned(), output::second)
}
