//! The one rule for commands that repeat effects or destroy something: they say how much, then ask on a terminal;
//! elsewhere they need `--yes`. Never what they do.

use std::io::{self, BufRead, IsTerminal, Write};

use clap::Args;

use super::{
    output,
    report::{Exit, Report},
};

/// The flag of such a command.
#[derive(Args, Clone, Copy)]
pub(super) struct Consent {
    /// Do not ask; needed where there is no terminal to ask on
    #[arg(long)]
    yes: bool,
}

impl Consent {
    /// Whether it can be given: otherwise a command leaves out the part that needs it, and says so.
    pub(super) fn is_possible(self) -> bool {
        self.yes || io::stdin().is_terminal()
    }

    /// Whether it is to be done; `what` says what that is, with the count, such as "deletes 3 dead letters".
    ///
    /// # Errors
    /// A report that says it, when there is no terminal to ask on.
    pub(super) fn to(self, what: &str) -> Result<bool, Report> {
        if self.yes {
            return Ok(true);
        }
        if !io::stdin().is_terminal() {
            let what = format!("this {what}, and there is no terminal to ask whether it is meant");
            return Err(Report::new(Exit::Usage, what).cure("the same with --yes, if it is"));
        }
        // The answer decides, also when the question cannot be shown.
        let _ = write!(
            io::stderr(),
            "this {}: go on? [y/N] ",
            output::printable(what)
        );
        let mut answer = String::new();
        let read = io::stdin().lock().read_line(&mut answer);
        Ok(read.is_ok() && matches!(answer.trim(), "y" | "yes"))
    }
}

/// What such a command prints that was told not to.
pub(super) const NOTHING_CHANGED: &str = "nothing is changed";
