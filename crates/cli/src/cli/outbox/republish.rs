//! `tidings outbox republish`: publishes events again that the outbox still keeps.

use chrono::{DateTime, Utc};
use clap::{Args, builder::NonEmptyStringValueParser};
use tidings::{
    Bus, Outbox, Rate,
    event::Name,
    outbox::Store,
    republish::{Republish, Republished},
};

use crate::{
    cli::{
        connect,
        consent::{Consent, NOTHING_CHANGED},
        database::{Database, with_outbox},
        dead_letters::moment,
        output,
        report::{Exit, Outcome, Report},
    },
    config::Config,
};

#[derive(Args)]
pub(super) struct RunRepublish {
    /// The start: 2h ago, a time such as 2026-01-31T12:00:00Z, or a row id
    #[arg(long, value_name = "2h|TIME|ROW", value_parser = edge)]
    from: Edge,
    /// The end, in the same form [default: the row that was written last]
    #[arg(long, value_name = "5m|TIME|ROW", value_parser = edge)]
    to: Option<Edge>,
    /// Only events with this name; can be repeated
    #[arg(long, value_name = "NAME")]
    name: Vec<String>,
    /// Only events with this key
    #[arg(long, value_name = "KEY", value_parser = NonEmptyStringValueParser::new())]
    key: Option<String>,
    /// Only events that the target stream does not hold; the default without --into and --force
    #[arg(long, conflicts_with = "force")]
    missing: bool,
    /// Publish to the subjects PREFIX.NAME, which a stream must take, instead of the events' own subjects
    #[arg(long, value_name = "PREFIX")]
    into: Option<String>,
    /// The most events per second or minute [default: no limit]
    #[arg(long, value_name = "N/s", value_parser = rate)]
    rate: Option<Rate>,
    /// Print what would be published, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Publish also events that the streams already hold: they become duplicates
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    consent: Consent,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// One end of a range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Edge {
    Row(i64),
    Time(DateTime<Utc>),
}

impl RunRepublish {
    pub(super) async fn run(&self, config: &Config) -> Outcome {
        self.check()?;
        let database = Database::open(config).await?;
        let bus = connect(config).await?;
        let planned = match self.dry_run || self.force {
            true => Some(with_outbox!(&database, outbox =>
                self.republish(&bus, outbox).dry_run().await)?),
            false => None,
        };
        // Republishing missing events needs no consent. An event that a stream holds already is handled again by all
        // its subscribers.
        if let Some(planned) = planned.as_ref().filter(|_| !self.dry_run) {
            let what = format!("republishes {}", output::events(planned.wanted));
            if !self.consent.to(&what)? {
                return Ok(output::line(NOTHING_CHANGED)?);
            }
        }
        let done = match planned.filter(|_| self.dry_run) {
            Some(planned) => planned,
            None => with_outbox!(&database, outbox => self.republish(&bus, outbox).run().await)?,
        };
        match self.json {
            true => {
                let mut told = serde_json::to_value(&done).map_err(std::io::Error::from)?;
                if let Some(told) = told.as_object_mut()
                    && !self.looks()
                {
                    told.remove("stored");
                }
                output::json(&told)?;
            }
            false => output::table(&self.rows(&done))?,
        }
        if done.gone == 0 {
            return Ok(());
        }
        let what = format!(
            "the outbox has deleted {} meanwhile, or their rows are not events; the log names those rows",
            output::events(done.gone)
        );
        Err(Report::new(Exit::Failed, what))
    }

    /// Whether the streams are checked for existing events. Without the check `stored` is unknown, not 0, and is not
    /// printed.
    fn looks(&self) -> bool {
        !self.force && (self.into.is_none() || self.missing)
    }

    /// Refuses a range that no row can match.
    fn check(&self) -> Outcome {
        let refused = |what: String, cure: &str| Err(Report::new(Exit::Usage, what).cure(cure));
        match (self.from, self.to) {
            (Edge::Row(from), Some(Edge::Row(to))) if from > to => {
                return refused(
                    format!("row {from} is after row {to}"),
                    "--from with the first row, and --to with the last one",
                );
            }
            (Edge::Time(from), Some(Edge::Time(to))) if from > to => {
                return refused(
                    format!("{} is later than {}", output::time(from), output::time(to)),
                    "--from with the earlier time, and --to with the later one",
                );
            }
            _ => {}
        }
        for name in &self.name {
            if let Err(error) = Name::parse(name) {
                return refused(
                    format!("--name {name} is not the name of an event: {error}"),
                    "a name such as user.created; repeat --name for more than one",
                );
            }
        }
        if let Some(prefix) = &self.into
            && let Err(error) = Name::parse(&format!("{prefix}.user.created"))
        {
            return refused(
                format!("--into {prefix} cannot be the prefix of a name: {error}"),
                "a prefix such as recovered, for recovered.user.created",
            );
        }
        Ok(())
    }

