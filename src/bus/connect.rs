//! Making a connection: servers, credentials, TLS, and what is logged about it afterwards.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use async_nats::{ConnectOptions, Event};
use tokio::sync::watch;

use super::{
    denied::Denied,
    link::{Leaving, Link},
    noise::Noise,
};

/// How to reach NATS. Every field has a default but the servers.
#[derive(Clone, Debug)]
pub struct NatsOptions {
    /// The servers to try, such as `nats://127.0.0.1:4222`; give all seeds of a cluster.
    pub servers: Vec<String>,
    /// The credentials; default none.
    pub auth: Auth,
    /// TLS; default: as the URL says (`tls://`), with the system's roots.
    pub tls: Tls,
    /// The name that the server shows for the connection; default `tidings`.
    pub name: String,
    /// How long one attempt to connect may take; default 5 s.
    pub connect_timeout: Duration,
    /// How often an idle connection is probed; default 10 s. Two lost probes are a lost connection.
    pub ping_interval: Duration,
}

/// Credentials of one kind. They are never printed.
#[derive(Clone, Default)]
#[non_exhaustive]
pub enum Auth {
    /// None.
    #[default]
    Anonymous,
    /// User and password.
    User {
        /// The user.
        user: String,
        /// The password.
        password: String,
    },
    /// A token.
    Token(String),
    /// The seed of an nkey, which begins with `SU`.
    NkeySeed(String),
    /// A credentials file, as `nsc` writes it.
    CredentialsFile(PathBuf),
}

/// TLS material; files in PEM.
#[derive(Clone, Debug, Default)]
pub struct Tls {
    /// Whether a plain connection is refused; default false.
    pub required: bool,
    /// Certificates to trust besides the system's.
    pub roots: Option<PathBuf>,
    /// The client's certificate and its key.
    pub client: Option<(PathBuf, PathBuf)>,
}

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
    /// The credentials file cannot be used.
    #[error("the credentials file {path} cannot be used")]
    Credentials {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: std::io::Error,
    },
    /// The server lacks what Tidings stands on: atomic batches that know their events.
    #[error("the nats-server at {servers} is version {version}: use 2.12.1 or newer")]
    TooOld {
        /// The servers that were tried.
        servers: String,
        /// The version that was found.
        version: String,
    },
    /// No server of the list could be reached, or none let us in.
    #[error("cannot connect to NATS at {servers}")]
    Unreachable {
        /// The servers that were tried.
        servers: String,
        /// What happened last.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl NatsOptions {
    /// The defaults, for these servers.
    pub fn servers<T: Into<String>>(servers: impl IntoIterator<Item = T>) -> Self {
        Self {
            servers: servers.into_iter().map(Into::into).collect(),
            auth: Auth::default(),
            tls: Tls::default(),
            name: "tidings".into(),
            connect_timeout: Duration::from_secs(5),
            ping_interval: Duration::from_secs(10),
        }
    }

    /// Sets the credentials.
    #[must_use]
    pub fn auth(mut self, auth: Auth) -> Self {
        self.auth = auth;
        self
    }

    /// Sets TLS.
    #[must_use]
    pub fn tls(mut self, tls: Tls) -> Self {
        self.tls = tls;
        self
    }

    /// Sets the connection's name.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }
}

impl From<&str> for NatsOptions {
    fn from(server: &str) -> Self {
        Self::servers([server])
    }
}

impl From<String> for NatsOptions {
    fn from(server: String) -> Self {
        Self::servers([server])
    }
}

impl std::fmt::Debug for Auth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Anonymous => "Anonymous",
            Self::User { .. } => "User",
            Self::Token(_) => "Token",
            Self::NkeySeed(_) => "NkeySeed",
            Self::CredentialsFile(_) => "CredentialsFile",
        })
    }
}

/// A connection, and what is heard of it besides answers.
pub(super) struct Connected {
    pub(super) client: async_nats::Client,
    /// Rises each time the connection is lost: what was in flight then is in doubt.
    pub(super) lost: watch::Receiver<u64>,
    pub(super) denied: Denied,
    pub(super) link: Link,
}

