//! Shows values without their secrets. Never reads a setting.

use super::settings::{Secret, Setting};

/// The placeholder for a secret.
const HIDDEN: &str = "***";
/// Query parameters of a database URL that contain no secret. Every other parameter may contain one.
const OPEN_PARAMETERS: [&str; 14] = [
    "sslmode",
    "ssl-mode",
    "sslrootcert",
    "ssl-root-cert",
    "ssl-ca",
    "sslcert",
    "ssl-cert",
    "statement-cache-capacity",
    "host",
    "hostaddr",
    "port",
    "dbname",
    "user",
    "application_name",
];

/// A value without its secrets.
pub(super) fn shown(setting: &Setting, text: &str) -> String {
    match setting.secret {
        Secret::Nothing => text.to_owned(),
        Secret::Everything => HIDDEN.to_owned(),
        Secret::InUrl => without_passwords(text),
    }
}

/// URLs, separated by commas, without passwords. A part that could be a secret is hidden too.
pub(crate) fn without_passwords(urls: &str) -> String {
    let mut shown = String::new();
    let mut rest = urls;
    while !rest.is_empty() {
        let (url, next) = rest.split_at(next_url(rest));
        shown += &without_password(url);
        rest = next;
    }
    shown
}

/// The start of the next URL: after a comma or a space, with a scheme.
fn next_url(urls: &str) -> usize {
    let starts = urls.match_indices([',', ' ']).map(|(at, _)| at + 1);
    let mut starts = starts.filter(|at| scheme(&urls[*at..]).is_some());
    starts.next().unwrap_or(urls.len())
}

/// The scheme at the start of a text.
fn scheme(text: &str) -> Option<&str> {
    // Takes the word first: a search for "://" through the whole text for each URL would take quadratic time.
    let end = text.find(|c: char| !c.is_ascii_alphanumeric())?;
    let (scheme, rest) = text.split_at(end);
    (!scheme.is_empty() && rest.starts_with("://")).then_some(scheme)
}

/// One URL. The last `@` ends the credentials, because a password may contain one that is not encoded.
fn without_password(url: &str) -> String {
    let scheme = scheme(url);
    let rest = scheme.map_or(url, |scheme| &url[scheme.len() + 3..]);
    let is_database = scheme.is_some_and(|scheme| scheme.starts_with("postgres"));
    let shown = match rest.rsplit_once('@') {
        Some((credentials, host)) => match credentials.split_once(':') {
            Some((user, _)) => format!("{user}:{HIDDEN}@{}", without_parameters(host)),
            // In a database URL the only part is a user; in a NATS URL it is a token.
            None if is_database => format!("{credentials}@{}", without_parameters(host)),
            None => format!("{HIDDEN}@{}", without_parameters(host)),
        },
        // Part of a password that contains a comma or a space: the next URL is its rest.
        None if scheme.is_some() && !is_host(rest) => HIDDEN.to_owned(),
        None => without_parameters(rest),
    };
    match scheme {
        Some(scheme) => format!("{scheme}://{shown}"),
        None => shown,
    }
}

/// Whether the text after a scheme can be a host with a port, and maybe a path.
fn is_host(rest: &str) -> bool {
    let end = rest.find(['/', '?', ',', ' ']).unwrap_or(rest.len());
    match rest[..end].rsplit_once(':') {
        Some((host, port)) => {
            host.starts_with('[') || port.bytes().all(|byte| byte.is_ascii_digit())
        }
        None => true,
    }
}

fn without_parameters(url: &str) -> String {
    let Some((before, query)) = url.split_once('?') else {
        return url.to_owned();
    };
    let parameters = query
        .split('&')
        .map(|parameter| match parameter.split_once('=') {
            Some((name, _)) if !OPEN_PARAMETERS.contains(&name) => format!("{name}={HIDDEN}"),
            _ => parameter.to_owned(),
        });
    format!("{before}?{}", parameters.collect::<Vec<_>>().join("&"))
}

/// All known parameters of a database URL.
pub(super) fn parameters() -> Vec<&'static str> {
    [
        &OPEN_PARAMETERS[..],
        &["sslkey", "ssl-key", "password", "options"],
    ]
    .concat()
}

/// The first parameter of a database URL that the client does not know and would ignore.
pub(super) fn unknown_parameter(url: &str) -> Option<String> {
    let (_, query) = url.split_once('?')?;
    let names = query.split('&').map(|parameter| {
        let name = parameter
            .split_once('=')
            .map_or(parameter, |(name, _)| name);
        name.split_once('#').map_or(name, |(name, _)| name)
    });
    let is_known = |name: &&str| {
        name.is_empty() || name.starts_with("options[") || parameters().contains(name)
    };
    let mut unknown = names.filter(|name| !is_known(name));
    unknown.next().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_and_tokens_are_hidden_and_the_rest_is_kept() {
        for (url, hidden) in [
            ("nats://h:4222", "nats://h:4222"),
            ("nats://u:s3cret@h:4222", "nats://u:***@h:4222"),
            ("nats://s3cret@h", "nats://***@h"),
            (
                "nats://u:s3cret@h1,tls://s3cret@h2",
                "nats://u:***@h1,tls://***@h2",
            ),
            ("u:s3cret@h", "u:***@h"),
            ("nats://u:s3,cret@h", "nats://u:***@h"),
            ("nats://u:s3/c@ret@h", "nats://u:***@h"),
            ("postgres://ada@h/db", "postgres://ada@h/db"),
            (
                "postgres://ada:s3cret@h/db?sslmode=require",
                "postgres://ada:***@h/db?sslmode=require",
            ),
            (
                "postgres://h/db?password=s3cret&sslmode=require",
                "postgres://h/db?password=***&sslmode=require",
            ),
            ("sqlite:tidings.db", "sqlite:tidings.db"),
            ("nats://u:s3://cret@h", "nats://u:***@h"),
            ("u:s3://cret@h", "u:***@h"),
            ("nats://u:s3,nats://cret@h", "nats://***nats://***@h"),
            ("nats://[::1]:4222,nats://h", "nats://[::1]:4222,nats://h"),
            (
                "postgres://h/db?pasword=s3cret&sslmode=require",
                "postgres://h/db?pasword=***&sslmode=require",
            ),
        ] {
            assert_eq!(without_passwords(url), hidden);
        }
    }

    #[test]
    fn a_misspelt_parameter_is_found() {
        let of = |query: &str| unknown_parameter(&format!("postgres://h/db{query}"));
        assert_eq!(of(""), None);
        assert_eq!(of("?sslmode=require&password=x&options[a]=b"), None);
        assert_eq!(
            of("?sslmode=require&pasword=s3cret").as_deref(),
            Some("pasword")
        );
        assert_eq!(of("?connect_timeout=3").as_deref(), Some("connect_timeout"));
    }
}
