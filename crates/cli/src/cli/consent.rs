//! The confirmation for commands that repeat effects or destroy something: the command prints the count and asks on a
//! terminal; without a terminal it needs `--yes`. Never what the command does.

use std::io::{self, BufRead, IsTerminal, Write};

use clap::Args;

use super::{
    output,
    report::{Exit, Report},
};

/// The `--yes` flag of such a command.
#[derive(Args, Clone, Copy)]
pub(super) struct Consent {
    /// Do not ask for confirmation; required without a terminal
    #[arg(long)]
    yes: bool,
}

impl Consent {
    /// Whether consent can be given. Otherwise the command leaves out the part that needs it, and reports that.
    pub(super) fn is_possible(self) -> bool {
        self.yes || io::stdin().is_terminal()
    }

    /// Returns whether the operator consents. `what` describes the action with its count, such as "deletes 3 dead
    /// letters".
    ///
    /// # Errors
    /// A report with `what`, when there is no terminal to ask on.
    pub(super) fn to(self, what: &str) -> Result<bool, Report> {
        if self.yes {
            return Ok(true);
        }
        if !io::stdin().is_terminal() {
            let what = format!("this {what}, and there is no terminal to confirm on");
            return Err(Report::new(Exit::Usage, what).cure("run the same command with --yes"));
        }
        // The answer counts even when the question cannot be shown.
        let _ = write!(
            io::stderr(),
            "this {}: continue? [y/N] ",
            output::printable(what)
        );
        let mut answer = String::new();
        let read = io::stdin().lock().read_line(&mut answer);
        Ok(read.is_ok() && matches!(answer.trim(), "y" | "yes"))
    }
}

/// Printed when the operator declines.
pub(super) const NOTHING_CHANGED: &str = "nothing is changed";
