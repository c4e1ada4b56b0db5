//! The `tidings` program: sets up, runs, watches and uses an outbox from the command line.
//!
//! [`config`] says what it works with, [`cli`] what it can do.

mod cli;
mod config;

fn main() -> std::process::ExitCode {
    cli::main()
}
