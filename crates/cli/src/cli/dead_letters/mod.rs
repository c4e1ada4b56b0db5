//! `tidings dead-letters`: what subscribers gave up, and its way back. One file an action.

mod discard;
mod export;
mod list;
mod parked;
mod redrive;
mod show;

use chrono::{DateTime, TimeDelta, Utc};
use clap::{Args, Subcommand, builder::NonEmptyStringValueParser};
use tidings::{DeadLetterSelection, Pattern, StoredDeadLetter};

use super::report::{Exit, Outcome, Report};
use crate::config::{Config, duration};

#[derive(Args)]
pub(super) struct DeadLettersCommand {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// List them in the order in which they were given up, or in groups by the kind of error
    List(list::List),
    /// Print one dead letter, with its headers and its payload
    Show(show::Show),
    /// Give events back to the subscriber that failed, in order; what was confirmed leaves the list.
    ///
    /// With --subscriber, --key or --all alone, parked keys are brought back whole: their events run in their order, and
    /// those that come meanwhile behind them. Else only the first letter of a parked key is.
    Redrive(redrive::Redrive),
    /// Give dead letters up, for ever; prints them, one JSON object each. A parked key without letters goes on
    Discard(discard::Discard),
    /// Print dead letters with all that is needed to redrive them elsewhere, one JSON object each
    Export(export::Export),
}

/// Which dead letters are meant; all conditions must hold.
#[derive(Args)]
#[command(next_help_heading = "Which dead letters")]
struct Filter {
    /// Those of a subscriber
    #[arg(long, value_parser = NonEmptyStringValueParser::new())]
    subscriber: Option<String>,
    /// Those of an event, such as user.created or "user.>"
    #[arg(long, value_name = "PATTERN")]
    name: Option<Pattern>,
    /// Those of a key
    #[arg(long, value_parser = NonEmptyStringValueParser::new())]
    key: Option<String>,
    /// Those with this kind of error, as `list --groups` prints it
    #[arg(long, value_parser = NonEmptyStringValueParser::new())]
    fingerprint: Option<String>,
    /// Those with this cause, such as exhausted, rejected, undecodable, unknown, outside-inbox, crashed, parked-key or
    /// removed
    #[arg(long, value_parser = NonEmptyStringValueParser::new())]
    cause: Option<String>,
    /// Those given up since then: 5m ago, or at a time such as 2026-01-31T12:00:00Z
    #[arg(long, value_name = "5m|TIME", value_parser = moment)]
    since: Option<DateTime<Utc>>,
    /// Those given up before then
    #[arg(long, value_name = "5m|TIME", value_parser = moment)]
    until: Option<DateTime<Utc>>,
}

/// Dead letters that something is done to: never all of them by mistake.
#[derive(Args)]
struct Which {
    /// The letter, as `list` prints it
    #[arg(conflicts_with = "all")]
    letter: Option<u64>,
    #[command(flatten)]
    filter: Filter,
    /// All of them
    #[arg(long)]
    all: bool,
}

impl DeadLettersCommand {
    /// Whether it changes something.
    pub(super) fn changes(&self) -> bool {
        match self.action {
            Action::List(_) | Action::Show(_) | Action::Export(_) => false,
            Action::Redrive(_) | Action::Discard(_) => true,
        }
    }

    pub(super) async fn run(&self, config: &Config) -> Outcome {
        match &self.action {
            Action::List(action) => action.run(config).await,
            Action::Show(action) => action.run(config).await,
            Action::Redrive(action) => action.run(config).await,
            Action::Discard(action) => action.run(config).await,
            Action::Export(action) => action.run(config).await,
        }
    }
}

impl Filter {
    fn selection(&self) -> DeadLetterSelection {
        let mut selection = DeadLetterSelection::default();
        selection.subscriber.clone_from(&self.subscriber);
        selection.name.clone_from(&self.name);
        selection.key.clone_from(&self.key);
        selection.fingerprint.clone_from(&self.fingerprint);
        selection.cause.clone_from(&self.cause);
        selection.since = self.since;
        selection.until = self.until;
        selection
    }
}

impl Which {
    /// What is meant, which must have been said.
    fn selection(&self) -> Result<DeadLetterSelection, Report> {
        let mut selection = self.filter.selection();
        selection.sequence = self.letter;
        match (selection.is_all(), self.all) {
            (true, false) => Err(Report::new(
                Exit::Usage,
                "it is not said which dead letters are meant",
            )
            .cure("a letter, --subscriber and the like, or --all")),
            (false, true) => Err(Report::new(
                Exit::Usage,
                "--all and a condition contradict each other",
            )
            .cure("the same without --all")),
            _ => Ok(selection),
        }
    }
}

pub(in crate::cli) fn moment(text: &str) -> Result<DateTime<Utc>, String> {
    if let Ok(ago) = duration::parse(text) {
        let time = TimeDelta::from_std(ago)
            .ok()
            .and_then(|ago| Utc::now().checked_sub_signed(ago));
        return Ok(time.unwrap_or(DateTime::UNIX_EPOCH));
    }
    let time = DateTime::parse_from_rfc3339(text);
    time.map(|time| time.to_utc())
        .map_err(|_| "write 5m, or 2026-01-31T12:00:00Z".to_owned())
}

fn not_there(letter: u64) -> Report {
    Report::new(Exit::Failed, format!("there is no dead letter {letter}"))
        .cure("tidings dead-letters list, which lists what is there")
}

/// A part of a letter that may be missing.
fn or_dash(text: Option<&str>) -> String {
    let text = text.filter(|text| !text.is_empty());
    text.unwrap_or("-").to_owned()
}

/// Letter, subscriber, name, key.
fn head_of(letter: &StoredDeadLetter) -> [String; 4] {
    [
        letter.sequence.to_string(),
        or_dash(Some(&letter.subscriber)),
        or_dash(Some(&letter.name)),
        or_dash(letter.key.as_deref()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_an_age_or_a_time() {
        let minute = DateTime::UNIX_EPOCH + TimeDelta::seconds(60);
        assert_eq!(moment("1970-01-01T01:01:00+01:00"), Ok(minute));
        let ago = moment("5m").unwrap();
        assert!((Utc::now() - ago).num_seconds() >= 300);
        assert_eq!(moment("99999999999d"), Ok(DateTime::UNIX_EPOCH));
        assert!(moment("yesterday").is_err());
    }

    #[test]
    fn fuzz_moments() {
        let seeds = [
            "5m",
            "2026-01-31T12:00:00Z",
            "99999999999d",
            "-262143-01-01T00:00:00Z",
        ];
        tidings_fuzz::fuzz_text("moment", &seeds, |text| moment(text).is_ok());
    }
}
