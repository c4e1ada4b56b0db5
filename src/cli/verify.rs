//! `tidings verify`: whether the streams hold what was confirmed. Never changes anything.

use chrono::{DateTime, Utc};
use clap::Args;
use tidings::{Difference, Standing, Verification, VerifiedStream, Verify};

use super::{
    connect,
    database::{Database, with_outbox},
    dead_letters::moment,
    output,
    report::{Exit, Outcome, Report},
};
use crate::config::Config;

/// Compares what the outbox keeps with what the streams hold: every event that was confirmed has to be there, as it
/// was written, once, and in the order of its key. The relay may go on meanwhile. Ends with 1 when something is
/// wrong. What a stream's limits have removed is not wrong.
#[derive(Args)]
pub(super) struct RunVerify {
    /// Only what was written since then: 2h ago, or at a time such as 2026-01-31T12:00:00Z
    #[arg(long, value_name = "5m|TIME", value_parser = moment)]
    since: Option<DateTime<Utc>>,
    /// Compare payloads byte for byte, and not only their sizes; this reads all of them
    #[arg(long)]
    payloads: bool,
    /// How many differences to print at most
    #[arg(long, value_name = "N", default_value_t = 100)]
    limit: usize,
    /// Print a JSON object
    #[arg(long)]
    json: bool,
}

impl RunVerify {
    pub(super) async fn run(&self, config: &Config) -> Outcome {
        let database = Database::open(config).await?;
        let bus = connect(config).await?;
        let found = with_outbox!(&database, outbox => {
            let mut verify = Verify::new(&bus, outbox);
            if let Some(since) = self.since {
                verify = verify.since(since);
            }
            if self.payloads {
                verify = verify.payloads();
            }
            verify.run().await
        })?;
        match self.json {
            true => output::json(&found)?,
            false => self.print(&found)?,
        }
        if found.is_sound() {
            return Ok(());
        }
        Err(Report::new(
            Exit::Failed,
            "the streams do not hold what was confirmed",
        ))
    }

    fn print(&self, found: &Verification) -> std::io::Result<()> {
        if found.streams.is_empty() {
            return output::line("the relay has not published anything yet");
        }
        let mut rows = vec![HEAD.map(str::to_owned)];
        rows.extend(found.streams.iter().map(row));
        output::table(&rows)?;
        let differences = found.streams.iter().flat_map(|stream| {
            let told = stream.differences.iter();
            told.map(|difference| line(&stream.stream, difference))
        });
        let differences: Vec<_> = differences.take(self.limit).collect();
        if differences.is_empty() {
            return Ok(());
        }
        output::line("")?;
        let mut rows = vec![DIFFERENCES.map(str::to_owned)];
        rows.extend(differences);
        output::table(&rows)
    }
}

const HEAD: [&str; 10] = [
    "stream",
    "sound",
    "missing",
    "altered",
    "twice",
    "inverted",
    "unconfirmed",
    "expired",
    "others",
    "the stream",
];
const DIFFERENCES: [&str; 8] = [
    "what", "stream", "sequence", "row", "event", "name", "key", "detail",
];

fn row(stream: &VerifiedStream) -> [String; 10] {
    let standing = match &stream.standing {
        Standing::Known => "is the one that the relay knows".to_owned(),
        Standing::Gone => "is gone".to_owned(),
        Standing::Recreated { was, now } => format!("was made anew: of {now}, not of {was}"),
        Standing::RolledBack { known, now } => {
            format!("ends at {now}, and {known} was confirmed: an older copy was restored")
        }
        other => format!("{other:?}"),
    };
    [
        stream.stream.clone(),
        stream.sound.to_string(),
        stream.missing.to_string(),
        stream.altered.to_string(),
        stream.duplicated.to_string(),
        stream.out_of_order.to_string(),
        stream.unconfirmed.to_string(),
        stream.expired.to_string(),
        stream.others.to_string(),
        standing,
    ]
}

fn line(stream: &str, difference: &Difference) -> [String; 8] {
    let number = |number: Option<String>| number.unwrap_or_else(|| "-".into());
    [
        difference.kind.as_str().to_owned(),
        stream.to_owned(),
        number(difference.sequence.map(|sequence| sequence.to_string())),
        number(difference.id.map(|id| id.to_string())),
        difference.event.to_string(),
        difference.name.clone(),
        output::printable(difference.key.as_deref().unwrap_or("-")),
        difference.detail.unwrap_or_default().to_owned(),
    ]
}
