//! The end of a command: its exit code, and the error report for people. Never a backtrace, never a Debug text.

mod errors;

use std::{error::Error, fmt, io, process::ExitCode};

use tidings::{
    doctor::Unseen, error_text::error_texts, judge::IssueKind, nats::BusError, outbox::Diagnosis,
};

use super::untrusted;
pub(crate) use errors::no_stream;
use errors::{cure_of, exit_of};

/// The exit codes of the program. The numbers are part of the interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// The command succeeded.
    Ok = 0,
    /// The command was refused, or failed on the way.
    Failed = 1,
    /// The command line, the configuration or the event cannot be used as it is.
    Usage = 2,
    /// NATS or the database cannot be reached.
    Unreachable = 3,
}

/// The exit codes, for `--help`.
pub(crate) const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  refused, or failed on the way
  2  the command line, the configuration or the event cannot be used as it is
  3  NATS or the database cannot be reached

Configuration, the later wins: tidings.toml, the environment (TIDINGS_...), flags.
`tidings config` prints what is in effect, and where it comes from.";

/// Why a command did not succeed, as text for people.
#[derive(Debug)]
pub(crate) struct Report {
    exit: Exit,
    kind: Option<IssueKind>,
    what: String,
    causes: Vec<String>,
    cure: Option<String>,
}

/// The result of a command; the error also covers a reader that has closed the pipe.
pub(crate) type Outcome = Result<(), Report>;

impl Report {
    /// Makes a report without a cause.
    pub(crate) fn new(exit: Exit, what: impl Into<String>) -> Self {
        Self {
            exit,
            kind: None,
            what: what.into(),
            causes: Vec::new(),
            cure: None,
        }
    }

    /// Ends with this code and prints nothing: the result says everything.
    pub(crate) fn told(exit: Exit) -> Self {
        Self::new(exit, "")
    }

    /// Makes a report of an error and its sources.
    pub(crate) fn of(exit: Exit, error: &(dyn Error + 'static)) -> Self {
        let mut texts = error_texts(error).into_iter();
        let what = texts.next().unwrap_or_default();
        Self {
            causes: texts.collect(),
            ..Self::new(exit, what)
        }
    }

    /// Makes a report of an error of the NATS servers.
    fn of_bus(cause: &BusError, error: &(dyn Error + 'static)) -> Self {
        let report = Self::of(exit_of(cause), error);
        match cause {
            BusError::Refused { .. } => match cure_of(cause.kind()) {
                Some(cure) => report.cure(cure),
                None => report,
            },
            _ => report,
        }
    }

    /// Adds an error and its sources as causes.
    pub(crate) fn because(mut self, error: Option<&(dyn Error + 'static)>) -> Self {
        self.causes
            .extend(error.map(error_texts).unwrap_or_default());
        self
    }

    /// Adds one cause.
    pub(crate) fn cause(mut self, cause: impl Into<String>) -> Self {
        self.causes.push(cause.into());
        self
    }

    /// Adds a diagnosis of the database: its cause before the database's own message, and its cure.
    pub(crate) fn diagnosed(mut self, diagnosis: Diagnosis) -> Self {
        self.kind = Some(diagnosis.kind);
        self.causes.insert(0, diagnosis.cause.to_owned());
        self.cure(diagnosis.cure)
    }

    /// Sets the cure.
    pub(crate) fn cure(mut self, cure: impl Into<String>) -> Self {
        self.cure = Some(cure.into());
        self
    }

    /// Whether the servers did not answer.
    pub(crate) fn is_unreachable(&self) -> bool {
        self.exit == Exit::Unreachable
    }

    /// The report as something that could not be seen; `kind` is used when the report does not know its own.
    pub(crate) fn unseen(&self, what: &str, kind: IssueKind) -> Unseen {
        let mut why = self.what.clone();
        for cause in &self.causes {
            if !why.contains(cause) {
                why = format!("{why}: {cause}");
            }
        }
        let cure = self.cure.as_deref();
        let cure = cure.unwrap_or("start it, or correct its URL");
        Unseen::new(what, self.kind.unwrap_or(kind), why, cure)
    }

    /// The first line of the report.
    pub(crate) fn what(&self) -> &str {
        &self.what
    }

    /// Prints the report and returns the exit code.
    pub(crate) fn end(&self) -> ExitCode {
        if self.exit != Exit::Ok && !self.what.is_empty() {
            // An error is ignored, because stderr is the only place to report it.
            let _ = io::Write::write_all(&mut io::stderr(), self.to_string().as_bytes());
        }
        self.exit.into()
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit as u8)
    }
}

/// The lines for stderr. A cause that an earlier line contains is left out.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let line = |text: &str| {
            let words: Vec<_> = text.split_whitespace().collect();
            untrusted::neutral(&words.join(" ")).into_owned()
        };
        let mut told = vec![line(&self.what)];
        writeln!(f, "error: {}", told[0])?;
        for cause in &self.causes {
            let cause = line(cause);
            if !told.iter().any(|earlier| earlier.contains(&cause)) {
                writeln!(f, "  cause: {cause}")?;
                told.push(cause);
            }
        }
        match &self.cure {
            Some(cure) => writeln!(f, "  try: {}", untrusted::neutral(cure)),
            None => Ok(()),
        }
    }
}

/// An error of writing the result. A closed pipe is not a failure: its reader has read enough.
impl From<io::Error> for Report {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::new(Exit::Ok, ""),
            _ => Self::new(Exit::Failed, "the output cannot be written").because(Some(&error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_shown_once_and_the_cure_comes_last() {
        #[derive(Debug, thiserror::Error)]
        #[error("outer: inner")]
        struct Outer(#[source] Inner);
        #[derive(Debug, thiserror::Error)]
        #[error("inner")]
        struct Inner(#[source] io::Error);
        let error = Outer(Inner(io::Error::other("the\n end")));

        let report = Report::of(Exit::Failed, &error).cure("again");

        assert_eq!(
            report.to_string(),
            "error: outer: inner\n  cause: the end\n  try: again\n"
        );
    }

    #[test]
    fn the_help_lists_every_exit_code() {
        for exit in [Exit::Ok, Exit::Failed, Exit::Usage, Exit::Unreachable] {
            assert!(EXIT_CODES.contains(&format!("\n  {}  ", exit as u8)));
        }
    }
}
