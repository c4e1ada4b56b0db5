//! Reports at the start of a tenure which NATS permissions the relay lacks: some are needed only after a crash.
//! Never keeps the relay from working.

use std::{convert::Infallible, time::Instant};

use crate::{
    log::Lasting,
    nats::{Bus, Need, api, names, subjects},
};

/// Logs the missing permissions, and never ends.
pub(super) async fn tell_missing(
    bus: &Bus,
    outbox: &str,
    streams: &[String],
    said: &Lasting,
) -> Infallible {
    if let Some(rights) = bus.rights().await {
        let missing = rights.missing(&needs(bus, outbox, streams)).join("; ");
        if !missing.is_empty()
            && let Some(unsaid) = said.again_as(&missing, Instant::now())
        {
            tracing::error!(outbox, missing, unsaid, "NATS permissions missing");
        }
    }
    std::future::pending().await
}

fn needs(bus: &Bus, outbox: &str, streams: &[String]) -> Vec<Need> {
    let mut needs = vec![
        Need::subscribe(bus.an_inbox(), "answers"),
        Need::subscribe(
            subjects::wake(outbox),
            "receiving notices of commits by other processes",
        ),
        Need::subscribe(
            subjects::lease_released(outbox),
            "taking over a released lease at once",
        ),
        Need::subscribe(subjects::relay_status(outbox), "answering status requests"),
        Need::publish(
            subjects::lease_released(outbox),
            "letting another relay take over the lease at once",
        ),
        Need::publish(api::STREAM_NAMES, "finding the stream of an event"),
    ];
    for stream in streams {
        let after = "reading the end of a stream after a crash";
        let reader = names::reader(&names::relay_readers(outbox), 1);
        for subject in [
            api::stream_info(stream),
            api::message_get(stream),
            api::consumer_create(stream, &reader),
            api::consumer_next(stream, &reader),
        ] {
            needs.push(Need::publish(subject, after));
        }
    }
    needs
}
