//! The findings of the preflight. Never decides what is a concern.

use super::{
    Health,
    finding::{Component, Finding},
};
use crate::{
    operations::doctor::Figures,
    policy::{
        issue_kind::IssueKind,
        preflight::{About, Concern, Severity, concerns},
    },
};

/// What the preflight finds, without what is found already.
pub(super) fn findings(figures: &Figures, found: &[Finding]) -> Vec<Finding> {
    let Some(preflight) = &figures.preflight else {
        return Vec::new();
    };
    // A role that may not claim the lease only reads: its rights are not those of a relay.
    let reads = preflight
        .database
        .as_ref()
        .is_some_and(|database| !database.may_claim);
    let concerns = concerns(preflight, &figures.allowed).into_iter();
    let concerns = concerns.filter(|concern| {
        let is_known = found.iter().any(|finding| is_same(finding, concern));
        let is_no_matter = reads && concern.kind == IssueKind::DeniedDatabase;
        !is_known && !is_no_matter
    });
    concerns.map(finding).collect()
}

/// The relay has reported it already.
fn is_same(finding: &Finding, concern: &Concern) -> bool {
    let kinds = [IssueKind::DatabaseReadOnly, IssueKind::DeniedDatabase];
    kinds.contains(&concern.kind) && finding.kind == concern.kind
}

fn finding(concern: Concern) -> Finding {
    let health = match concern.severity {
        Severity::Note => Health::Notice,
        Severity::Danger => Health::Danger,
        Severity::Refuse => Health::Refused,
    };
    let (component, of) = match &concern.about {
        About::Account | About::Stream(_) => (Component::Nats, "account"),
        About::Outbox(schema) => (Component::Outbox, &**schema),
        About::Relay(schema) => (Component::Relay, &**schema),
        About::Subscriber(name) => (Component::Subscriber, &**name),
    };
    let mut finding =
        Finding::new((component, of), concern.kind, health, concern.cause).cure(concern.cure);
    if let About::Stream(stream) = &concern.about {
        finding = finding.at(stream);
    }
    // What `Finding::new` proposes for a subscriber shows its state, and not its settings.
    finding.command = concern.command;
    finding
}
