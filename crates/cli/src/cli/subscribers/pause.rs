//! `tidings subscribers pause` and `resume`: stop and continue the delivery.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use clap::Args;
use serde_json::json;
use tidings::subscribers::Subscribers;

use crate::{
    cli::{
        connect, output,
        report::{Exit, Outcome, Report},
    },
    config::{Config, duration},
};

#[derive(Args)]
pub(super) struct Pause {
    /// The subscriber's name
    name: String,
    /// The length of the pause [default: until it is resumed]
    #[arg(long = "for", value_name = "1h", value_parser = duration::parse, conflicts_with = "until")]
    period: Option<Duration>,
    /// The end of the pause, such as 2026-01-31T12:00:00Z
    #[arg(long, value_name = "TIME", value_parser = moment)]
    until: Option<DateTime<Utc>>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
pub(super) struct Resume {
    /// The subscriber's name
    name: String,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

impl Pause {
    pub(super) async fn run(&self, config: &Config) -> Outcome {
        let until = self.end()?;
        let bus = connect(config).await?;
        let end = Subscribers::new(&bus).pause(&self.name, until).await?;
        let Self { name, .. } = self;
        if self.json {
            let answer = json!({ "subscriber": name, "paused_until": end });
            return Ok(output::json(&answer)?);
        }
        let resume = format!("`tidings subscribers resume {name}`");
        let end = match until {
            Some(_) => format!("{}, or {resume}", output::second(end)),
            None => resume,
        };
        Ok(output::line(format!("{name} is paused until {end}"))?)
    }

    fn end(&self) -> Result<Option<DateTime<Utc>>, Report> {
        let now = Utc::now();
        let end = match self.period {
            Some(period) => {
                let end = TimeDelta::from_std(period).ok();
                let end = end.and_then(|period| now.checked_add_signed(period));
                Some(end.unwrap_or(DateTime::<Utc>::MAX_UTC))
            }
            None => self.until,
        };
        match end {
            Some(end) if end <= now => Err(Report::new(
                Exit::Usage,
                format!("{} is not in the future", output::second(end)),
            )
            .cure("a later time, or tidings subscribers resume, which ends a pause")),
            end => Ok(end),
        }
    }
}

impl Resume {
    pub(super) async fn run(&self, config: &Config) -> Outcome {
        let bus = connect(config).await?;
        let was_paused = Subscribers::new(&bus).resume(&self.name).await?;
        let Self { name, .. } = self;
        if self.json {
            let answer =
                json!({ "subscriber": name, "paused_until": null, "was_paused": was_paused });
            return Ok(output::json(&answer)?);
        }
        Ok(output::line(match was_paused {
            true => format!("{name} is resumed"),
            false => format!("{name} was not paused"),
        })?)
    }
}

fn moment(text: &str) -> Result<DateTime<Utc>, String> {
    let time = DateTime::parse_from_rfc3339(text);
    time.map(|time| time.to_utc())
        .map_err(|_| "write 2026-01-31T12:00:00Z, or --for 1h".to_owned())
}
