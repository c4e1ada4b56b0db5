//! Results on stdout: lines, tables, JSON. Logs and errors never come here.

use std::{
    fmt::Display,
    io::{self, Write},
    os::fd::AsFd,
};

use chrono::{DateTime, SecondsFormat, Utc};
use serde::Serialize;
use tokio::{io::Interest, net::unix::pipe};

/// Prints a line, at once.
///
/// # Errors
/// Those of stdout; `BrokenPipe` when its reader has left.
pub(crate) fn line(text: impl Display) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{text}")?;
    out.flush()
}

/// Prints a value as one line of JSON.
///
/// # Errors
/// Those of stdout.
pub(crate) fn json(value: &impl Serialize) -> io::Result<()> {
    line(serde_json::to_string(value)?)
}

/// Prints rows with their columns below each other.
///
/// # Errors
/// Those of stdout.
pub(crate) fn table<const N: usize>(rows: &[[String; N]]) -> io::Result<()> {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    let widths: [usize; N] = std::array::from_fn(|column| width(column).unwrap_or(0));
    for row in rows {
        let cells = row.iter().zip(widths);
        let text: String = cells
            .map(|(cell, width)| format!("{cell:width$}  "))
            .collect();
        line(text.trim_end())?;
    }
    Ok(())
}

/// So many events.
pub(crate) fn events(count: u64) -> String {
    match count {
        1 => "1 event".to_owned(),
        count => format!("{count} events"),
    }
}

/// A time to the millisecond.
pub(crate) fn time(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Millis, true)
}

/// A time to the second.
pub(crate) fn second(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Secs, true)
}

/// A text without control characters, which a terminal would obey. JSON has them only between its parts.
pub(crate) fn printable(text: &str) -> String {
    text.replace(char::is_control, " ")
}

/// Ends when whoever reads stdout has left; never for a file or a terminal.
pub(crate) async fn reader_left() {
    let Ok(stdout) = io::stdout().as_fd().try_clone_to_owned() else {
        return std::future::pending().await;
    };
    // Only watched, never written through, so it need not be non-blocking, which would reach everybody
    // who shares it. Fails for a file, which nobody leaves.
    let Ok(stdout) = pipe::Sender::from_owned_fd_unchecked(stdout) else {
        return std::future::pending().await;
    };
    if stdout.ready(Interest::ERROR).await.is_err() {
        std::future::pending().await
    }
}
