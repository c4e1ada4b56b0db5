//! `tidings doctor`: what is wrong, the worst first, each with its cause and cure. Never changes anything.

mod screen;

use std::{io::IsTerminal, time::Duration};

use clap::{Args, ValueEnum};
use tidings::{
    Bus,
    doctor::{Doctor, Figures, Unseen},
    judge::{Component, Finding, Health, IssueKind, Verdict, is_check, judge},
};
use tokio::time::timeout;

use super::{
    connect,
    database::{Database, with_outbox},
    output,
    relay::relay,
    report::{Exit, Outcome, Report},
    told_to_stop,
};
use crate::config::Config;

/// The most time that connecting to one of the servers may take.
const PATIENCE: Duration = Duration::from_secs(3);
/// The pause between two looks.
const AGAIN: Duration = Duration::from_secs(2);

#[derive(Args)]
pub(super) struct RunDoctor {
    /// Look at this part only: `outbox`, `subscribers`, `preflight` (how all is configured), or one subscriber by its name
    #[arg(value_name = "outbox|subscribers|preflight|NAME")]
    part: Option<String>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// Look again every 2 s, until the command is stopped; it then exits as the last look says
    #[arg(long)]
    watch: bool,
    /// The least that counts for the exit code; what could not be seen always counts
    #[arg(long, value_enum, default_value_t = FailOn::Degraded)]
    fail_on: FailOn,
}

/// The least bad finding that counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum FailOn {
    Notice,
    Degraded,
    Stuck,
}

/// What is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part<'a> {
    All,
    Outbox,
    Subscribers,
    Preflight,
    Subscriber(&'a str),
}

impl FailOn {
    /// Dangers count as degraded.
    fn least(self) -> Health {
        match self {
            Self::Notice => Health::Notice,
            Self::Degraded => Health::Danger,
            Self::Stuck => Health::Stuck,
        }
    }
}

impl RunDoctor {
    pub(super) async fn run(&self, config: &Config) -> Outcome {
        let code = match self.watch {
            false => self.look(config).await?,
            true => self.watch(config).await?,
        };
        ends(code)
    }

    /// Looks and prints again and again; the exit code of the last look.
    async fn watch(&self, config: &Config) -> Result<u8, Report> {
        let stop = told_to_stop();
        let mut code = 0;
        let looking = async {
            loop {
                match self.look(config).await {
                    Ok(found) => code = found,
                    Err(report) => return report,
                }
                tokio::time::sleep(AGAIN).await;
            }
        };
        tokio::select! {
            ended = stop.run_until_cancelled(looking) => match ended {
                Some(report) => Err(report),
                None => Ok(code),
            },
            () = output::reader_left() => Ok(0),
        }
    }

    /// Looks once, and prints it; the exit code.
    async fn look(&self, config: &Config) -> Result<u8, Report> {
        let figures = self.figures(config).await?;
        let verdict = judge(&figures);
        let verdict = match self.part() {
            Part::Subscriber(name) => {
                let verdict = verdict.retain(|finding| is_about(name, finding));
                is_known(name, &figures, &verdict)?;
                verdict
            }
            Part::Preflight => verdict.retain(|finding| is_check(finding.kind)),
            // Its notes are no news.
            _ => verdict.retain(|finding| !is_note(finding)),
        };
        let code = verdict.exit_from(self.fail_on.least());
        match self.json {
            true => output::json(&verdict)?,
            false => {
                if self.watch && std::io::stdout().is_terminal() {
                    output::clear()?;
                }
                output::line(screen::text(config, &verdict, code))?;
            }
        }
        Ok(code)
    }

