//! Judges the settings of streams. Never asks the server.

use std::time::Duration;

use super::{About, Concern, Holds, NatsFigures, PreflightFigures, Severity, StreamFigures};
use crate::policy::issue_kind::IssueKind;

/// A relay that was frozen may send its last message, and the server keeps an unfinished batch, for so long.
const SHORTEST_WINDOW: Duration = Duration::from_secs(10);
/// The lease of a relay whose settings are not known.
const LEASE: Duration = Duration::from_secs(5);
/// How many ping intervals two lost connections take to be noticed: two pings may be without an answer.
const PINGS: u32 = 6;
/// Dead letters have to outlast a holiday.
const LEAST_AGE_OF_DEAD_LETTERS: Duration = Duration::from_secs(7 * 86_400);

pub(super) fn concerns(figures: &PreflightFigures) -> Vec<Concern> {
    let mut found = Vec::new();
    for stream in &figures.streams {
        found.extend(one_copy(stream));
        found.extend(drops(stream));
        match stream.holds {
            Holds::Events => {
                found.extend(window(stream, figures));
                found.extend(discard_old(stream));
                found.extend(retention_policy(stream));
                found.extend(keeps_less(stream, figures));
            }
            Holds::DeadLetters => found.extend(keeps_dead_letters(stream)),
            Holds::Retries | Holds::Bucket => {}
        }
    }
    if let Some(nats) = &figures.nats {
        found.extend(no_limit(&figures.streams, nats));
    }
    found.extend(unsynced(&figures.streams));
    found
}

fn about(stream: &StreamFigures) -> About {
    About::Stream(stream.name.clone())
}

fn edit(stream: &StreamFigures, option: &str) -> String {
    format!("nats stream edit {} --{option}", stream.name)
}

fn one_copy(stream: &StreamFigures) -> Option<Concern> {
    let (name, cluster) = (&stream.name, stream.cluster.as_ref()?);
    (stream.replicas <= 1).then(|| {
        let what = match stream.holds {
            Holds::Events => "events are neither stored nor delivered while its server is down, and are lost with its disk",
            Holds::DeadLetters => "dead letters are lost with its server, and none is stored while it is down",
            Holds::Retries => "waiting retries are lost with its server, and none is stored while it is down",
            Holds::Bucket => "leases, parked keys and replays are lost with its server",
        };
        let cure = match stream.holds {
            Holds::Bucket => "set nats.bucket_replicas = 3, and run tidings streams apply",
            _ => "set replicas = 3 for it in the configuration, and run tidings streams apply",
        };
        Concern::new(
            IssueKind::OneCopy,
            Severity::Danger,
            about(stream),
            format!("{name} has one copy in the cluster {cluster}: {what}"),
            cure,
        )
        .command(edit(stream, "replicas=3"))
    })
}

fn window(stream: &StreamFigures, figures: &PreflightFigures) -> Option<Concern> {
    let lease = figures.relay.as_ref().map_or(LEASE, |relay| relay.lease);
    let ping = figures.nats.as_ref().map(|nats| nats.ping_interval);
    let noticed = ping.unwrap_or_default() * PINGS;
    let needed = SHORTEST_WINDOW.max(lease + SHORTEST_WINDOW).max(noticed);
    let (name, window) = (&stream.name, stream.duplicate_window);
    (window < needed).then(|| {
        let severity = match window < SHORTEST_WINDOW {
            true => Severity::Refuse,
            false => Severity::Danger,
        };
        Concern::new(
            IssueKind::Window,
            severity,
            about(stream),
            format!(
                "duplicate_window of {name} is {window:?}: an event that is sent again after a lost connection or a \
                 failover of the relay, up to {needed:?} later, may be stored twice"
            ),
            format!(
                "set duplicate_window to at least {needed:?} (the default is 2m), and run tidings streams apply"
            ),
        )
        .command(edit(stream, &format!("dupe-window={}s", needed.as_secs().max(120))))
    })
}

fn discard_old(stream: &StreamFigures) -> Option<Concern> {
    let name = &stream.name;
    (stream.discard == "old").then(|| {
        Concern::new(
            IssueKind::DiscardOld,
            Severity::Danger,
            about(stream),
            format!(
                "discard of {name} is old: when it is full it silently drops its oldest events, also those that no \
                 subscriber has handled"
            ),
            "set discard to new with tidings streams apply: a full stream then refuses events, which wait in the outbox",
        )
        .command(edit(stream, "discard=new"))
    })
}

