//! Kind and cure when NATS refuses or does not answer, by its error. Never decides whether the request is retried.

use super::codes;
use crate::policy::issue_kind::IssueKind;

impl crate::nats::BusError {
    /// The kind of the issue that this error is.
    pub(crate) fn issue_kind(&self) -> IssueKind {
        match self {
            Self::NoResponders { .. } => IssueKind::NoJetstream,
            Self::Denied { .. } => IssueKind::DeniedNats,
            Self::Timeout { .. } => IssueKind::NatsSilent,
            Self::NoStream { .. } => IssueKind::NoStream,
            Self::Settings { .. } | Self::Declaration { .. } => IssueKind::StreamSettings,
            Self::Refused { code, .. } => issue_kind_of_code(*code),
            Self::TooOld { .. } => IssueKind::NatsTooOld,
            Self::Broken { .. } => IssueKind::NatsUnreachable,
        }
    }

    /// The cure for this error.
    pub(crate) fn cure(&self) -> String {
        match self {
            Self::NoResponders { .. } => NO_JETSTREAM.to_owned(),
            Self::Denied {
                action, permission, ..
            } => format!(
                "allow the user to {action} {permission}: deploy/nats/permissions.conf has all permissions that \
                 Tidings needs"
            ),
            Self::Timeout { .. } => "see whether that nats-server is frozen or overloaded, and whether the stream has a \
                 leader: nats server report jetstream"
                .to_owned(),
            Self::NoStream { cure, .. } => cure.clone(),
            Self::Settings { issue } => issue.clone(),
            Self::Declaration { .. } => {
                "change the declaration of the stream: tidings streams list shows the existing streams".to_owned()
            }
            Self::Refused { code, .. } => cure_of_code(*code).to_owned(),
            Self::TooOld { needs, .. } => format!("use nats-server {needs} or newer"),
            Self::Broken { .. } => {
                "check the network between this process and the nats-server; the client reconnects by itself"
                    .to_owned()
            }
        }
    }
}

const NO_JETSTREAM: &str = "switch JetStream on in the nats-server and for this account, or bring up the servers that the \
     cluster needs for a leader";

/// The kind of the issue when JetStream refuses.
pub(in crate::nats) fn issue_kind_of_code(code: u64) -> IssueKind {
    match code {
        codes::CLUSTER_INCOMPLETE
        | codes::CLUSTER_NO_PEERS
        | codes::CLUSTER_NOT_AVAILABLE
        | codes::CLUSTER_NOT_LEADER => IssueKind::NoLeader,
        codes::NO_ACCOUNT | codes::NOT_ENABLED_FOR_ACCOUNT | codes::NOT_ENABLED => {
            IssueKind::NoJetstream
        }
        codes::ACCOUNT_RESOURCES_EXCEEDED
        | codes::INSUFFICIENT_RESOURCES
        | codes::MEMORY_EXCEEDED
        | codes::STORAGE_EXCEEDED => IssueKind::StorageFull,
        codes::STREAM_NOT_FOUND => IssueKind::NoStream,
        codes::STREAM_SEALED => IssueKind::StreamSealed,
        _ => IssueKind::NatsRefused,
    }
}

/// The cure when JetStream refuses.
pub(in crate::nats) fn cure_of_code(code: u64) -> &'static str {
    match code {
        codes::CLUSTER_INCOMPLETE
        | codes::CLUSTER_NO_PEERS
        | codes::CLUSTER_NOT_AVAILABLE
        | codes::CLUSTER_NOT_LEADER => {
            "bring up the nats-servers that the cluster needs for a leader: nats server report jetstream"
        }
        codes::NO_ACCOUNT | codes::NOT_ENABLED_FOR_ACCOUNT | codes::NOT_ENABLED => NO_JETSTREAM,
        codes::ACCOUNT_RESOURCES_EXCEEDED
        | codes::INSUFFICIENT_RESOURCES
        | codes::MEMORY_EXCEEDED
        | codes::STORAGE_EXCEEDED => {
            "give JetStream more room (max_file, the account's limits), or free some"
        }
        codes::CONSUMERS_LIMIT => {
            "let the account or the stream have more consumers (max_consumers), or delete consumers that are not \
             needed"
        }
        codes::STREAMS_LIMIT => {
            "let the account have more streams (max_streams), or delete streams that are not needed: `nats stream \
             ls` shows them"
        }
        _ => "look for the reason in the log of the nats-server",
    }
}
