//! `tidings subscribers list`: how all of them do. Never changes anything.

use clap::Args;
use tidings::{Activity, SubscriberState, Subscribers};

use super::pause;
use crate::{
    cli::{connect, output, report::Outcome},
    config::Config,
};

#[derive(Args)]
pub(super) struct List {
    /// Print a JSON object for each
    #[arg(long)]
    json: bool,
}

const HEAD: [&str; 7] = [
    "subscriber",
    "pending",
    "unanswered",
    "redelivered",
    "paused until",
    "replicas",
    "trouble",
];

impl List {
    pub(super) async fn run(&self, config: &Config) -> Outcome {
        let bus = connect(config).await?;
        let subscribers = Subscribers::over(&bus).list().await?;
        if self.json {
            for subscriber in &subscribers {
                output::json(subscriber)?;
            }
            return Ok(());
        }
        let head = HEAD.map(str::to_owned);
        let rows: Vec<_> = [head]
            .into_iter()
            .chain(subscribers.iter().map(row))
            .collect();
        match rows.len() {
            1 => Ok(output::line("there are no subscribers")?),
            _ => Ok(output::table(&rows)?),
        }
    }
}

fn row(subscriber: &SubscriberState) -> [String; 7] {
    [
        output::printable(&subscriber.name),
        subscriber.pending().to_string(),
        subscriber.unanswered().to_string(),
        subscriber.redelivered().to_string(),
        pause(subscriber.paused_until),
        replicas(subscriber),
        output::printable(&trouble(subscriber)),
    ]
}

/// How many answered, and how many of them only wait for their turn.
fn replicas(subscriber: &SubscriberState) -> String {
    let replicas = &subscriber.replicas;
    let stand_by = |activity: &Activity| *activity == Activity::StandsBy;
    match replicas
        .iter()
        .filter(|one| stand_by(&one.activity))
        .count()
    {
        0 => replicas.len().to_string(),
        some => format!("{} ({some} stand by)", replicas.len()),
    }
}

/// The first thing that is wrong.
fn trouble(subscriber: &SubscriberState) -> String {
    let of_replicas = subscriber.replicas.iter();
    let mut of_replicas = of_replicas.filter_map(|replica| replica.trouble.clone());
    let drift = || {
        let drifts = |one: &&tidings::SubscriberConsumer| !one.drift.is_empty();
        let found = subscriber.consumers.iter().find(drifts)?;
        Some(format!("the consumer of {} differs", found.stream))
    };
    let circuit = || {
        let mut circuits = subscriber.replicas.iter().map(|replica| &replica.circuit);
        let open = circuits.find(|circuit| *circuit != "closed")?;
        Some(format!("the circuit is {open}"))
    };
    let found = of_replicas.next().or_else(circuit).or_else(drift);
    found.unwrap_or_else(|| "-".to_owned())
}