fn retention_policy(stream: &StreamFigures) -> Option<Concern> {
    let (name, retention) = (&stream.name, &stream.retention);
    let what = match &**retention {
        "interest" => "it drops each event that no consumer waits for",
        "workqueue" => {
            "it drops each event that one subscriber has handled, and takes one subscriber for each name"
        }
        _ => return None,
    };
    let severity = match stream.is_fed {
        true => Severity::Refuse,
        false => Severity::Danger,
    };
    Some(Concern::new(
        IssueKind::RetentionPolicy,
        severity,
        about(stream),
        format!(
            "retention of {name} is {retention}: {what}; verify, replay and a restarted relay do not find them"
        ),
        format!(
            "copy the events that are needed, delete the stream with `nats stream rm {name}`, and create it with tidings \
             streams apply, which sets limits"
        ),
    ))
}

fn keeps_less(stream: &StreamFigures, figures: &PreflightFigures) -> Option<Concern> {
    let retention = figures.relay.as_ref()?.retention;
    let (name, age) = (&stream.name, stream.max_age);
    (stream.is_fed && !age.is_zero() && age < retention).then(|| {
        Concern::new(
            IssueKind::KeepsLess,
            Severity::Danger,
            about(stream),
            format!(
                "max_age of {name} is {age:?}, and the outbox keeps confirmed events for {retention:?}: tidings verify \
                 reports those between as missing, and --repair publishes them again"
            ),
            "raise max_age of the stream above relay.retention, or lower relay.retention",
        )
        .command(edit(stream, &format!("max-age={}s", retention.as_secs())))
    })
}

fn keeps_dead_letters(stream: &StreamFigures) -> Option<Concern> {
    let (name, age) = (&stream.name, stream.max_age);
    (!age.is_zero() && age < LEAST_AGE_OF_DEAD_LETTERS).then(|| {
        Concern::new(
            IssueKind::KeepsLess,
            Severity::Danger,
            about(stream),
            format!("max_age of {name} is {age:?}: a dead letter is deleted before an operator is back from a holiday"),
            "raise its max_age to 7 days or more, or remove it",
        )
        .command(edit(stream, "max-age=0"))
    })
}

fn drops(stream: &StreamFigures) -> Vec<Concern> {
    let told = stream.drops.iter().map(|drops| {
        let (cause, cure) = drops
            .split_once(". ")
            .unwrap_or((drops, "remove the limit"));
        Concern::new(
            IssueKind::RetriesLimited,
            Severity::Danger,
            about(stream),
            cause,
            cure,
        )
    });
    told.collect()
}

/// One concern for all streams: they share a disk.
fn no_limit(streams: &[StreamFigures], nats: &NatsFigures) -> Option<Concern> {
    let grows = |stream: &&StreamFigures| {
        matches!(stream.holds, Holds::Events | Holds::DeadLetters) && stream.max_bytes <= 0
    };
    let growing = names(streams.iter().filter(grows))?;
    // What is not known is not judged: the gatherer lists it as unseen.
    let limit = nats.storage?;
    let severity = match nats.is_local {
        true => Severity::Note,
        false => Severity::Danger,
    };
    (limit <= 0).then(|| {
        Concern::new(
            IssueKind::NoLimit,
            severity,
            About::Account,
            format!(
                "{growing} have no max_bytes, and the account has no limit of storage: the disk is the limit, and a full \
                 disk stops every stream of the server at once"
            ),
            "set max_bytes for each stream, and run tidings streams apply; or limit the storage of the account \
             (max_file)",
        )
    })
}

fn unsynced(streams: &[StreamFigures]) -> Option<Concern> {
    let single = streams.iter().filter(|stream| stream.replicas <= 1);
    let names = names(single)?;
    Some(Concern::new(
        IssueKind::Unsynced,
        Severity::Note,
        About::Account,
        format!(
            "one copy of {names}: when the host of the nats-server loses power, what was stored since its last sync may be \
             lost, 2 min by default"
        ),
        "set sync_interval to always in the jetstream block of the nats-server, or use three copies; then allow \
         unsynced",
    ))
}

/// The names of streams as a list; `None` without any.
fn names<'a>(streams: impl Iterator<Item = &'a StreamFigures>) -> Option<String> {
    let names: Vec<&str> = streams.map(|stream| &*stream.name).collect();
    (!names.is_empty()).then(|| names.join(", "))
}
