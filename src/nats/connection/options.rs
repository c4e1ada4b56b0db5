//! How to reach NATS: servers, credentials, TLS. Never connects, never shows a secret.

use std::{path::PathBuf, time::Duration};

use super::connect::shown;

/// How to reach NATS. Every field except `servers` has a default.
///
/// ```
/// use tidings::{NatsOptions, nats::{Auth, Tls}};
///
/// let options = NatsOptions::servers(["tls://a.example.org", "tls://b.example.org"])
///     .auth(Auth::user("accounts", "secret"))
///     .tls(Tls::default().roots("ca.pem"))
///     .name("accounts");
/// ```
#[derive(Clone)]
#[non_exhaustive]
pub struct NatsOptions {
    /// The servers to try, such as `nats://127.0.0.1:4222`; give all seeds of a cluster.
    pub servers: Vec<String>,
    /// The credentials; default none.
    pub auth: Auth,
    /// TLS; default: as the URLs state (`tls://`), with the system's roots. One `tls://` requires TLS of all servers,
    /// also of those that a server announces.
    pub tls: Tls,
    /// Whether the client also tries servers that the connected server announces; default true. What a server sends
    /// before TLS begins can be altered in transit. Where the network is not trusted, list all seeds and set this to
    /// false.
    pub discover_servers: bool,
    /// The prefix of the subjects of answers; default `_INBOX`. With a prefix for each user, and permissions to match,
    /// no user can read the answers to another user.
    pub inbox_prefix: Option<String>,
    /// The name of the connection as the server shows it; default `tidings`.
    pub name: String,
    /// How long one attempt to connect may take; default 5 s.
    pub connect_timeout: Duration,
    /// How often an idle connection is probed; default 10 s. After two lost probes the connection counts as lost.
    pub ping_interval: Duration,
    /// The limit in bytes of the bucket `TIDINGS`, in which workers keep leases, parked keys and replays; default no
    /// limit. An account that requires `max_bytes` of every stream, as hosted NATS does, needs it: 64 MiB are plenty.
    pub bucket_max_bytes: Option<u64>,
    /// The number of replicas of the bucket `TIDINGS` in a cluster; default as many as the stream of retries has.
    pub bucket_replicas: Option<u8>,
}

/// Credentials of one kind. They are never printed.
#[derive(Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Auth {
    /// No credentials.
    #[default]
    Anonymous,
    /// User and password; [`Auth::user`] makes it.
    #[non_exhaustive]
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
#[non_exhaustive]
pub struct Tls {
    /// Whether the client refuses a plain connection; default false. A `tls://` among the servers has the same effect.
    pub required: bool,
    /// Whether TLS begins before the server sends anything (`handshake_first` of the server); default false. With it
    /// nothing that is sent before TLS can be altered in transit.
    pub first: bool,
    /// Certificates to trust in addition to the system's.
    pub roots: Option<PathBuf>,
    /// The client's certificate and its key.
    pub client: Option<(PathBuf, PathBuf)>,
}

impl NatsOptions {
    /// The defaults, for these servers.
    pub fn servers<T: Into<String>>(servers: impl IntoIterator<Item = T>) -> Self {
        Self {
            servers: servers.into_iter().map(Into::into).collect(),
            auth: Auth::default(),
            tls: Tls::default(),
            discover_servers: true,
            inbox_prefix: None,
            name: "tidings".into(),
            connect_timeout: Duration::from_secs(5),
            ping_interval: Duration::from_secs(10),
            bucket_max_bytes: None,
            bucket_replicas: None,
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

    /// Sets whether the client also tries servers that the connected server announces.
    #[must_use]
    pub fn discover_servers(mut self, discover: bool) -> Self {
        self.discover_servers = discover;
        self
    }

    /// Sets the prefix of the subjects of answers.
    #[must_use]
    pub fn inbox_prefix(mut self, prefix: impl Into<String>) -> Self {
        self.inbox_prefix = Some(prefix.into());
        self
    }

    /// Sets the limit in bytes of the bucket `TIDINGS`.
    #[must_use]
    pub fn bucket_max_bytes(mut self, bytes: u64) -> Self {
        self.bucket_max_bytes = Some(bytes);
        self
    }

    /// Sets the number of replicas of the bucket `TIDINGS`: 1, 3 or 5.
    #[must_use]
    pub fn bucket_replicas(mut self, replicas: u8) -> Self {
        self.bucket_replicas = Some(replicas);
        self
    }

    /// Sets the connection's name.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Sets how long one attempt to connect may take.
    #[must_use]
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// Sets how often an idle connection is probed.
    #[must_use]
    pub fn ping_interval(mut self, interval: Duration) -> Self {
        self.ping_interval = interval;
        self
    }
}

impl Auth {
    /// User and password.
    pub fn user(user: impl Into<String>, password: impl Into<String>) -> Self {
        Self::User {
            user: user.into(),
            password: password.into(),
        }
    }
}

impl Tls {
    /// Refuses a plain connection.
    #[must_use]
    pub fn required(mut self) -> Self {
        self.required = true;
        self
    }

    /// Begins TLS before the server sends anything.
    #[must_use]
    pub fn first(mut self) -> Self {
        self.first = true;
        self
    }

    /// Trusts the certificates of this file, in addition to the system's.
    #[must_use]
    pub fn roots(mut self, file: impl Into<PathBuf>) -> Self {
        self.roots = Some(file.into());
        self
    }

    /// Sets the client's certificate and its key.
    #[must_use]
    pub fn client(mut self, certificate: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        self.client = Some((certificate.into(), key.into()));
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

/// Leaves out credentials, also those in addresses.
impl std::fmt::Debug for NatsOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NatsOptions")
            .field("servers", &shown(&self.servers))
            .field("auth", &self.auth)
            .field("tls", &self.tls)
            .field("discover_servers", &self.discover_servers)
            .field("inbox_prefix", &self.inbox_prefix)
            .field("name", &self.name)
            .field("connect_timeout", &self.connect_timeout)
            .field("ping_interval", &self.ping_interval)
            .finish()
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
