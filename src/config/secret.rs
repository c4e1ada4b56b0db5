//! Showing a value without what must stay secret in it.

use super::settings::{Secret, Setting};

/// What stands where a secret was.
const HIDDEN: &str = "***";
/// Query parameters of a database URL that hold a secret.
const SECRET_PARAMETERS: [&str; 2] = ["password=", "sslpassword="];

/// A value as it may be shown.
pub(super) fn shown(setting: &Setting, text: &str) -> String {
    match setting.secret {
        Secret::Nothing => text.to_owned(),
        Secret::Everything => HIDDEN.to_owned(),
        Secret::InUrl => without_passwords(text),
    }
}

/// URLs, separated by commas, without passwords. What cannot be told from a secret is hidden too.
pub(crate) fn without_passwords(urls: &str) -> String {
    let mut shown = String::new();
    let mut scheme = "";
    for (place, part) in urls.split("://").enumerate() {
        if place > 0 {
            shown.push_str("://");
        }
        shown.push_str(&without_password(scheme, part));
        scheme = part.rsplit([',', ' ']).next().unwrap_or(part);
    }
    without_parameters(&shown)
}

/// What follows a scheme, up to the next one. The last `@` ends the credentials: a password may have
/// one that nobody escaped.
fn without_password(scheme: &str, part: &str) -> String {
    let Some((credentials, host)) = part.rsplit_once('@') else {
        return part.to_owned();
    };
    match credentials.split_once(':') {
        Some((user, _)) => format!("{user}:{HIDDEN}@{host}"),
        // A database's user; in NATS the only part is a token.
        None if scheme.starts_with("postgres") => part.to_owned(),
        None => format!("{HIDDEN}@{host}"),
    }
}

fn without_parameters(url: &str) -> String {
    let Some((before, query)) = url.split_once('?') else {
        return url.to_owned();
    };
    let parameters = query.split('&').map(|parameter| {
        let is_secret = |name: &&&str| parameter.starts_with(**name);
        match SECRET_PARAMETERS.iter().find(is_secret) {
            Some(name) => format!("{name}{HIDDEN}"),
            None => parameter.to_owned(),
        }
    });
    format!("{before}?{}", parameters.collect::<Vec<_>>().join("&"))
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
        ] {
            assert_eq!(without_passwords(url), hidden);
        }
    }
}
