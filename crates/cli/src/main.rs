//! The `tidings` program: sets up, runs, watches and uses an outbox from the command line.
//!
//! [`config`] says what it works with, [`cli`] what it can do.

mod cli;
mod config;

/// Each event allocates a few dozen times, and what one thread takes another gives back: the allocator of the
/// platform spends a quarter of the work on that. A service chooses its own.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    cli::main()
}
