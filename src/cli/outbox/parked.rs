//! `tidings outbox parked`, `show`, `unpark` and `discard`: what is put aside, and its way back.

use std::num::NonZeroU32;

use clap::Args;
use serde_json::json;
use tidings::{Outbox, OutboxError, ParkedEvent, ParkedSelection, Store};

use crate::{
    cli::{
        consent::{Consent, NOTHING_CHANGED},
        database::{Database, with_outbox},
        output,
        report::{Exit, Outcome, Report},
    },
    config::Config,
};

/// How many are read at once.
const PAGE: u32 = 1000;

#[derive(Args)]
pub(super) struct ListParked {
    /// Only those of a key
    #[arg(long)]
    key: Option<String>,
    /// How many to list at most
    #[arg(long, default_value = "100")]
    limit: NonZeroU32,
    /// Print a JSON object for each
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
pub(super) struct ShowParked {
    /// The row, as `parked` lists it
    id: i64,
    /// Print a JSON object
    #[arg(long)]
    json: bool,
}

/// Which parked events are meant.
#[derive(Args)]
#[group(required = true, multiple = false)]
struct Which {
    /// The row, as `parked` lists it
    id: Option<i64>,
    /// All of a key
    #[arg(long)]
    key: Option<String>,
    /// All of them
    #[arg(long)]
    all: bool,
}

#[derive(Args)]
pub(super) struct Unpark {
    #[command(flatten)]
    which: Which,
    /// Print a JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
pub(super) struct Discard {
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    consent: Consent,
}

impl ListParked {
    pub(super) async fn run(&self, config: &Config) -> Outcome {
        let database = Database::open(config).await?;
        let selection = self
            .key
            .clone()
            .map_or(ParkedSelection::All, ParkedSelection::Key);
        let (mut behind, mut left) = (i64::MIN, self.limit.get());
        let head = ["row", "name", "key", "parked at", "goes back", "why"].map(str::to_owned);
        let mut rows = vec![head];
        while left > 0 {
            let limit = left.min(PAGE);
            let page = with_outbox!(&database, outbox =>
                outbox.parked(&selection, behind, limit).await)?;
            let Some(last) = page.last() else { break };
            behind = last.id;
            left -= u32::try_from(page.len()).unwrap_or(left);
            for event in page {
                if self.json {
                    output::json(&event)?;
                } else {
                    rows.push(row(&event));
                }
            }
        }
        match (self.json, rows.len()) {
            (true, _) => Ok(()),
            (false, 1) => Ok(output::line("nothing is parked")?),
            (false, _) => Ok(output::table(&rows)?),
        }
    }
}

impl ShowParked {
    pub(super) async fn run(&self, config: &Config) -> Outcome {
        let database = Database::open(config).await?;
        let selection = ParkedSelection::Id(self.id);
        let found =
            with_outbox!(&database, outbox => outbox.parked(&selection, i64::MIN, 1).await)?;
        let Some(event) = found.first() else {
            return Err(not_there(self.id));
        };
        if self.json {
            return Ok(output::json(event)?);
        }
        let [_, name, key, parked_at, goes_back, why] = row(event);
        let payload = match event.payload.len() as u64 {
            shown if shown < event.payload_bytes => {
                format!("{} bytes, too many to be shown", event.payload_bytes)
            }
            _ => output::printable(&String::from_utf8_lossy(&event.payload)),
        };
        let rows = [
            ["row", &event.id.to_string()],
            ["event", &event.event.to_string()],
            ["name", &format!("{name}, version {}", event.version)],
            ["key", &key],
            ["written at", &output::time(event.at)],
            ["parked at", &parked_at],
            ["goes back", &goes_back],
            ["why", &why],
            ["headers", &output::printable(&event.headers)],
            ["payload", &payload],
        ];
        Ok(output::table(&rows.map(|row| row.map(str::to_owned)))?)
    }
}

impl Unpark {
    pub(super) async fn run(&self, config: &Config) -> Outcome {
        let database = Database::open(config).await?;
        let selection = self.which.selection();
        let asked = with_outbox!(&database, outbox => outbox.unpark(&selection).await)?;
        if asked == 0 && !(self.json && self.which.all) {
            return self.which.nothing();
        }
        if self.json {
            return Ok(output::json(&json!({ "asked": asked }))?);
        }
        let said = format!(
            "asked for {}: the relay publishes them in their order",
            output::events(asked)
        );
        Ok(output::line(said)?)
    }
}

impl Discard {
    /// What is given up is printed, a JSON object for each, so that it can be kept.
    pub(super) async fn run(&self, config: &Config) -> Outcome {
        let database = Database::open(config).await?;
        let selection = self.which.selection();
        let count = with_outbox!(&database, outbox => count(outbox, &selection).await)?;
        if count == 0 {
            return self.which.nothing();
        }
        let what = format!("gives up {} for good", output::events(count));
        if !self.consent.to(&what)? {
            return Ok(output::line(NOTHING_CHANGED)?);
        }
        let mut discarded: u64 = 0;
        loop {
            let page = with_outbox!(&database, outbox => outbox.discard(&selection, PAGE).await)?;
            if page.is_empty() {
                break;
            }
            discarded += page.len() as u64;
            for event in &page {
                output::json(event)?;
            }
        }
        match discarded {
            0 => self.which.nothing(),
            _ => Ok(()),
        }
    }
}

impl Which {
    fn selection(&self) -> ParkedSelection {
        match (self.id, &self.key) {
            (Some(id), _) => ParkedSelection::Id(id),
            (None, Some(key)) => ParkedSelection::Key(key.clone()),
            (None, None) => ParkedSelection::All,
        }
    }

    fn nothing(&self) -> Outcome {
        match (self.id, &self.key) {
            (Some(id), _) => Err(not_there(id)),
            (None, Some(key)) => Err(Report::new(
                Exit::Failed,
                format!("nothing is parked under the key {key:?}"),
            )
            .cure("tidings outbox parked, which lists what is")),
            (None, None) => Ok(output::line("nothing is parked")?),
        }
    }
}

/// How many are parked.
async fn count<DB: Store>(
    outbox: &Outbox<DB>,
    selection: &ParkedSelection,
) -> Result<u64, OutboxError> {
    let (mut behind, mut count) = (i64::MIN, 0);
    loop {
        let page = outbox.parked(selection, behind, PAGE).await?;
        let Some(last) = page.last() else {
            return Ok(count);
        };
        behind = last.id;
        count += page.len() as u64;
    }
}

fn not_there(id: i64) -> Report {
    Report::new(Exit::Failed, format!("row {id} is not parked"))
        .cure("tidings outbox parked, which lists what is")
}

fn row(event: &ParkedEvent) -> [String; 6] {
    let goes_back = match (&event.asked_at, &event.waits_for) {
        (Some(_), _) => "soon, it was asked for".to_owned(),
        (None, Some(waits_for)) => format!("by itself, waits for {waits_for}"),
        (None, None) => "when asked for".to_owned(),
    };
    [
        event.id.to_string(),
        output::printable(&event.name),
        output::printable(event.key.as_deref().unwrap_or("-")),
        output::time(event.parked_at),
        goes_back,
        output::printable(&event.error),
    ]
}
