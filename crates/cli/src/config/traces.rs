//! Where the relay sends its spans, from the settings. Connects nowhere.

use std::{fmt, time::Duration};

use hyper::{
    HeaderMap, Uri,
    header::{HeaderName, HeaderValue},
};
use percent_encoding::percent_decode_str;

use super::{duration, faults::Faults, settings, values::Values};

/// The path for traces, which OTLP over HTTP adds to the address of a receiver.
const PATH: &str = "/v1/traces";

/// The settings of the exporter of spans.
pub(crate) struct TracesSettings {
    /// The receiver; `None`: the relay makes no spans.
    pub(crate) endpoint: Option<Endpoint>,
    /// What each request has in addition, such as an API key.
    pub(crate) headers: HeaderMap,
    pub(crate) service_name: String,
    /// How long one request may take.
    pub(crate) timeout: Duration,
}

/// A receiver of OTLP over HTTP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Endpoint {
    pub(crate) is_tls: bool,
    /// A name or an address; one of version 6 without brackets.
    pub(crate) host: String,
    pub(crate) port: u16,
    /// Host and port as they were written.
    pub(crate) authority: String,
    pub(crate) path: String,
}

impl Values {
    /// The settings of the exporter; `None` when they have faults.
    pub(super) fn traces(&self, faults: &mut Faults) -> Option<TracesSettings> {
        let endpoint = self.read_given(&settings::TRACES_ENDPOINT, |text| match text {
            "off" => Ok(None),
            text => Endpoint::parse(text).map(Some),
        });
        let endpoint = faults.keep(endpoint);
        let headers = faults.keep(self.read(&settings::TRACES_HEADERS, headers));
        let timeout = faults.keep(self.read(&settings::TRACES_TIMEOUT, timeout));
        Some(TracesSettings {
            endpoint: endpoint?.flatten(),
            headers: headers?,
            service_name: self.text(&settings::TRACES_SERVICE_NAME),
            timeout: timeout?,
        })
    }
}

impl Endpoint {
    fn parse(text: &str) -> Result<Self, &'static str> {
        const FORM: &str = "write http://HOST:PORT or https://HOST:PORT, such as \
            http://127.0.0.1:4318, the address of a receiver of OTLP over HTTP; or \"off\"";
        let uri: Uri = text.parse().map_err(|_| FORM)?;
        let (is_tls, usual_port) = match uri.scheme_str() {
            Some("http") => (false, 80),
            Some("https") => (true, 443),
            _ => return Err(FORM),
        };
        let authority = uri.authority().ok_or(FORM)?.as_str();
        if authority.contains('@') || uri.query().is_some() {
            return Err("it may have neither a user nor parameters");
        }
        let host = uri.host().filter(|host| !host.is_empty()).ok_or(FORM)?;
        // What stands behind the host is a port, or this is no address.
        let has_port = authority != host;
        let port = match (uri.port_u16(), has_port) {
            (Some(port), _) => port,
            (None, false) => usual_port,
            (None, true) => return Err(FORM),
        };
        let path = uri.path().trim_end_matches('/');
        Ok(Self {
            is_tls,
            host: host.trim_matches(['[', ']']).to_owned(),
            port,
            authority: authority.to_owned(),
            path: match path.ends_with(PATH) {
                true => path.to_owned(),
                false => format!("{path}{PATH}"),
            },
        })
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.is_tls { "https" } else { "http" };
        write!(f, "{scheme}://{}{}", self.authority, self.path)
    }
}

/// Headers, separated by commas, as OpenTelemetry writes them: a character of a value that separates, or that is not
/// ASCII, is percent-encoded.
fn headers(list: &str) -> Result<HeaderMap, &'static str> {
    const FORM: &str = "write NAME=VALUE, with % and two digits for a comma inside a value";
    let pairs = list.split(',').map(str::trim);
    let pairs = pairs.filter(|pair| !pair.is_empty()).map(|pair| {
        let (name, value) = pair.split_once('=').ok_or(FORM)?;
        let name: HeaderName = name.trim().parse().map_err(|_| FORM)?;
        let value: Vec<u8> = percent_decode_str(value.trim()).collect();
        let mut value = HeaderValue::from_bytes(&value).map_err(|_| FORM)?;
        value.set_sensitive(true);
        Ok((name, value))
    });
    pairs.collect()
}

