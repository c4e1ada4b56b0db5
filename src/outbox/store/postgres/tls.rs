//! Whether the connection to the server is certainly encrypted. Never changes the connection options.

use std::net::IpAddr;

use sqlx::postgres::{PgConnectOptions, PgSslMode};

/// Returns the host, when it is a remote one and the connection may be unencrypted: the default `sslmode=prefer`
/// accepts either, so an attacker in between decides.
pub(super) fn plain_link(options: &PgConnectOptions) -> Option<String> {
    let is_encrypted = matches!(
        options.get_ssl_mode(),
        PgSslMode::Require | PgSslMode::VerifyCa | PgSslMode::VerifyFull
    );
    let host = options.get_host();
    let is_here = options.get_socket().is_some() || host.starts_with('/') || is_loopback(host);
    (!is_encrypted && !is_here).then(|| host.to_owned())
}

fn is_loopback(host: &str) -> bool {
    let address = host.trim_matches(['[', ']']).parse::<IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_remote_host_without_tls_for_sure_is_named() {
        let plain = |url: &str| plain_link(&url.parse().unwrap());
        for url in [
            "postgres://u@db.example/d",
            "postgres://u@10.0.0.7/d?sslmode=prefer",
            "postgres://u@db/d?sslmode=disable",
        ] {
            assert!(plain(url).is_some(), "{url}");
        }
        for url in [
            "postgres://u@db.example/d?sslmode=require",
            "postgres://u@db.example/d?sslmode=verify-full",
            "postgres://u@localhost/d",
            "postgres://u@127.0.0.1/d",
            "postgres://u@[::1]/d",
            "postgres:///d?host=/run/postgresql",
        ] {
            assert_eq!(plain(url), None, "{url}");
        }
    }
}
