//! Gathers what the checks of the preflight look at in NATS, and says at a start what they have found. Never delays a
//! start.

use std::{collections::BTreeSet, time::Duration};

use futures::future;

use crate::{
    nats::{Bus, BusError, Need, Role, api},
    policy::{
        issue_kind::IssueKind,
        preflight::{Allowance, Concern, NatsFigures, PreflightFigures, Severity, concerns},
    },
};

/// How long the checks of a start may take; what has not answered until then is not checked.
pub(crate) const WITHIN: Duration = Duration::from_secs(3);

/// A finding of the preflight that ends a relay or a worker at its start.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{cause}; try: {cure}")]
#[non_exhaustive]
pub struct PreflightRefusal {
    /// The kind of the finding.
    pub kind: IssueKind,
    /// What is wrong.
    pub cause: String,
    /// What to do about it.
    pub cure: String,
}

/// A stream that is looked at.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct LookedStream {
    pub(crate) name: String,
    pub(crate) role: Role,
    /// The relay of an outbox writes into it.
    pub(crate) is_fed: bool,
}

/// What could not be looked at, and why.
pub(crate) type Unchecked = (String, BusError);

/// Looks at a connection and at streams, all side by side. A stream that does not exist is left out.
pub(crate) async fn look_at_nats(
    bus: &Bus,
    streams: BTreeSet<LookedStream>,
    asks_account: bool,
) -> (PreflightFigures, Vec<Unchecked>) {
    let mut figures = PreflightFigures::default();
    let mut unchecked = Vec::new();
    let mut nats = NatsFigures {
        is_local: bus.is_local(),
        ping_interval: bus.ping_interval(),
        max_payload: bus.max_payload(),
        ..NatsFigures::default()
    };
    let looking = future::join_all(streams.into_iter().map(async |stream| {
        let facts = bus.stream_facts(&stream.name, stream.role).await;
        (stream, facts)
    }));
    let account = async {
        match asks_account || may_ask_account(bus).await {
            true => Some(bus.account_storage().await),
            false => None,
        }
    };
    let (looked, account) = future::join(looking, account).await;
    match account {
        Some(Ok(storage)) => nats.storage = Some(storage.limit),
        Some(Err(error)) => unchecked.push(("the limits of the account".to_owned(), error)),
        None => {
            tracing::debug!("preflight: the limits of the account are not checked: no permission")
        }
    }
    for (stream, facts) in looked {
        match facts {
            Ok(Some(mut facts)) => {
                facts.figures.is_fed = stream.is_fed;
                figures.streams.push(facts.figures);
                nats.ahead_s = nearer(nats.ahead_s, facts.ahead_s);
            }
            Ok(None) => {}
            Err(error) => unchecked.push((format!("the settings of {}", stream.name), error)),
        }
    }
    figures.nats = Some(nats);
    (figures, unchecked)
}

/// The smaller of two differences: an answer that took longer tells less.
pub(crate) fn nearer(one: Option<f64>, other: Option<f64>) -> Option<f64> {
    match (one, other) {
        (Some(one), Some(other)) if other.abs() < one.abs() => Some(other),
        (one, other) => one.or(other),
    }
}

/// Whether the user may ask for the limits of the account; a request that is denied would be logged as an issue.
async fn may_ask_account(bus: &Bus) -> bool {
    let need = Need::publish(api::ACCOUNT_INFO, "checking the limits of the account");
    let rights = bus.rights().await;
    rights.is_some_and(|rights| rights.missing(&[need]).is_empty())
}

/// Logs what is wrong, a line for each danger, and has it noted; returns the first finding that ends the start.
pub(crate) fn tell(
    figures: &PreflightFigures,
    allowance: &Allowance,
    note: impl FnOnce(&[Concern]),
) -> Option<PreflightRefusal> {
    let concerns = concerns(figures, &allowance.kinds);
    note(&concerns);
    let mut refusal = None;
    for concern in concerns {
        let Concern {
            kind,
            severity,
            about,
            cause,
            cure,
            ..
        } = concern;
        let check = kind.as_str();
        match severity {
            Severity::Note => tracing::debug!(check, %about, cause, cure, "preflight note"),
            Severity::Refuse if refusal.is_none() && ends(kind, allowance) => {
                refusal = Some(PreflightRefusal { kind, cause, cure });
            }
            // A second refusal too.
            _ => tracing::warn!(check, %about, cause, cure, "preflight danger"),
        }
    }
    refusal
}

/// A relay waits until a database takes writes again, and a short window does harm only after it was frozen.
fn ends(kind: IssueKind, allowance: &Allowance) -> bool {
    let waits = [IssueKind::DatabaseReadOnly, IssueKind::Window];
    !waits.contains(&kind) && !allowance.is_forced
}

/// Logs what could not be looked at.
pub(crate) fn tell_unchecked(unchecked: &[Unchecked]) {
    for (what, error) in unchecked {
        tracing::debug!(what, %error, "preflight: not checked");
    }
}
