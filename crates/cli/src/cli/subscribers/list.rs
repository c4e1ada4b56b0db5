//! `tidings subscribers list`: the state of all subscribers. Never changes anything.

use chrono::Utc;
use clap::Args;
use serde_json::json;
use tidings::{
    judge::judge_subscribers,
    subscribers::{Activity, SubscriberOverview, SubscriberState, Subscribers},
};

use super::{issue, pause, retries};
use crate::{
    cli::{connect, judged, output, report::Outcome},
    config::Config,
};

#[derive(Args)]
pub(super) struct List {
    /// Print one JSON object per subscriber
    #[arg(long)]
    json: bool,
}

const HEAD: [&str; 8] = [
    "subscriber",
    "pending",
    "ack_pending",
    "redelivered",
    "retries",
    "paused until",
    "instances",
    "issue",
];

impl List {
    pub(super) async fn run(&self, config: &Config) -> Outcome {
        let bus = connect(config).await?;
        let found = Subscribers::new(&bus).overview().await;
        match self.json {
            true => print_json(&found)?,
            false => print(&found)?,
        }
        judged::ends(&judge_subscribers(&found, Utc::now()))
    }
}

fn print(found: &SubscriberOverview) -> Outcome {
    let head = HEAD.map(str::to_owned);
    let rows: Vec<_> = [head]
        .into_iter()
        .chain(found.subscribers.iter().map(row))
        .collect();
    let unseen = unseen(found);
    match rows.len() {
        // The issue is then reported as an error.
        1 if !found.issues.is_empty() || !unseen.is_empty() => {}
        1 => output::line("there are no subscribers")?,
        _ => output::table(&rows)?,
    }
    let foreign = found.foreign.iter();
    let foreign: Vec<String> = foreign
        .map(|other| format!("{} of {}", other.name, other.stream))
        .collect();
    if !foreign.is_empty() {
        let foreign = output::printable(&foreign.join(", "));
        output::line(format!("durables of other applications: {foreign}"))?;
    }
    for unseen in unseen {
        output::line(output::printable(&format!("not seen: {unseen}")))?;
    }
    Ok(())
}

/// Prints an object for each subscriber, then one for everything that belongs to no subscriber.
fn print_json(found: &SubscriberOverview) -> Outcome {
    for subscriber in &found.subscribers {
        output::json(subscriber)?;
    }
    let SubscriberOverview {
        foreign,
        issues,
        unseen,
        ..
    } = found;
    if !(foreign.is_empty() && issues.is_empty() && unseen.is_empty()) {
        let rest = json!({ "foreign": foreign, "issues": issues, "unseen": unseen });
        output::json(&rest)?;
    }
    Ok(())
}

/// The places that could not be seen, each one once.
fn unseen(found: &SubscriberOverview) -> Vec<String> {
    let mut told = found.unseen.clone();
    for subscriber in &found.subscribers {
        let own = subscriber.unseen.iter();
        let own = own.filter(|unseen| !found.unseen.contains(unseen));
        told.extend(own.map(|unseen| format!("{}: {unseen}", subscriber.name)));
    }
    told
}

fn row(subscriber: &SubscriberState) -> [String; 8] {
    let pending = subscriber.known_pending;
    [
        subscriber.name.clone(),
        pending.map_or_else(|| "unknown".to_owned(), |pending| pending.to_string()),
        subscriber.ack_pending().to_string(),
        subscriber.redelivered().to_string(),
        retries(subscriber.retries.as_ref()),
        pause(subscriber.paused_until),
        instances(subscriber),
        worst(subscriber),
    ]
}

/// How many instances answered, and how many of them stand by.
fn instances(subscriber: &SubscriberState) -> String {
    let instances = &subscriber.instances;
    let stand_by = |activity: &Activity| *activity == Activity::Standby;
    match instances
        .iter()
        .filter(|one| stand_by(&one.activity))
        .count()
    {
        0 => instances.len().to_string(),
        some => format!("{} ({some} stand by)", instances.len()),
    }
}

/// The worst issue, and how many more there are.
fn worst(subscriber: &SubscriberState) -> String {
    let Some((worst, rest)) = subscriber.issues.split_first() else {
        return "-".to_owned();
    };
    match rest.len() {
        0 => issue(worst),
        more => format!(
            "{} (and {more} more: tidings subscribers show)",
            issue(worst)
        ),
    }
}