    fn republish<DB: Store>(&self, bus: &Bus, outbox: &Outbox<DB>) -> Republish<DB> {
        let mut republish = Republish::new(bus, outbox);
        republish = match self.from {
            Edge::Row(row) => republish.from_row(row),
            Edge::Time(time) => republish.since(time),
        };
        republish = match self.to {
            Some(Edge::Row(row)) => republish.to_row(row),
            Some(Edge::Time(time)) => republish.until(time),
            None => republish,
        };
        for name in &self.name {
            republish = republish.name(name);
        }
        if let Some(key) = &self.key {
            republish = republish.key(key);
        }
        if let Some(prefix) = &self.into {
            republish = republish.into_prefix(prefix);
        }
        if let Some(rate) = self.rate {
            republish = republish.rate_limit(rate);
        }
        if self.missing {
            republish = republish.missing();
        }
        match self.force {
            true => republish.force(),
            false => republish,
        }
    }

    fn rows(&self, done: &Republished) -> Vec<[String; 2]> {
        let mut rows = vec![["selected".into(), output::events(done.rows)]];
        if self.looks() {
            rows.push(["stored already".into(), output::events(done.stored)]);
        }
        // Without the check only rows that are not valid events are counted here.
        if !self.force && self.into.is_none() || done.unconfirmed > 0 {
            rows.push(["never confirmed".into(), output::events(done.unconfirmed)]);
        }
        if done.duplicate_ids > 0 {
            let taken = format!(
                "{}, left out: publish them with new ids",
                output::events(done.duplicate_ids)
            );
            rows.push(["id in use".into(), taken]);
        }
        let places = done.first.zip(done.last);
        let places = places.map_or_else(String::new, |(first, last)| {
            format!(", rows {first} to {last}")
        });
        rows.push(["to publish".into(), output::events(done.wanted) + &places]);
        if done.late > 0 {
            let late = format!(
                "{}, at most: after later events of their keys",
                output::events(done.late)
            );
            rows.push(["late".into(), late]);
        }
        for (stream, count) in &done.republished {
            rows.push([
                "published".into(),
                format!("{} into {stream}", output::events(*count)),
            ]);
        }
        if self.dry_run {
            rows.push(["done".into(), "nothing: run it without --dry-run".into()]);
        } else if done.republished.is_empty() {
            rows.push(["published".into(), "nothing".into()]);
        }
        rows
    }
}

fn edge(text: &str) -> Result<Edge, String> {
    if let Ok(row) = text.parse() {
        return Ok(Edge::Row(row));
    }
    let time = moment(text).map(Edge::Time);
    time.map_err(|_| "write 2h, 2026-01-31T12:00:00Z, or a row's number".to_owned())
}

fn rate(text: &str) -> Result<Rate, String> {
    let refused = || "write 500/s or 30/m".to_owned();
    let (number, unit) = text.split_once('/').ok_or_else(refused)?;
    let number = number.parse().ok().filter(|number| *number > 0);
    match (number, unit) {
        (Some(number), "s") => Ok(Rate::per_second(number)),
        (Some(number), "m") => Ok(Rate::per_minute(number)),
        _ => Err(refused()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_is_a_row_a_time_or_an_age() {
        assert_eq!(edge("17"), Ok(Edge::Row(17)));
        assert!(matches!(edge("2h"), Ok(Edge::Time(_))));
        assert!(matches!(edge("2026-01-31T12:00:00Z"), Ok(Edge::Time(_))));
        assert!(edge("yesterday").is_err());
    }

    #[test]
    fn a_rate_is_a_number_and_a_unit() {
        assert_eq!(rate("500/s"), Ok(Rate::per_second(500)));
        assert_eq!(rate("30/m"), Ok(Rate::per_minute(30)));
        for text in ["500", "0/s", "5/h", "/s"] {
            assert!(rate(text).is_err(), "{text}");
        }
    }
}
