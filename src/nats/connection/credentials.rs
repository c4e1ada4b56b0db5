//! Credentials inside the URLs of NATS servers. async-nats 0.51 neither uses them nor keeps them out of its debug log,
//! so they are removed here.

use crate::nats::Auth;

impl Auth {
    /// Splits the URL of a server into its address and the credentials before its `@`: `user:password`, or a token,
    /// percent-encoded (RFC 3986) where they contain reserved characters.
    ///
    /// # Errors
    /// What is wrong, without the URL.
    pub fn in_url(url: &str) -> Result<(String, Option<Self>), &'static str> {
        split(url)
    }
}

fn split(url: &str) -> Result<(String, Option<Auth>), &'static str> {
    let (scheme, rest) = url.split_once("://").unwrap_or(("nats", url));
    let Some((credentials, host)) = rest.rsplit_once('@') else {
        return Ok((url.to_owned(), None));
    };
    let auth = match credentials.split_once(':') {
        Some((user, password)) => Auth::User {
            user: decoded(user)?,
            password: decoded(password)?,
        },
        None => Auth::Token(decoded(credentials)?),
    };
    Ok((format!("{scheme}://{host}"), Some(auth)))
}

/// Decodes percent-encoding (RFC 3986).
fn decoded(text: &str) -> Result<String, &'static str> {
    const WRONG: &str =
        "the credentials in it have a % that is not followed by two hex digits of UTF-8";
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || char::from(rest.next()?).to_digit(16);
        let (Some(high), Some(low)) = (digit(), digit()) else {
            return Err(WRONG);
        };
        bytes.extend(u8::try_from(high * 16 + low));
    }
    String::from_utf8(bytes).map_err(|_| WRONG)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(url: &str) -> (String, String, String) {
        match split(url).unwrap() {
            (server, Some(Auth::User { user, password })) => (server, user, password),
            _ => panic!("{url} has user and password"),
        }
    }

    #[test]
    fn user_and_password_are_extracted_and_decoded() {
        let expected = ("tls://h:4222".into(), "ada".into(), "p@s:s/\u{e9}".into());
        assert_eq!(user("tls://ada:p%40s:s%2F%C3%a9@h:4222"), expected);
        assert_eq!(user("ada:p@h").0, "nats://h");
    }

    #[test]
    fn the_only_part_is_a_token_and_no_part_is_no_credentials() {
        let (server, auth) = split("nats://t0ken@h").unwrap();
        assert_eq!(server, "nats://h");
        assert_eq!(auth, Some(Auth::Token("t0ken".into())));
        assert!(matches!(split("h:4222"), Ok((server, None)) if server == "h:4222"));
    }

    #[test]
    fn a_broken_encoding_is_refused() {
        for url in [
            "nats://u:%@h",
            "nats://u:%4@h",
            "nats://u:%zz@h",
            "nats://u:%ff@h",
        ] {
            assert!(split(url).is_err(), "{url}");
        }
    }
}
