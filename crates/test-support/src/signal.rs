//! Signals to the processes that a test has started.

use tokio::process::Command;

/// Sends a signal, such as STOP, to a process.
///
/// # Panics
/// When there is no such process, or no such signal.
pub async fn signal(signal: &str, process: u32) {
    let mut kill = Command::new("kill");
    kill.arg(format!("-{signal}")).arg(process.to_string());
    assert!(kill.status().await.expect("kill").success());
}
