//! How to reach NATS: servers, credentials, TLS. Never connects, never shows a secret.

use std::{path::PathBuf, time::Duration};

use super::connect::shown;

/// How to reach NATS. Every field has a default but the servers.
#[derive(Clone)]
pub struct NatsOptions {
    /// The servers to try, such as `nats://127.0.0.1:4222`; give all seeds of a cluster.
    pub servers: Vec<String>,
    /// The credentials; default none.
    pub auth: Auth,
    /// TLS; default: as the URLs say (`tls://`), with the system's roots. One `tls://` requires it of all servers, those
    /// that a server tells of included.
    pub tls: Tls,
    /// Whether servers that the connected one tells of are tried too; default true. What a server says before TLS
    /// begins can be changed on its way, so give all seeds and set this to false where the network is not trusted.
    pub discover_servers: bool,
    /// What the subjects of answers begin with; default `_INBOX`. With a prefix for each user, and permissions to match,
    /// no user can read the answers of another one.
    pub inbox_prefix: Option<String>,
    /// The name that the server shows for the connection; default `tidings`.
    pub name: String,
    /// How long one attempt to connect may take; default 5 s.
    pub connect_timeout: Duration,
    /// How often an idle connection is probed; default 10 s. Two lost probes are a lost connection.
    pub ping_interval: Duration,
    /// How many bytes the bucket `TIDINGS` may hold, in which workers keep leases, parked keys and replays; default no
    /// limit. An account that wants `max_bytes` of every stream, as hosted NATS does, needs it: 64 MiB are plenty.
    pub bucket_max_bytes: Option<u64>,
    /// How many copies the bucket `TIDINGS` has in a cluster; default as many as the stream of the retries.
    pub bucket_replicas: Option<u8>,
}

/// Credentials of one kind. They are never printed.
#[derive(Clone, Default, PartialEq, Eq)]
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
    /// Whether a plain connection is refused; default false. A `tls://` among the servers refuses it too.
    pub required: bool,
    /// Whether TLS begins before the server says anything (`handshake_first` of the server); default false. Then
    /// nothing that is said before TLS can be changed on its way.
    pub first: bool,
    /// Certificates to trust besides the system's.
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

    /// Sets whether servers that the connected one tells of are tried too.
    #[must_use]
    pub fn discover_servers(mut self, discover: bool) -> Self {
        self.discover_servers = discover;
        self
    }

    /// Sets what the subjects of answers begin with.
    #[must_use]
    pub fn inbox_prefix(mut self, prefix: impl Into<String>) -> Self {
        self.inbox_prefix = Some(prefix.into());
        self
    }

    /// Sets how many bytes the bucket `TIDINGS` may hold.
    #[must_use]
    pub fn bucket_max_bytes(mut self, bytes: u64) -> Self {
        self.bucket_max_bytes = Some(bytes);
        self
    }

    /// Sets how many copies the bucket `TIDINGS` has: 1, 3 or 5.
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

/// Without credentials, also those in addresses.
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
