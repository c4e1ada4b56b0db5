//! Answers only requests whose `Host` is `localhost` or an IP address: a web page that has its own name resolved to
//! 127.0.0.1 (DNS rebinding) sends that name, and must not read what a browser of this host can reach. Never looks at
//! another header, or at the address of the client.

use axum::{
    Router,
    extract::Request,
    http::{StatusCode, header::HOST},
    middleware::{self, Next},
    response::{IntoResponse, Response},
};

pub(super) fn without_host_names(routes: Router) -> Router {
    routes.layer(middleware::from_fn(check))
}

async fn check(request: Request, next: Next) -> Response {
    let host = request.headers().get(HOST).map(|host| host.to_str());
    match host {
        Some(Ok(host)) if is_no_name(host) => next.run(request).await,
        _ => (
            StatusCode::MISDIRECTED_REQUEST,
            "the Host of the request is neither localhost nor an IP address\n",
        )
            .into_response(),
    }
}

/// Whether a `Host` is `localhost` or an IP address, with or without a port.
fn is_no_name(host: &str) -> bool {
    let is_port = |port: &str| port.is_empty() || port.parse::<u16>().is_ok();
    if let Some(rest) = host.strip_prefix('[') {
        let Some((address, port)) = rest.split_once(']') else {
            return false;
        };
        let is_address = address.parse::<std::net::Ipv6Addr>().is_ok();
        return is_address && port.strip_prefix(':').map_or(port.is_empty(), is_port);
    }
    let (name, port) = host.split_once(':').unwrap_or((host, ""));
    let is_name = name.eq_ignore_ascii_case("localhost");
    (is_name || name.parse::<std::net::Ipv4Addr>().is_ok()) && is_port(port)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_localhost_and_addresses_are_answered() {
        for host in [
            "localhost",
            "LOCALHOST:80",
            "127.0.0.1:9464",
            "10.1.2.3",
            "[::1]:9464",
            "[::1]",
        ] {
            assert!(is_no_name(host), "{host}");
        }
        for host in [
            "",
            "evil.example",
            "localhost.evil.example:80",
            "127.0.0.1.evil",
            "[::1",
            "a:b",
        ] {
            assert!(!is_no_name(host), "{host}");
        }
    }
}