fn timeout(text: &str) -> Result<Duration, String> {
    const SHORTEST: Duration = Duration::from_millis(100);
    const LONGEST: Duration = Duration::from_secs(60);
    match duration::parse(text) {
        Ok(timeout) if (SHORTEST..=LONGEST).contains(&timeout) => Ok(timeout),
        Ok(_) => Err("write 100ms to 1m".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, path::Path};

    use super::*;
    use crate::config::{Config, ConfigError, Flags};

    fn load(file: &str, variables: &[(&str, &str)]) -> Result<Config, ConfigError> {
        let file = Some((Path::new("tidings.toml"), file));
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        let variables: BTreeMap<_, _> = variables.iter().map(owned).collect();
        Config::of(file, &variables, Flags::default())
    }

    fn endpoint(file: &str, variables: &[(&str, &str)]) -> Option<String> {
        let config = load(file, variables).map_err(|error| error.to_string());
        let endpoint = config.unwrap().traces.endpoint;
        endpoint.map(|endpoint| endpoint.to_string())
    }

    const OTEL: (&str, &str) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://otel:4318");

    #[test]
    fn no_endpoint_means_no_spans() {
        assert_eq!(endpoint("", &[]), None);
        let off = ("TIDINGS_TRACES_ENDPOINT", "off");
        assert_eq!(endpoint("", &[OTEL, off]), None);
    }

    #[test]
    fn the_variables_of_opentelemetry_come_before_the_file() {
        let file = "[traces]\nendpoint = \"http://file:4318\"\n";
        let of_file = Some("http://file:4318/v1/traces");
        assert_eq!(endpoint(file, &[]).as_deref(), of_file);
        let otel = Some("http://otel:4318/v1/traces");
        assert_eq!(endpoint(file, &[OTEL]).as_deref(), otel);
        let ours = ("TIDINGS_TRACES_ENDPOINT", "http://ours:4318");
        let expected = Some("http://ours:4318/v1/traces");
        assert_eq!(endpoint(file, &[OTEL, ours]).as_deref(), expected);
        let name = ("OTEL_SERVICE_NAME", "orders-relay");
        let config = load("", &[name]).map_err(|error| error.to_string());
        assert_eq!(config.unwrap().traces.service_name, "orders-relay");
    }

    #[test]
    fn an_endpoint_is_taken_apart() {
        for (text, is_tls, host, port, path) in [
            ("http://otel:4318", false, "otel", 4318, "/v1/traces"),
            ("http://otel:4318/", false, "otel", 4318, "/v1/traces"),
            ("https://otel", true, "otel", 443, "/v1/traces"),
            ("http://otel/v1/traces", false, "otel", 80, "/v1/traces"),
            (
                "http://[::1]:4318/otlp",
                false,
                "::1",
                4318,
                "/otlp/v1/traces",
            ),
        ] {
            let found = Endpoint::parse(text).unwrap();
            assert_eq!(found.is_tls, is_tls, "{text}");
            assert_eq!((&*found.host, found.port), (host, port), "{text}");
            assert_eq!(found.path, path, "{text}");
        }
    }

    #[test]
    fn headers_are_read_and_not_shown() {
        let file = "[traces]\nheaders = [\"api-key=s3cret\", \"tenant=a%2Cb\"]\n";
        let config = load(file, &[]).map_err(|error| error.to_string()).unwrap();
        let headers = &config.traces.headers;
        assert_eq!(headers["api-key"], "s3cret");
        assert_eq!(headers["tenant"], "a,b");
        let mut shown = config.effective.iter();
        let shown = shown.find(|value| value.key == "traces.headers").unwrap();
        assert_eq!(shown.value.as_deref(), Some("***"));
        let otel = ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Basic%20eA==");
        let config = load("", &[otel])
            .map_err(|error| error.to_string())
            .unwrap();
        assert_eq!(config.traces.headers["authorization"], "Basic eA==");
    }

    #[test]
    fn a_bad_endpoint_is_a_fault_with_its_line() {
        for (text, reason) in [
            ("", "http://HOST:PORT"),
            ("otel", "http://HOST:PORT"),
            ("otel:4317", "http://HOST:PORT"),
            ("grpc://otel:4317", "http://HOST:PORT"),
            ("http://otel:99999", "http://HOST:PORT"),
            ("http://otel:http", "http://HOST:PORT"),
            ("http://", "http://HOST:PORT"),
            ("http://ada:s3cret@otel:4318", "neither a user"),
            ("http://otel:4318/?key=s3cret", "neither a user"),
        ] {
            let file = format!("[traces]\nendpoint = {text:?}\n");
            let Err(error) = load(&file, &[]) else {
                panic!("{text:?} is taken")
            };
            let message = error.to_string();
            assert!(message.starts_with("tidings.toml:2: "), "{message}");
            assert!(message.contains(reason), "{message}");
            assert!(!message.contains("s3cret"), "{message}");
        }
        for text in ["api-key", "=s3cret", "a b=s3cret", "api-key=s3cret%0A"] {
            let Err(error) = load(&format!("[traces]\nheaders = {text:?}\n"), &[]) else {
                panic!("{text:?} is taken")
            };
            assert!(!error.to_string().contains("s3cret"), "{error}");
        }
        for text in ["0s", "99ms", "2m", "5"] {
            assert!(load(&format!("[traces]\ntimeout = {text:?}\n"), &[]).is_err());
        }
    }
}
