//! `tidings dead-letters`: list, redrive and discard dead letters. One file per action.

mod discard;
mod export;
mod list;
mod parked;
mod redrive;
mod show;

use chrono::{DateTime, TimeDelta, Utc};
use clap::{Args, Subcommand, builder::NonEmptyStringValueParser};
use tidings::{
    dead_letters::{DeadLetterSelection, StoredDeadLetter},
    event::Pattern,
    handler::Cause,
};

use super::report::{Exit, Outcome, Report};
use crate::config::{Config, duration};

#[derive(Args)]
pub(super) struct DeadLettersCommand {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// List dead letters from the oldest to the newest, or in groups by the kind of error
    List(list::List),
    /// Print one dead letter, with its headers and its payload
    Show(show::Show),
    /// Return events to the subscriber that failed, in order; confirmed ones leave the list
    ///
    /// With --subscriber, --key or --all alone, whole parked keys are redriven: their events are handled in order, and
    /// events that arrive meanwhile follow them. Otherwise only the first dead letter of a parked key can be redriven.
    Redrive(redrive::Redrive),
    /// Delete dead letters permanently; prints each one as a JSON object. A parked key without dead letters is unparked
    Discard(discard::Discard),
    /// Print dead letters with all data needed to redrive them elsewhere, one JSON object each
    Export(export::Export),
}

/// The selected dead letters; all conditions must hold.
#[derive(Args)]
#[command(next_help_heading = "Which dead letters")]
struct Filter {
    /// Dead letters of this subscriber
    #[arg(long, value_parser = NonEmptyStringValueParser::new())]
    subscriber: Option<String>,
    /// Dead letters of this event name, such as user.created or "user.>"
    #[arg(long, value_name = "PATTERN")]
    name: Option<Pattern>,
    /// Dead letters of this key
    #[arg(long, value_parser = NonEmptyStringValueParser::new())]
    key: Option<String>,
    /// Dead letters with this kind of error, as `list --groups` prints it
    #[arg(long, value_parser = NonEmptyStringValueParser::new())]
    fingerprint: Option<String>,
    /// Dead letters with this cause, such as exhausted, rejected, undecodable, unknown, outside-inbox, crashed,
    /// parked-key or removed
    #[arg(long, value_parser = NonEmptyStringValueParser::new())]
    cause: Option<String>,
    /// Dead-lettered since then: 5m ago, or a time such as 2026-01-31T12:00:00Z
    #[arg(long, value_name = "5m|TIME", value_parser = moment)]
    since: Option<DateTime<Utc>>,
    /// Dead-lettered before then
    #[arg(long, value_name = "5m|TIME", value_parser = moment)]
    until: Option<DateTime<Utc>>,
}

/// The dead letters that an action changes. All of them only with `--all`, never by omission.
#[derive(Args)]
struct Which {
    /// The dead letter's number, as `list` prints it
    #[arg(value_name = "SEQUENCE", conflicts_with = "all")]
    letter: Option<u64>,
    #[command(flatten)]
    filter: Filter,
    /// All dead letters
    #[arg(long)]
    all: bool,
}

impl DeadLettersCommand {
    /// Whether the command changes something.
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
        selection.cause = self.cause.as_deref().map(Cause::from);
        selection.since = self.since;
        selection.until = self.until;
        selection
    }
}

impl Which {
    /// The selection. The operator must have given one.
    fn selection(&self) -> Result<DeadLetterSelection, Report> {
        let mut selection = self.filter.selection();
        selection.sequence = self.letter;
        match (selection.is_all(), self.all) {
            (true, false) => Err(Report::new(Exit::Usage, "no dead letters are selected")
                .cure("name a dead letter, or use a condition such as --subscriber, or --all")),
            (false, true) => Err(Report::new(
                Exit::Usage,
                "--all and a condition contradict each other",
            )
            .cure("run the same command without --all")),
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
        .cure("tidings dead-letters list, which lists all dead letters")
}

/// A text, or a dash when it is missing or empty.
fn or_dash(text: Option<&str>) -> String {
    let text = text.filter(|text| !text.is_empty());
    text.unwrap_or("-").to_owned()
}

/// The first columns of a row: dead letter, subscriber, name, key.
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
