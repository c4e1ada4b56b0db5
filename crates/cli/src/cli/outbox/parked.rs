//! `tidings outbox parked`, `show`, `unpark` and `discard`: lists, publishes and deletes parked events.

use std::num::NonZeroU32;

use clap::{Args, builder::NonEmptyStringValueParser};
use serde_json::json;
use tidings::{
    Outbox,
    outbox::{OutboxError, ParkedEvent, ParkedSelection, Store},
};

use crate::{
    cli::{
        consent::{Consent, NOTHING_CHANGED},
        database::{Database, with_outbox},
        output,
        report::{Exit, Outcome, Report},
    },
    config::Config,
};

const HEAD: [&str; 7] = [
    "row",
    "name",
    "key",
    "bytes",
    "parked at",
    "restored",
    "why",
];
/// How many rows are read at once.
const PAGE: u32 = 1000;

#[derive(Args)]
pub(super) struct ListParked {
    /// Only events with this key
    #[arg(long, value_parser = NonEmptyStringValueParser::new())]
    key: Option<String>,
    /// The most events to list
    #[arg(long, default_value = "100")]
    limit: NonZeroU32,
    /// Print one JSON object per event
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
pub(super) struct ShowParked {
    /// The row id, as `parked` lists it
    id: i64,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// The selected parked events.
#[derive(Args)]
#[group(required = true, multiple = false)]
struct Which {
    /// The row id, as `parked` lists it
    id: Option<i64>,
    /// All parked events with this key
    #[arg(long, value_parser = NonEmptyStringValueParser::new())]
    key: Option<String>,
    /// All parked events
    #[arg(long)]
    all: bool,
}

#[derive(Args)]
pub(super) struct Unpark {
    #[command(flatten)]
    which: Which,
    /// Print one JSON object
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
        // Each page has its own column widths, so that only one page is in memory.
        let mut rows = vec![HEAD.map(str::to_owned)];
        let mut is_empty = true;
        while left > 0 {
            let limit = left.min(PAGE);
            let page = with_outbox!(&database, outbox => match self.json {
                true => outbox.parked(&selection, behind, limit).await,
                false => outbox.parked_heads(&selection, behind, limit).await,
            })?;
            let Some(last) = page.last() else { break };
            is_empty = false;
            behind = last.id;
            left -= u32::try_from(page.len()).unwrap_or(left);
            if self.json {
                page.iter().try_for_each(output::json)?;
                continue;
            }
            rows.extend(page.iter().map(row));
            output::table(&rows)?;
            rows.clear();
        }
        if is_empty && !self.json {
            output::line("nothing is parked")?;
        }
        Ok(())
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
        let [_, name, key, _, parked_at, goes_back, why] = row(event);
        let payload = match event.payload.len() as u64 {
            shown if shown < event.payload_bytes => {
                format!("{} bytes, too many to be shown", event.payload_bytes)
            }
            _ => String::from_utf8_lossy(&event.payload).into_owned(),
        };
        let rows = [
            ["row", &event.id.to_string()],
            ["event", &event.event.to_string()],
            ["name", &format!("{name}, version {}", event.version)],
            ["key", &key],
            ["written at", &output::time(event.at)],
            ["parked at", &parked_at],
            ["restored", &goes_back],
            ["why", &why],
            ["headers", &event.headers],
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
            "unpark requested for {}: the relay publishes them in their order",
            output::events(asked)
        );
        Ok(output::line(said)?)
    }
}

impl Discard {
    /// Prints every discarded event as a JSON object, so that the operator can keep it.
    pub(super) async fn run(&self, config: &Config) -> Outcome {
        let database = Database::open(config).await?;
        let selection = self.which.selection();
        let count = with_outbox!(&database, outbox => count(outbox, &selection).await)?;
        if count == 0 {
            return self.which.nothing();
        }
        let what = format!("discards {} for good", output::events(count));
        if !self.consent.to(&what)? {
            return Ok(output::line(NOTHING_CHANGED)?);
        }
        let (mut behind, mut discarded, mut printed) = (i64::MIN, 0, 0);
        loop {
            let page = with_outbox!(&database, outbox =>
                outbox.parked_whole(&selection, behind, PAGE).await)?;
            let Some(last) = page.last() else { break };
            behind = last.id;
            page.iter().try_for_each(output::kept)?;
            let ids: Vec<i64> = page.iter().map(|event| event.id).collect();
            printed += ids.len();
            discarded += with_outbox!(&database, outbox => outbox.discard_rows(&ids).await)?.len();
        }
        match printed - discarded {
            _ if discarded == 0 => self.which.nothing(),
            0 => Ok(()),
            gone => {
                output::note(format!(
                    "{gone} of them were no longer parked, and are not discarded"
                ));
                Ok(())
            }
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
            .cure("tidings outbox parked, which lists the parked events")),
            (None, None) => Ok(output::line("nothing is parked")?),
        }
    }
}

/// How many selected events are parked.
async fn count<DB: Store>(
    outbox: &Outbox<DB>,
    selection: &ParkedSelection,
) -> Result<u64, OutboxError> {
    let (mut behind, mut count) = (i64::MIN, 0);
    loop {
        let page = outbox.parked_heads(selection, behind, PAGE).await?;
        let Some(last) = page.last() else {
            return Ok(count);
        };
        behind = last.id;
        count += page.len() as u64;
    }
}

fn not_there(id: i64) -> Report {
    Report::new(Exit::Failed, format!("row {id} is not parked"))
        .cure("tidings outbox parked, which lists the parked events")
}

fn row(event: &ParkedEvent) -> [String; 7] {
    let goes_back = match (&event.unpark_requested_at, &event.blocked_on) {
        (Some(_), _) => "soon, as requested".to_owned(),
        (None, Some(blocked_on)) => format!("automatically, waits for {blocked_on}"),
        (None, None) if event.is_returning => {
            "automatically, with an earlier event of its key".to_owned()
        }
        (None, None) => "on request".to_owned(),
    };
    [
        event.id.to_string(),
        event.name.clone(),
        event.key.clone().unwrap_or_else(|| "-".to_owned()),
        event.payload_bytes.to_string(),
        output::time(event.parked_at),
        goes_back,
        event.error.clone(),
    ]
}