    /// Opens both servers, side by side, and looks.
    async fn figures(&self, config: &Config) -> Result<Figures, Report> {
        let part = self.part();
        let sees_outbox = matches!(part, Part::All | Part::Outbox | Part::Preflight);
        let opening = async {
            match sees_outbox {
                true => database(config).await.map(Some),
                false => Ok(None),
            }
        };
        let (database, bus) = tokio::join!(opening, nats(config));
        let mut doctor = match bus? {
            Ok(bus) => Doctor::new(&bus),
            Err(why) => Doctor::without_nats(why),
        };
        if sees_outbox {
            doctor = doctor.preflight().allow(config.allow.iter().copied());
        }
        doctor = match database? {
            None => doctor,
            Some(Ok(database)) => with_outbox!(&database, outbox => {
                doctor.outbox(outbox).relay(&relay(outbox.clone(), config))
            }),
            Some(Err(why)) => doctor.unseen_outbox(&config.schema, why),
        };
        if part == Part::Outbox {
            doctor = doctor.without_subscribers();
        }
        Ok(doctor.look().await)
    }

    fn part(&self) -> Part<'_> {
        match self.part.as_deref() {
            None => Part::All,
            Some("outbox") => Part::Outbox,
            Some("subscribers") => Part::Subscribers,
            Some("preflight") => Part::Preflight,
            Some(name) => Part::Subscriber(name),
        }
    }
}

/// Whether a finding concerns a subscriber, or the account that it shares with all others.
fn is_about(name: &str, finding: &Finding) -> bool {
    match finding.component {
        Component::Subscriber => finding.of == name,
        component => component == Component::Nats,
    }
}

fn is_note(finding: &Finding) -> bool {
    finding.status == Health::Notice && is_check(finding.kind)
}

/// Ends with a code, after everything is printed. The codes of this command differ in meaning from those of the others.
fn ends(code: u8) -> Outcome {
    Err(Report::told(match code {
        0 => return Ok(()),
        1 => Exit::Failed,
        2 => Exit::Usage,
        _ => Exit::Unreachable,
    }))
}

/// A mistyped name must not look healthy.
fn is_known(name: &str, figures: &Figures, verdict: &Verdict) -> Outcome {
    let Some(overview) = &figures.subscribers else {
        return Ok(());
    };
    let is_there = overview.subscribers.iter().any(|one| one.name == name);
    match is_there || !verdict.findings.is_empty() || !verdict.unseen.is_empty() {
        true => Ok(()),
        false => Err(
            Report::new(Exit::Failed, format!("there is no subscriber {name}"))
                .cure("tidings subscribers list"),
        ),
    }
}

/// Opens the database, whichever version its tables have.
async fn database(config: &Config) -> Result<Result<Database, Unseen>, Report> {
    let silent = Unseen::new(
        "the outbox",
        IssueKind::DatabaseSilent,
        format!(
            "the database {} has not answered within {PATIENCE:?}",
            config.database
        ),
        "check whether the database is frozen, overloaded or cut off; a firewall may drop packets silently",
    );
    let opening = Database::open_existing(config);
    opened(opening, silent, IssueKind::DatabaseUnreachable).await
}

/// Connects to NATS.
async fn nats(config: &Config) -> Result<Result<Bus, Unseen>, Report> {
    let silent = Unseen::new(
        "NATS",
        IssueKind::NatsSilent,
        format!(
            "{} has not answered within {PATIENCE:?}",
            screen::servers(config)
        ),
        "see whether that nats-server is frozen, overloaded or cut off",
    );
    opened(connect(config), silent, IssueKind::NatsUnreachable).await
}

/// What is opened, or why it cannot be seen. Only settings that cannot be used are an error.
async fn opened<T>(
    opening: impl Future<Output = Result<T, Report>>,
    silent: Unseen,
    unreachable: IssueKind,
) -> Result<Result<T, Unseen>, Report> {
    match timeout(PATIENCE, opening).await {
        Ok(Ok(opened)) => Ok(Ok(opened)),
        Ok(Err(report)) if report.is_unreachable() => {
            Ok(Err(report.unseen(&silent.what, unreachable)))
        }
        Ok(Err(report)) => Err(report),
        Err(_) => Ok(Err(silent)),
    }
}
