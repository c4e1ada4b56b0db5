//! `tidings relay`: runs a relay until stopped.

use clap::Args;
use tidings::{
    Bus, Outbox, Relay, Worker,
    ops::{Ops, Systemd, metrics::Metrics},
    outbox::Store,
};
use tokio_util::sync::CancellationToken;

use super::{
    connect,
    database::{Database, with_outbox},
    logging::LogFilter,
    reload::Reload,
    report::{Exit, Outcome, Report},
    signals::Signals,
    span_export::SpanExport,
};
use crate::config::Config;

#[derive(Args)]
pub(super) struct RunRelay {
    /// Start even if a check at the start refuses it
    #[arg(long)]
    force: bool,
}

impl RunRelay {
    pub(super) async fn run(&self, config: &Config, log: LogFilter) -> Outcome {
        // Before anything else: a SIGHUP without a listener ends the program.
        let signals = Signals::listen().map_err(|error| {
            Report::new(Exit::Failed, "the program cannot listen for signals").because(Some(&error))
        })?;
        let spans = SpanExport::begin(&config.traces)?;
        let ended = self.relay(config, log, signals).await;
        if let Some(spans) = spans {
            spans.end().await;
        }
        ended
    }

    async fn relay(&self, config: &Config, log: LogFilter, signals: Signals) -> Outcome {
        let Signals { stop, reload } = signals;
        let database = Database::open(config).await?;
        let bus = connect(config).await?;
        with_outbox!(database, outbox => {
            let outbox = outbox.notify_via(&bus);
            let relay = relay(outbox.clone(), config);
            let relay = match self.force {
                true => relay.force(),
                false => relay,
            };
            let reloading = Reload::new(config, relay.handle(), log).run(&reload);
            tokio::select! {
                ended = run_beside(relay, &outbox, bus, config, stop) => ended?,
                never = reloading => match never {},
            }
        });
        Ok(())
    }
}

/// Runs a relay, with its health endpoints and metrics, and the messages to systemd.
async fn run_beside<DB: Store>(
    relay: Relay<DB>,
    outbox: &Outbox<DB>,
    bus: Bus,
    config: &Config,
    stop: CancellationToken,
) -> Outcome {
    let (ops, systemd) = (ops(config), systemd(config));
    if ops.is_none() && systemd.is_none() {
        return Ok(relay.run(bus, stop).await?);
    }
    let mut worker = Worker::new(bus, ()).with(relay);
    if let Some(ops) = ops {
        let metrics = Metrics::new();
        metrics.outbox(outbox);
        worker = worker.with(ops.merge(metrics.router())).with(metrics);
    }
    if let Some(systemd) = systemd {
        worker = worker.with(systemd);
    }
    Ok(worker.run(stop.cancelled()).await?)
}

/// The messages to systemd, if it has started the program.
fn systemd(config: &Config) -> Option<Systemd> {
    let settings = crate::config::systemd()?;
    let systemd = Systemd::notify(settings.socket).watchdog(settings.watchdog);
    Some(systemd.stuck_after(config.ops.stuck_after))
}

/// The configured health endpoints, without metrics.
fn ops(config: &Config) -> Option<Ops> {
    let settings = &config.ops;
    let ops = Ops::listen(&**settings.listen.as_ref()?).stuck_after(settings.stuck_after);
    Some(match settings.is_public {
        true => ops.public(),
        false => ops,
    })
}

/// A relay with the configured settings.
pub(super) fn relay<DB: Store>(outbox: Outbox<DB>, config: &Config) -> Relay<DB> {
    Relay::new(outbox)
        .lease(config.relay.lease)
        .batch(config.relay.batch)
        .retention(config.relay.retention)
        .stall_timeout(config.relay.stall_timeout)
        .allow(config.allow.iter().copied())
}
