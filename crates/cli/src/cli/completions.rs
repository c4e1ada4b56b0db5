//! `tidings completions`: shell completions for commands and flags.

use std::io;

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::{Cli, report::Outcome};

#[derive(Args)]
pub(super) struct Completions {
    /// The shell to print completions for
    shell: Shell,
}

impl Completions {
    pub(super) fn run(&self) -> Outcome {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "tidings", &mut script);
        Ok(io::Write::write_all(&mut io::stdout(), &script)?)
    }
}
