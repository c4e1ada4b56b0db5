//! The relay and the handler of a latency measurement, in the process of the producer or in their own.

use std::time::{SystemTime, UNIX_EPOCH};

use tidings::{
    Bus, Context, EventSubscriber, Failure, Outbox, Relay, Worker, outbox::Store,
    worker::WorkerError,
};
use tokio::{io::AsyncBufReadExt, sync::mpsc};
use tokio_util::sync::CancellationToken;

use super::event::Written;
use crate::{
    cli::{
        connect,
        database::{Database, with_outbox},
        output,
        report::Outcome,
        told_to_stop,
    },
    config::Config,
};

/// How many notes may wait for their reader.
pub(super) const NOTES: usize = 4096;

/// The time at which an event's handler was called.
#[derive(Debug, Clone, Copy)]
pub(super) struct Note {
    pub(super) number: usize,
    /// Microseconds since 1970 by the clock of this machine, so that it can be compared across processes.
    pub(super) at: i64,
}

/// `tidings bench handle`, which only `tidings bench latency` runs: works until stopped, and prints a line for each
/// note.
pub(super) async fn run(config: &Config) -> Outcome {
    let stop = told_to_stop();
    let database = Database::open(config).await?;
    let bus = connect(config).await?;
    let (notes, mut noted) = mpsc::channel(NOTES);
    let printing = tokio::spawn(async move {
        while let Some(Note { number, at }) = noted.recv().await {
            output::line(format_args!("{number} {at}"))?;
        }
        std::io::Result::Ok(())
    });
    with_outbox!(database, outbox => work(bus.clone(), outbox.notify_via(&bus), notes, stop).await?);
    printing.await.map_err(std::io::Error::other)??;
    Ok(())
}

/// Runs a worker with the relay and the handler.
pub(super) async fn work<DB: Store>(
    bus: Bus,
    outbox: Outbox<DB>,
    notes: mpsc::Sender<Note>,
    stop: CancellationToken,
) -> Result<(), WorkerError> {
    Worker::new(bus, notes)
        .subscribe(EventSubscriber::durable("bench").on(note).concurrency(64))
        .with(Relay::new(outbox))
        .run(stop.cancelled_owned())
        .await
}

async fn note(event: Written, cx: Context<mpsc::Sender<Note>>) -> Result<(), Failure> {
    let note = Note {
        number: event.number,
        at: now(),
    };
    Ok(cx.state().send(note).await?)
}

/// Forwards the notes that another process prints.
pub(super) async fn read(
    lines: impl tokio::io::AsyncRead + Unpin,
    notes: mpsc::Sender<Note>,
) -> std::io::Result<()> {
    let mut lines = tokio::io::BufReader::new(lines).lines();
    while let Some(line) = lines.next_line().await? {
        let note =
            parse(&line).ok_or_else(|| std::io::Error::other(format!("not a note: {line}")))?;
        // At the end of the measurement the receiver is gone.
        let _ = notes.send(note).await;
    }
    Ok(())
}

fn parse(line: &str) -> Option<Note> {
    let (number, at) = line.split_once(' ')?;
    Some(Note {
        number: number.parse().ok()?,
        at: at.parse().ok()?,
    })
}

/// Microseconds since 1970.
pub(super) fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
    })
}
