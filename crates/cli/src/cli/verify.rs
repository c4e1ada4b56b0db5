//! `tidings verify`: checks that the streams hold the confirmed events, and republishes missing ones.

use chrono::{DateTime, Utc};
use clap::Args;
use tidings::{
    Bus, Outbox,
    outbox::Store,
    verify::{Difference, DifferenceKind, Repair, Verification, VerifiedStream, Verify},
};

use super::{
    connect,
    database::{Database, with_outbox},
    dead_letters::moment,
    output,
    report::{Exit, Outcome, Report},
};
use crate::config::Config;

#[derive(Args)]
pub(super) struct RunVerify {
    /// Only events written since then: 2h ago, or a time such as 2026-01-31T12:00:00Z
    #[arg(long, value_name = "5m|TIME", value_parser = moment)]
    since: Option<DateTime<Utc>>,
    /// Compare payloads byte for byte, and not only their sizes; reads all payloads
    #[arg(long)]
    payloads: bool,
    /// Republish missing events
    #[arg(long)]
    repair: bool,
    /// With --repair: print the missing events, and publish nothing
    #[arg(long, requires = "repair")]
    dry_run: bool,
    /// The most differences to print
    #[arg(long, value_name = "N", default_value_t = 100)]
    limit: usize,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

impl RunVerify {
    /// Whether the command publishes something.
    pub(super) fn changes(&self) -> bool {
        self.repair && !self.dry_run
    }

    pub(super) async fn run(&self, config: &Config) -> Outcome {
        let database = Database::open(config).await?;
        let bus = connect(config).await?;
        if self.changes() {
            let repair =
                with_outbox!(&database, outbox => self.verify(&bus, outbox).repair().await)?;
            return self.repaired(&repair);
        }
        let found = with_outbox!(&database, outbox => self.verify(&bus, outbox).run().await)?;
        match self.json {
            true => output::json(&found)?,
            false => self.print(&found)?,
        }
        if found.is_ok() {
            return Ok(());
        }
        if let Some(unfound) = unfound(&found) {
            return Err(unfound);
        }
        Err(
            Report::new(Exit::Failed, "the streams do not hold what was confirmed")
                .cure(cure(&found)),
        )
    }

    fn verify<DB: Store>(&self, bus: &Bus, outbox: &Outbox<DB>) -> Verify<DB> {
        let mut verify = Verify::new(bus, outbox);
        if let Some(since) = self.since {
            verify = verify.since(since);
        }
        if self.payloads {
            verify = verify.payloads();
        }
        verify
    }

    fn repaired(&self, repair: &Repair) -> Outcome {
        match self.json {
            true => output::json(repair)?,
            false => {
                self.print(&repair.found)?;
                output::line("")?;
                output::table(&done(repair))?;
            }
        }
        if repair.is_whole() {
            return Ok(());
        }
        if let Some(unfound) = unfound(&repair.found) {
            return Err(unfound);
        }
        let what = "modified, duplicate, out-of-order and unreachable events cannot be repaired";
        let report = Report::new(Exit::Failed, what);
        Err(
            match repair
                .found
                .streams
                .iter()
                .any(|stream| stream.modified > 0)
            {
                true => report.cure(OF_ITS_OWN),
                false => report,
            },
        )
    }

    fn print(&self, found: &Verification) -> std::io::Result<()> {
        if found.streams.is_empty() {
            return output::line("the relay has not published anything yet");
        }
        let mut rows = vec![HEAD.map(str::to_owned)];
        rows.extend(found.streams.iter().map(row));
        output::table(&rows)?;
        for stream in found.streams.iter().filter(|stream| stream.expired > 0) {
            output::line(format!(
                "{}: a limit of the stream may have removed the expired events; a purge of the stream looks the same",
                stream.stream
            ))?;
        }
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

/// The report of events that are stored, but not where subscribers look for them.
fn unfound(found: &Verification) -> Option<Report> {
    let mut issues = found
        .streams
        .iter()
        .filter_map(|stream| stream.issue.clone());
    let report = Report::new(Exit::Failed, issues.next()?).cure(
        "resolve this issue first; then tidings outbox republish --from TIME --force republishes what was stored meanwhile",
    );
    Some(issues.fold(report, Report::cause))
}

fn cure(found: &Verification) -> String {
    const REPAIR: &str = "tidings verify --repair, which republishes missing events";
    match found.streams.iter().any(|stream| stream.modified > 0) {
        false => REPAIR.to_owned(),
        true => format!("{REPAIR}; {OF_ITS_OWN}"),
    }
}

/// The cure when another event has the same id.
const OF_ITS_OWN: &str = "a modified event is not stored, because another event has its id: publish it once more with an \
                          id of its own";

const HEAD: [&str; 11] = [
    "stream",
    "ok",
    "missing",
    "modified",
    "duplicate",
    "out of order",
    "late",
    "unconfirmed",
    "expired",
    "foreign",
    "state",
];
const DIFFERENCES: [&str; 8] = [
    "what", "stream", "sequence", "row", "event", "name", "key", "detail",
];

fn row(stream: &VerifiedStream) -> [String; 11] {
    [
        stream.stream.clone(),
        stream.ok.to_string(),
        stream.missing.to_string(),
        stream.modified.to_string(),
        stream.duplicates.to_string(),
        stream.out_of_order.to_string(),
        stream.late.to_string(),
        stream.unconfirmed.to_string(),
        stream.expired.to_string(),
        stream.foreign.to_string(),
        stream.state.to_string(),
    ]
}

fn done(repair: &Repair) -> Vec<[String; 2]> {
    let mut rows = Vec::new();
    for (stream, events) in &repair.republished {
        rows.push(["republished".into(), format!("{events} into {stream}")]);
    }
    if repair.republished.is_empty() {
        rows.push(["republished".into(), "nothing: nothing was missing".into()]);
    }
    if repair.late > 0 {
        let late = format!("{}, after later events of their keys", repair.late);
        rows.push(["late".into(), late]);
    }
    if repair.out_of_reach > 0 {
        let gone = format!("{}: the outbox no longer keeps them", repair.out_of_reach);
        rows.push(["unreachable".into(), gone]);
    }
    for loss in &repair.settled {
        let settled = format!("stream {} {}", loss.stream, loss.state);
        rows.push(["settled".into(), settled]);
    }
    rows
}

/// The printed words for a kind of difference.
fn kind(kind: DifferenceKind) -> String {
    kind.as_str().replace('-', " ")
}

fn line(stream: &str, difference: &Difference) -> [String; 8] {
    let number = |number: Option<String>| number.unwrap_or_else(|| "-".into());
    [
        kind(difference.kind),
        stream.to_owned(),
        number(difference.sequence.map(|sequence| sequence.to_string())),
        number(difference.id.map(|id| id.to_string())),
        difference.event.to_string(),
        difference.name.clone(),
        number(difference.key.clone()),
        difference.detail.unwrap_or_default().to_owned(),
    ]
}
