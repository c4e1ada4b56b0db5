//! The `tidings` program: sets up, runs, watches and uses an outbox from the command line.
//!
//! [`config`] holds its settings, [`cli`] its commands.

mod cli;
mod config;

/// Each event allocates a few dozen times, and memory that one thread allocates is freed by another. The allocator of
/// the platform spends a quarter of the processor time on that. A service chooses its own allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    cli::main()
}
