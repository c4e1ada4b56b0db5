//! The settings of the connection to NATS, from their texts. Connects nowhere.

use std::fs;

use tidings::{
    NatsOptions,
    nats::{Auth, Tls},
};

use super::{
    ConfigError,
    faults::Faults,
    settings::{self, Setting},
    values::{Values, copies, yes_or_no},
};

impl Values {
    /// The connection; `None` when it has faults.
    pub(super) fn nats(&self, faults: &mut Faults) -> Option<NatsOptions> {
        let (servers, in_url) = faults.keep(self.read(&settings::NATS_URL, servers)).unzip();
        let auth = faults.keep(self.auth(in_url.flatten()));
        let tls = faults.keep(self.tls());
        let tls_first = faults.keep(self.read(&settings::NATS_TLS_FIRST, yes_or_no));
        let discovers = faults.keep(self.read(&settings::NATS_DISCOVER_SERVERS, yes_or_no));
        let bytes =
            faults.keep(self.read_given(
                &settings::NATS_BUCKET_MAX_BYTES,
                |text| match text.parse() {
                    Ok(bytes @ 1..) => Ok(bytes),
                    _ => Err("write a whole number of bytes, such as 67108864"),
                },
            ));
        let replicas = faults.keep(self.read_given(&settings::NATS_BUCKET_REPLICAS, copies));
        let mut tls = tls?;
        tls.first = tls_first?;
        let mut options = NatsOptions::servers(servers?).auth(auth?).tls(tls);
        options.discover_servers = discovers?;
        options.inbox_prefix = self.optional(&settings::NATS_INBOX_PREFIX);
        if let Some(bytes) = bytes? {
            options = options.bucket_max_bytes(bytes);
        }
        if let Some(replicas) = replicas? {
            options = options.bucket_replicas(replicas);
        }
        Some(options)
    }

    /// Checks that the files of credentials and certificates can be read.
    pub(super) fn files(&self, faults: &mut Faults) {
        let files = [
            &settings::NATS_CREDENTIALS,
            &settings::NATS_TLS_ROOTS,
            &settings::NATS_TLS_CERTIFICATE,
            &settings::NATS_TLS_KEY,
        ];
        for setting in files {
            let read = self.read_given(setting, |path| {
                let read = fs::read(path);
                read.map_err(|error| format!("{path} cannot be read: {error}"))
            });
            faults.keep(read);
        }
    }

    /// The credentials, which must be of one kind.
    fn auth(&self, in_url: Option<Auth>) -> Result<Auth, ConfigError> {
        let has_user = self.given.contains_key(settings::NATS_USER.key);
        let has_password = self.given.contains_key(settings::NATS_PASSWORD.key);
        match (has_user, has_password) {
            (true, false) => return Err(self.half(&settings::NATS_USER, &settings::NATS_PASSWORD)),
            (false, true) => return Err(self.half(&settings::NATS_PASSWORD, &settings::NATS_USER)),
            _ => {}
        }
        let kinds = [
            &settings::NATS_USER,
            &settings::NATS_TOKEN,
            &settings::NATS_NKEY_SEED,
            &settings::NATS_CREDENTIALS,
        ];
        let mut given = kinds
            .into_iter()
            .filter(|kind| self.given.contains_key(kind.key))
            .chain(in_url.is_some().then_some(&settings::NATS_URL));
        if let (Some(first), Some(second)) = (given.next(), given.next()) {
            let told = |setting: &Setting| Box::new((setting.key, self.source(setting)));
            return Err(ConfigError::TwoCredentials(told(first), told(second)));
        }
        Ok(in_url.unwrap_or_else(|| self.one_auth()))
    }

    fn one_auth(&self) -> Auth {
        if let Some(user) = self.optional(&settings::NATS_USER) {
            let password = self.text(&settings::NATS_PASSWORD);
            return Auth::user(user, password);
        }
        if let Some(token) = self.optional(&settings::NATS_TOKEN) {
            return Auth::Token(token);
        }
        if let Some(seed) = self.optional(&settings::NATS_NKEY_SEED) {
            return Auth::NkeySeed(seed);
        }
        match self.path(&settings::NATS_CREDENTIALS) {
            Some(path) => Auth::CredentialsFile(path),
            None => Auth::Anonymous,
        }
    }

    fn tls(&self) -> Result<Tls, ConfigError> {
        let certificate = self.path(&settings::NATS_TLS_CERTIFICATE);
        let key = self.path(&settings::NATS_TLS_KEY);
        let client = match (certificate, key) {
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (None, None) => None,
            (Some(_), None) => {
                return Err(self.half(&settings::NATS_TLS_CERTIFICATE, &settings::NATS_TLS_KEY));
            }
            (None, Some(_)) => {
                return Err(self.half(&settings::NATS_TLS_KEY, &settings::NATS_TLS_CERTIFICATE));
            }
        };
        let roots = self.path(&settings::NATS_TLS_ROOTS);
        let mut tls = Tls::default();
        tls.required = roots.is_some() || client.is_some();
        tls.roots = roots;
        tls.client = client;
        Ok(tls)
    }

    fn half(&self, given: &'static Setting, missing: &'static Setting) -> ConfigError {
        ConfigError::Half {
            place: self.source(given),
            key: given.key,
            missing: missing.key,
        }
    }
}

/// The servers of a comma-separated list, and the credentials in their URLs, if any.
fn servers(list: &str) -> Result<(Vec<String>, Option<Auth>), &'static str> {
    let mut servers = Vec::new();
    let mut credentials: Option<Auth> = None;
    for url in list.split(',').map(str::trim).filter(|url| !url.is_empty()) {
        let (server, auth) = Auth::in_url(url)?;
        if !has_good_port(&server) {
            return Err("a server is HOST:PORT, and a comma in a password is written %2C");
        }
        servers.push(server);
        match (&credentials, auth) {
            (Some(one), Some(other)) if *one != other => {
                return Err("its servers have different credentials");
            }
            (None, Some(auth)) => credentials = Some(auth),
            _ => {}
        }
    }
    Ok((servers, credentials))
}

/// Whether the text after the host is a port; if not, it may be part of a password.
fn has_good_port(server: &str) -> bool {
    let address = server.split_once("://").map_or(server, |(_, rest)| rest);
    let address = address.trim_end_matches('/');
    match address.rsplit_once(':') {
        Some((_, port)) => address.ends_with(']') || port.parse::<u16>().is_ok(),
        None => true,
    }
}
