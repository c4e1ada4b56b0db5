//! The cure when NATS refuses or does not answer, by its error. Never decides whether the request is retried.

#[cfg(feature = "outbox")]
impl crate::nats::BusError {
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
            Self::Api { code, .. } => cure_of_code(*code).to_owned(),
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

/// The cure when JetStream refuses. From nats-server `server/errors.json`.
pub(crate) fn cure_of_code(code: u64) -> &'static str {
    match code {
        // temporarily unavailable, no suitable peers, no leader
        10004 | 10005 | 10008 | 10009 => {
            "bring up the nats-servers that the cluster needs for a leader: nats server report jetstream"
        }
        // not enabled, for the account or at all
        10035 | 10039 | 10076 => NO_JETSTREAM,
        // resource limits; insufficient resources, storage, memory
        10002 | 10023 | 10028 | 10047 => {
            "give JetStream more room (max_file, the account's limits), or free some"
        }
        // maximum consumers, maximum streams
        10026 => {
            "let the account or the stream have more consumers (max_consumers), or delete consumers that are not \
             needed"
        }
        10027 => {
            "let the account have more streams (max_streams), or delete streams that are not needed: `nats stream \
             ls` shows them"
        }
        _ => "look for the reason in the log of the nats-server",
    }
}
