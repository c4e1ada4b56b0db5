//! Results on stdout: lines, tables, JSON; notes on stderr. Logs and errors are not written here.
//!
//! All output passes [`untrusted`], so that no caller must remember which of its texts are foreign.

use std::{
    fmt::Display,
    io::{self, Write},
    os::fd::AsFd,
    sync::atomic::{AtomicBool, Ordering},
};

use chrono::{DateTime, SecondsFormat, Utc};
use serde::Serialize;
use tokio::{io::Interest, net::unix::pipe};

use super::{
    report::{Exit, Report},
    untrusted,
};

/// Cells above this width, in characters, do not widen their column.
const WIDEST: usize = 80;

/// Whether the command continues when the reader of its output has closed the pipe.
static OUTLIVES_ITS_READER: AtomicBool = AtomicBool::new(false);

/// For a command that changes something: from now on it runs to its end, whether or not its output is still read, and
/// its exit code is not affected.
pub(crate) fn outlive_the_reader() {
    OUTLIVES_ITS_READER.store(true, Ordering::Relaxed);
}

/// Prints one or several lines at once.
///
/// # Errors
/// Those of stdout; `BrokenPipe` when its reader has closed the pipe and the command does not
/// [outlive](outlive_the_reader) it.
pub(crate) fn line(text: impl Display) -> io::Result<()> {
    write(&untrusted::neutral_lines(&text.to_string()))
}

/// Clears the terminal that stdout is.
///
/// # Errors
/// As [`line()`].
pub(crate) fn clear() -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(b"\x1b[2J\x1b[H")?;
    out.flush()
}

fn write(line: &str) -> io::Result<()> {
    match write_for_the_reader(line) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
            match OUTLIVES_ITS_READER.load(Ordering::Relaxed) {
                true => Ok(()),
                false => Err(error),
            }
        }
        written => written,
    }
}

fn write_for_the_reader(line: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}

/// Prints a note on stderr. An error is ignored, because there is no other place to report it.
pub(crate) fn note(text: impl Display) {
    let text = untrusted::neutral_lines(&text.to_string());
    let _ = writeln!(io::stderr(), "{text}");
}

/// Prints a value as one line of JSON.
///
/// # Errors
/// Those of stdout.
pub(crate) fn json(value: &impl Serialize) -> io::Result<()> {
    write(&untrusted::json(&serde_json::to_string(value)?))
}

/// Prints rows with aligned columns. A cell is always one line.
///
/// # Errors
/// Those of stdout.
pub(crate) fn table<const N: usize>(rows: &[[String; N]]) -> io::Result<()> {
    for row in laid_out(rows) {
        write(&row)?;
    }
    Ok(())
}

/// The lines of a table. Padded by hand: a width from data may exceed the limit of a format string.
fn laid_out<const N: usize>(rows: &[[String; N]]) -> Vec<String> {
    let shown = |row: &[String; N]| {
        row.each_ref()
            .map(|cell| untrusted::neutral(cell).into_owned())
    };
    let rows: Vec<[String; N]> = rows.iter().map(shown).collect();
    let width = |text: &String| text.chars().count();
    let widths: [usize; N] = std::array::from_fn(|column| {
        let cells = rows.iter().map(|row| width(&row[column]));
        cells.filter(|width| *width <= WIDEST).max().unwrap_or(0)
    });
    let lines = rows.iter().map(|row| {
        let mut line = String::new();
        for (cell, column) in row.iter().zip(widths) {
            line.push_str(cell);
            line.extend(std::iter::repeat_n(
                ' ',
                column.saturating_sub(width(cell)) + 2,
            ));
        }
        line.truncate(line.trim_end().len());
        line
    });
    lines.collect()
}

/// Prints a value as one line of JSON before the caller deletes it. When the line cannot be written, the caller must
/// not delete the value.
///
/// # Errors
/// A report of that, when the reader of the output has closed the pipe.
pub(crate) fn kept(value: &impl Serialize) -> Result<(), Report> {
    let document = serde_json::to_string(value).map_err(io::Error::from)?;
    match write_for_the_reader(&untrusted::json(&document)) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
            let what = "the reader of the output has closed the pipe, and what was not read is not deleted";
            Err(Report::new(Exit::Failed, what)
                .cure("run the same command again, with its output into a file"))
        }
        written => Ok(written?),
    }
}

/// A count of events, in words.
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

/// A text on one line, for [`line()`] and [`note`], which print several lines. Cells of a table and reports are one line
/// already.
pub(crate) fn printable(text: &str) -> String {
    untrusted::neutral(text).into_owned()
}

/// Completes when the reader of stdout has closed the pipe; never for a file or a terminal.
pub(crate) async fn reader_left() {
    let Ok(stdout) = io::stdout().as_fd().try_clone_to_owned() else {
        return std::future::pending().await;
    };
    // The copy is only watched, never written to. So it need not be non-blocking, which would affect every process that
    // shares the pipe. Fails for a file, which has no reader.
    let Ok(stdout) = pipe::Sender::from_owned_fd_unchecked(stdout) else {
        return std::future::pending().await;
    };
    if stdout.ready(Interest::ERROR).await.is_err() {
        std::future::pending().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows<const N: usize>(rows: &[[&str; N]]) -> Vec<String> {
        let owned: Vec<_> = rows.iter().map(|row| row.map(str::to_owned)).collect();
        laid_out(&owned)
    }

    #[test]
    fn columns_are_aligned() {
        assert_eq!(rows(&[["a", "b"], ["long", "c"]]), ["a     b", "long  c"]);
    }

    #[test]
    fn a_cell_of_any_length_is_printed_and_widens_no_column() {
        for length in [81, 65_535, 65_536, 1_000_000] {
            let cell = "x".repeat(length);
            let lines = rows(&[["a", "b"], [&cell, "c"]]);
            assert_eq!(lines[0], "a  b");
            assert_eq!(lines[1].len(), length + 3);
        }
    }

    #[test]
    fn no_cell_breaks_its_line() {
        assert_eq!(
            rows(&[["a\nb\u{1b}[2J", "\u{202e}c"]]),
            ["a b\u{fffd}[2J  \u{fffd}c"]
        );
    }

    #[test]
    fn fuzz_tables() {
        let seeds = [
            "a\tb\nlong\tc",
            "a\u{1b}[2J\t\u{202e}c\n\t\n",
            &"x".repeat(81),
        ];
        tidings_fuzz::fuzz_text("table", &seeds, |text| {
            let cells = text
                .lines()
                .map(|line| line.split_once('\t').unwrap_or((line, "")));
            let cells: Vec<[&str; 2]> = cells.map(<[&str; 2]>::from).collect();
            let lines = rows(&cells);
            assert!(
                lines
                    .iter()
                    .all(|line| !line.contains(untrusted::is_hostile))
            );
            lines.len() > 1
        });
    }
}