/// Connects.
pub(super) async fn connect(options: &NatsOptions) -> Result<Connected, ConnectError> {
    let addresses = addresses(&options.servers)?;
    let servers = shown(&options.servers);
    let (losses, lost) = watch::channel(0);
    let denied = Denied::new();
    let hearing = denied.clone();
    let leaving = Leaving::default();
    let noise = Arc::new(Noise::default());
    let shown_servers: Arc<str> = servers.clone().into();
    let (to_leave, seeds) = (leaving.clone(), options.servers.len());
    let with = ConnectOptions::new()
        .name(&options.name)
        .connection_timeout(options.connect_timeout)
        .ping_interval(options.ping_interval)
        .request_timeout(Some(super::REQUEST_TIMEOUT))
        .reconnect_delay_callback(reconnect_delay)
        .event_callback(move |event| {
            match &event {
                Event::Disconnected => losses.send_modify(|losses| *losses += 1),
                Event::Connected => hearing.forget_all(),
                Event::ServerError(error) => hearing.note(&error.to_string()),
                _ => {}
            }
            if matches!(event, Event::Connected) {
                noise.forget();
            }
            let (to_leave, noise) = (to_leave.clone(), Arc::clone(&noise));
            let servers = Arc::clone(&shown_servers);
            async move {
                log(&event, &servers, &noise);
                if matches!(event, Event::LameDuckMode) {
                    to_leave.leave(seeds).await;
                }
            }
        });
    let auth = auth_of(options, &addresses);
    let with = secured(authenticated(with, auth)?, &options.tls);
    match with.connect(addresses).await {
        Ok(client) if client.is_server_compatible(2, 12, 1) => Ok(Connected {
            link: Link::new(&client, &lost, &leaving),
            client,
            lost,
            denied,
        }),
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

fn addresses(servers: &[String]) -> Result<Vec<async_nats::ServerAddr>, ConnectError> {
    if servers.is_empty() {
        return Err(ConnectError::NoServer);
    }
    let parse = |address: &String| {
        address.parse().map_err(|source| ConnectError::Address {
            address: without_secrets(address),
            source,
        })
    };
    servers.iter().map(parse).collect()
}

/// The credentials: as they were set, else those in a server's address, which the client itself ignores.
fn auth_of(options: &NatsOptions, addresses: &[async_nats::ServerAddr]) -> Auth {
    let in_address = addresses.iter().find_map(|address| {
        let user = address.username()?.to_owned();
        Some(match address.password() {
            Some(password) => Auth::User {
                user,
                password: password.to_owned(),
            },
            None => Auth::Token(user),
        })
    });
    match (&options.auth, in_address) {
        (Auth::Anonymous, Some(auth)) => auth,
        (auth, _) => auth.clone(),
    }
}

fn authenticated(with: ConnectOptions, auth: Auth) -> Result<ConnectOptions, ConnectError> {
    Ok(match auth {
        Auth::Anonymous => with,
        Auth::User { user, password } => with.user_and_password(user, password),
        Auth::Token(token) => with.token(token),
        Auth::NkeySeed(seed) => with.nkey(seed),
        Auth::CredentialsFile(path) => std::fs::read_to_string(&path)
            .and_then(|text| with.credentials(&text))
            .map_err(|source| ConnectError::Credentials { path, source })?,
    })
}

fn secured(mut with: ConnectOptions, tls: &Tls) -> ConnectOptions {
    if let Some(roots) = &tls.roots {
        with = with.add_root_certificates(roots.clone());
    }
    if let Some((certificate, key)) = &tls.client {
        with = with.add_client_certificate(certificate.clone(), key.clone());
    }
    with.require_tls(tls.required)
}

/// Doubles from 10 ms to 2 s. The client picks a random server each time, which spreads a herd.
fn reconnect_delay(attempts: usize) -> Duration {
    let doublings = u32::try_from(attempts.saturating_sub(1))
        .unwrap_or(8)
        .min(8);
    Duration::from_millis(10 << doublings).min(Duration::from_secs(2))
}

fn log(event: &Event, servers: &str, noise: &Noise) {
    let heard = |report: &str| noise.hear(report, Instant::now());
    match event {
        Event::Connected => tracing::info!(servers, "connected to NATS"),
        Event::Disconnected => tracing::warn!(servers, "connection to NATS lost: reconnecting"),
        Event::LameDuckMode => tracing::warn!(servers, "the NATS server is about to stop"),
        Event::SlowConsumer(subscription) => {
            tracing::error!(
                subscription,
                "messages were dropped: the subscription is too slow"
            );
        }
        Event::ServerError(error) => match heard(&error.to_string()) {
            Some(times) => tracing::error!(servers, %error, times, "NATS reports an error"),
            None => tracing::debug!(%error, "NATS reports an error"),
        },
        Event::ClientError(error) => match heard(&error.to_string()) {
            Some(times) => tracing::warn!(servers, %error, times, "NATS client error"),
            None => tracing::debug!(%error, "NATS client error"),
        },
        Event::Draining | Event::Closed => tracing::debug!(%event, "NATS connection"),
    }
}

pub(super) fn shown(servers: &[String]) -> String {
    let shown: Vec<String> = servers.iter().map(|s| without_secrets(s)).collect();
    shown.join(", ")
}

/// An address without user and password.
pub(crate) fn without_secrets(address: &str) -> String {
    let (scheme, rest) = address.split_once("://").unwrap_or(("nats", address));
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
        assert_eq!(format!("{:?}", Auth::Token("s3cret".into())), "Token");
    }

    #[test]
    fn reconnecting_slows_down_to_two_seconds() {
        assert_eq!(reconnect_delay(1), Duration::from_millis(10));
        assert_eq!(reconnect_delay(3), Duration::from_millis(40));
        assert_eq!(reconnect_delay(1000), Duration::from_secs(2));
    }
}
