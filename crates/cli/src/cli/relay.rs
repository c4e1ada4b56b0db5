//! `tidings relay`: runs a relay until stopped.

use tidings::{Outbox, Relay, outbox::Store};

use super::{
    connect,
    database::{Database, with_outbox},
    report::Outcome,
    told_to_stop,
};
use crate::config::Config;

pub(super) async fn run(config: &Config) -> Outcome {
    let stop = told_to_stop();
    let database = Database::open(config).await?;
    let bus = connect(config).await?;
    with_outbox!(database, outbox => {
        relay(outbox.notify_via(&bus), config).run(bus, stop).await?;
    });
    Ok(())
}

/// A relay with the configured settings.
pub(super) fn relay<DB: Store>(outbox: Outbox<DB>, config: &Config) -> Relay<DB> {
    Relay::new(outbox)
        .lease(config.relay.lease)
        .batch(config.relay.batch)
        .retention(config.relay.retention)
        .stall_timeout(config.relay.stall_timeout)
}
