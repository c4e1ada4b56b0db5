//! Connects to NATS: servers, credentials, TLS, and what is logged about it afterwards.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use async_nats::{ConnectOptions, Event};
use tokio::sync::watch;

use super::{
    client::{Live, Task},
    denied::{self, Denied},
    link::ServerSwitch,
    options::{Auth, NatsOptions, Tls},
    rights,
    version::is_at_least,
};
use crate::log::{Lasting, short};

/// Why no connection was made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The list of servers is empty.
    #[error("no NATS server is named: give one such as nats://127.0.0.1:4222")]
    NoServer,
    /// A server's address cannot be read.
    #[error("{address:?} is not a NATS address: write it as nats://host:4222")]
    Address {
        /// The address as it was given.
        address: String,
        /// What is wrong with it.
        #[source]
        source: std::io::Error,
    },
    /// The scheme of a server is not supported.
    #[error(
        "{address:?} cannot be used: write nats://host:4222, or tls://host:4222; WebSocket is not supported"
    )]
    Scheme {
        /// The address, without credentials.
        address: String,
    },
    /// One server is to be reached with TLS and another one without.
    #[error(
        "{servers}: tls:// and nats:// in one list would send credentials in the clear to some servers: write tls:// \
         for all servers"
    )]
    MixedTls {
        /// The servers.
        servers: String,
    },
    /// The credentials in a server's address cannot be read.
    #[error("the credentials in the address of {address} cannot be used: {reason}")]
    AddressCredentials {
        /// The address, without credentials.
        address: String,
        /// What is wrong with them.
        reason: &'static str,
    },
    /// The nkey seed is not valid.
    #[error("the nkey seed cannot be used: it begins with SU and has 58 characters")]
    NkeySeed {
        /// What is wrong with it.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The inbox prefix is not a valid subject.
    #[error(
        "{0:?} is not an inbox prefix: use words joined by dots, without wildcards, such as _INBOX_worker"
    )]
    InboxPrefix(String),
    /// A file with TLS material cannot be used.
    #[error("the file {path} cannot be used as {what}")]
    TlsFile {
        /// `tls_roots`, `tls_certificate` or `tls_key`.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: std::io::Error,
    },
    /// The credentials file cannot be used.
    #[error("the credentials file {path} cannot be used")]
    Credentials {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: std::io::Error,
    },
    /// The server lacks what Tidings depends on: atomic batches that recognise duplicate event ids.
    #[error("the nats-server at {servers} is version {version}: use 2.12.1 or newer")]
    TooOld {
        /// The servers that were tried.
        servers: String,
        /// The version that was found.
        version: String,
    },
    /// No server of the list could be reached, or none accepted the connection.
    #[error("cannot connect to NATS at {servers}")]
    Unreachable {
        /// The servers that were tried.
        servers: String,
        /// The last failure.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// What is observed of a connection, apart from answers, across all its clients. Clones share it.
#[derive(Clone)]
pub(in crate::nats) struct Hearing {
    /// Rises each time the connection is lost: the outcome of what was in flight is then unknown.
    pub(in crate::nats) losses: Arc<watch::Sender<u64>>,
    pub(in crate::nats) denied: Denied,
    said: Arc<Said>,
}

impl Hearing {
    pub(in crate::nats) fn new() -> Self {
        Self {
            losses: Arc::new(watch::Sender::new(0)),
            denied: Denied::new(),
            said: Arc::default(),
        }
    }
}

/// Connects a client.
pub(in crate::nats) async fn dial(
    options: &NatsOptions,
    hearing: &Hearing,
) -> Result<Live, ConnectError> {
    let Addresses {
        addresses,
        auth,
        is_tls,
    } = Addresses::of(&options.servers)?;
    let servers = shown(&options.servers);
    let (heard, leaving, told) = (hearing.clone(), ServerSwitch::default(), servers.clone());
    let (to_leave, seeds) = (leaving.clone(), options.servers.len());
    // The client drops its event callback when its task ends, for whatever reason.
    let (task, end) = Task::new(&hearing.losses);
    let with = ConnectOptions::new()
        .name(&options.name)
        .connection_timeout(options.connect_timeout)
        .ping_interval(options.ping_interval)
        .request_timeout(Some(crate::nats::REQUEST_TIMEOUT))
        .reconnect_delay_callback(reconnect_delay)
        .event_callback(move |event| {
            match &event {
                Event::Disconnected => task.count_loss(),
                Event::Connected => heard.denied.forget_all(),
                Event::ServerError(error) => heard.denied.note(&error.to_string()),
                _ => {}
            }
            let to_leave = to_leave.clone();
            heard.said.log(&event, &told);
            async move {
                if matches!(event, Event::LameDuckMode) {
                    to_leave.leave(seeds).await;
                }
            }
        });
    let auth = match (&options.auth, auth) {
        (Auth::Anonymous, Some(auth)) => auth,
        (auth, _) => auth.clone(),
    };
    let with = secured(authenticated(with, auth)?, &options.tls, is_tls)?;
    let with = reachable(with, options)?;
    match with.connect(addresses).await {
        Ok(client) if is_at_least(&client.server_info().version, [2, 12, 1]) => {
            let client = Arc::new(client);
            leaving.of(&client);
            Ok(Live::new(client, end))
        }
        Ok(client) => Err(ConnectError::TooOld {
            servers,
            version: client.server_info().version,
        }),
        Err(error) => Err(ConnectError::Unreachable {
            servers,
            source: error.into(),
        }),
    }
}

/// The servers of a list, as the client takes them.
struct Addresses {
    /// Without credentials, which the client would log.
    addresses: Vec<async_nats::ServerAddr>,
    /// The first credentials among them.
    auth: Option<Auth>,
    /// One of them is to be reached with TLS, and therefore all.
    is_tls: bool,
}

impl Addresses {
    fn of(servers: &[String]) -> Result<Self, ConnectError> {
        if servers.is_empty() {
            return Err(ConnectError::NoServer);
        }
        let scheme = |server: &String| Some(server.split_once("://")?.0.to_ascii_lowercase());
        let schemes: Vec<_> = servers.iter().map(scheme).collect();
        let is_tls = schemes.iter().flatten().any(|scheme| scheme == "tls");
        if is_tls && schemes.iter().flatten().any(|scheme| scheme != "tls") {
            return Err(ConnectError::MixedTls {
                servers: shown(servers),
            });
        }
        let mut found = Self {
            addresses: Vec::new(),
            auth: None,
            is_tls,
        };
        for (server, scheme) in servers.iter().zip(schemes) {
            if scheme.is_some_and(|scheme| scheme != "nats" && scheme != "tls") {
                let address = without_secrets(server);
                return Err(ConnectError::Scheme { address });
            }
            let (address, auth) = Auth::in_url(server).map_err(|reason| {
                let address = without_secrets(server);
                ConnectError::AddressCredentials { address, reason }
            })?;
            let address = address.parse().map_err(|source| {
                let address = without_secrets(server);
                ConnectError::Address { address, source }
            });
            found.addresses.push(address?);
            found.auth = found.auth.or(auth);
        }
        Ok(found)
    }
}

fn authenticated(with: ConnectOptions, auth: Auth) -> Result<ConnectOptions, ConnectError> {
    Ok(match auth {
        Auth::Anonymous => with,
        Auth::User { user, password } => with.user_and_password(user, password),
        Auth::Token(token) => with.token(token),
        Auth::NkeySeed(seed) => match nkeys::KeyPair::from_seed(&seed) {
            Ok(_) => with.nkey(seed),
            Err(error) => {
                return Err(ConnectError::NkeySeed {
                    source: error.into(),
                });
            }
        },
        Auth::CredentialsFile(path) => std::fs::read_to_string(&path)
            .and_then(|text| with.credentials(&text))
            .map_err(|source| ConnectError::Credentials { path, source })?,
    })
}

fn secured(
    mut with: ConnectOptions,
    tls: &Tls,
    is_tls: bool,
) -> Result<ConnectOptions, ConnectError> {
    if let Some(roots) = &tls.roots {
        check_pem("tls_roots", roots, "CERTIFICATE-----")?;
        with = with.add_root_certificates(roots.clone());
    }
    if let Some((certificate, key)) = &tls.client {
        check_pem("tls_certificate", certificate, "CERTIFICATE-----")?;
        check_pem("tls_key", key, "PRIVATE KEY-----")?;
        with = with.add_client_certificate(certificate.clone(), key.clone());
    }
    if tls.first {
        with = with.tls_first();
    }
    Ok(with.require_tls(tls.required || tls.first || is_tls))
}

/// Checks that a file exists and contains a block of the given kind. The client would only report that it cannot
/// connect.
fn check_pem(what: &'static str, path: &Path, kind: &str) -> Result<(), ConnectError> {
    let unusable = |source| {
        let path = path.to_owned();
        ConnectError::TlsFile { what, path, source }
    };
    let text = std::fs::read(path).map_err(unusable)?;
    if String::from_utf8_lossy(&text).contains(kind) {
        return Ok(());
    }
    let reason = format!("it has no part that begins with a line \"-----BEGIN ... {kind}\"");
    Err(unusable(std::io::Error::other(reason)))
}

fn reachable(
    mut with: ConnectOptions,
    options: &NatsOptions,
) -> Result<ConnectOptions, ConnectError> {
    if !options.discover_servers {
        with = with.ignore_discovered_servers();
    }
    let Some(prefix) = &options.inbox_prefix else {
        return Ok(with);
    };
    let is_word = |word: &str| {
        let plain = |byte: u8| byte.is_ascii_graphic() && byte != b'*' && byte != b'>';
        !word.is_empty() && word.bytes().all(plain)
    };
    match prefix.split('.').all(is_word) {
        true => Ok(with.custom_inbox_prefix(prefix)),
        false => Err(ConnectError::InboxPrefix(prefix.clone())),
    }
}

/// Doubles from 10 ms to 2 s. The client picks a random server each time, which avoids a thundering herd.
pub(in crate::nats) fn reconnect_delay(attempts: usize) -> Duration {
    let doublings = u32::try_from(attempts.saturating_sub(1))
        .unwrap_or(8)
        .min(8);
    Duration::from_millis(10 << doublings).min(Duration::from_secs(2))
}

/// What was logged of a connection. Each message that is dropped or denied is an event of its own.
#[derive(Default)]
struct Said {
    slow: Lasting,
    server: ByCause,
    client: Lasting,
}

/// Throttles each cause by itself: a permission that is missing all the time must not hide one that is missing once.
#[derive(Default)]
struct ByCause {
    known: Mutex<BTreeMap<String, Lasting>>,
    others: Lasting,
}

impl ByCause {
    fn again(&self, cause: &str, now: Instant) -> Option<u64> {
        /// How many causes are distinguished.
        const MOST: usize = 64;
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MOST && !known.contains_key(cause) {
            return self.others.again_as(cause, now);
        }
        known.entry(cause.to_owned()).or_default().again(now)
    }
}

impl Said {
    fn log(&self, event: &Event, servers: &str) {
        let now = Instant::now();
        match event {
            Event::Connected => tracing::info!(servers, "NATS connection established"),
            Event::Disconnected => tracing::warn!(servers, "NATS connection lost: reconnecting"),
            Event::LameDuckMode => tracing::warn!(servers, "NATS server stopping"),
            Event::SlowConsumer(subscription) => {
                if let Some(unsaid) = self.slow.again(now) {
                    tracing::error!(
                        subscription,
                        unsaid,
                        "messages dropped: the subscription is too slow"
                    );
                }
            }
            // A user that may not request its permissions does not learn them.
            Event::ServerError(error) if error.to_string().contains(rights::USER_INFO) => {
                tracing::debug!(%error, "NATS permissions hidden: the user may not request them");
            }
            // The server deletes the consumer by itself, only later.
            Event::ServerError(error) if denied::is_end_of_reader(&error.to_string()) => {
                tracing::debug!(%error, "reader consumer not deleted: it expires by itself");
            }
            Event::ServerError(error) => {
                let error = error.to_string();
                let cause = denied::permission_of(&error).unwrap_or_else(|| error.clone());
                if let Some(unsaid) = self.server.again(&cause, now) {
                    tracing::error!(
                        servers,
                        error = &*short(&error),
                        unsaid,
                        "NATS server error"
                    );
                }
            }
            Event::ClientError(error) => {
                let error = error.to_string();
                if let Some(unsaid) = self.client.again_as(&error, now) {
                    tracing::warn!(
                        servers,
                        error = &*short(&error),
                        unsaid,
                        "NATS client error"
                    );
                }
            }
            Event::Draining | Event::Closed => tracing::debug!(%event, "NATS connection closing"),
        }
    }
}

pub(in crate::nats) fn shown(servers: &[String]) -> String {
    let shown: Vec<String> = servers.iter().map(|s| without_secrets(s)).collect();
    shown.join(", ")
}

/// An address without user and password. A scheme is a word: what stands before `://` may be a part of a password.
pub(crate) fn without_secrets(address: &str) -> String {
    let is_scheme =
        |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric());
    let (scheme, rest) = match address.split_once("://") {
        Some((scheme, rest)) if is_scheme(scheme) => (scheme, rest),
        _ => ("nats", address),
    };
    let host = rest.rsplit_once('@').map_or(rest, |(_, host)| host);
    format!("{scheme}://{host}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_of_an_address_are_not_shown() {
        assert_eq!(without_secrets("nats://u:p@host:4222"), "nats://host:4222");
        assert_eq!(without_secrets("host:4222"), "nats://host:4222");
        assert_eq!(without_secrets("nats://u:p://q@h"), "nats://h");
        assert_eq!(without_secrets("u:p://q@h"), "nats://h");
        let options = NatsOptions::servers(["nats://u:s3cret@h", "u:s3://cret@h"])
            .auth(Auth::Token("s3cret".into()));
        assert!(!format!("{options:?}").contains("cret"), "{options:?}");
        assert_eq!(format!("{:?}", Auth::Token("s3cret".into())), "Token");
    }

    fn refused(servers: &[&str]) -> String {
        let servers: Vec<String> = servers.iter().map(|server| (*server).to_owned()).collect();
        match Addresses::of(&servers) {
            Ok(_) => panic!("{servers:?} are taken"),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn a_cause_that_lasts_hides_no_other() {
        let (said, now) = (ByCause::default(), Instant::now());
        assert_eq!(said.again("a", now), Some(0));
        assert_eq!(said.again("a", now), None);
        assert_eq!(said.again("b", now), Some(0));
        let said_of_many = (0..1_000).filter(|n| said.again(&n.to_string(), now).is_some());
        assert!(said_of_many.count() < 100, "no more than are told apart");
    }

    #[test]
    fn one_server_with_tls_requires_it_of_all() {
        let of = |servers: &[&str]| {
            let servers: Vec<String> = servers.iter().map(|server| (*server).to_owned()).collect();
            Addresses::of(&servers).unwrap().is_tls
        };
        assert!(of(&["tls://a", "TLS://b"]) && of(&["tls://a", "b:4222"]));
        assert!(!of(&["nats://a", "b"]));
        for list in [["tls://a", "nats://b"], ["nats://u:p@b", "tls://a"]] {
            let said = refused(&list);
            assert!(
                said.contains("write tls:// for all") && !said.contains("u:p"),
                "{said}"
            );
        }
    }

    #[test]
    fn an_unsupported_scheme_is_refused() {
        for server in ["ws://u:s3cret@h", "wss://h", "http://h"] {
            let said = refused(&[server]);
            assert!(
                said.contains("write nats://host:4222") && !said.contains("s3cret"),
                "{said}"
            );
        }
        assert!(refused(&["nats://u:%zz@h"]).contains("two hex digits"));
    }

    #[test]
    fn credentials_are_extracted_from_an_address_and_decoded() {
        let servers = ["nats://ada:p%40s@h:4222".to_owned()];
        let found = Addresses::of(&servers).unwrap();
        assert_eq!(
            (found.addresses[0].username(), found.addresses[0].password()),
            (None, None)
        );
        let (user, password) = ("ada".to_owned(), "p@s".to_owned());
        assert_eq!(found.auth, Some(Auth::User { user, password }));
    }

    #[test]
    fn reconnecting_slows_down_to_two_seconds() {
        assert_eq!(reconnect_delay(1), Duration::from_millis(10));
        assert_eq!(reconnect_delay(3), Duration::from_millis(40));
        assert_eq!(reconnect_delay(1000), Duration::from_secs(2));
    }
}
