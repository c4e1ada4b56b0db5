//! `tidings healthcheck`: asks the health endpoints of a process, for images without a client for HTTP.

use std::{io, net::SocketAddr, time::Duration};

use clap::{Args, ValueEnum};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, lookup_host},
    time::{Instant, timeout},
};

use super::{
    output,
    report::{Exit, Outcome, Report},
    untrusted,
};
use crate::config::Config;

/// How long the answer may take, whichever address of the host gives it.
const WITHIN: Duration = Duration::from_secs(3);
const SILENT: &str = "no answer within 3 s";
/// How much of the answer is read.
const MOST: u64 = 64 * 1024;
/// Where the endpoints are when the configuration does not say it.
const ADDRESS: &str = "127.0.0.1:9464";

#[derive(Args)]
pub(super) struct Healthcheck {
    /// Whether it is ready for work, or alive at all
    #[arg(long, value_enum, default_value = "readyz")]
    of: Endpoint,
    /// The endpoints [default: http:// and ops.listen, or http://127.0.0.1:9464]
    #[arg(long, value_name = "URL")]
    url: Option<String>,
}

/// What is asked.
#[derive(Clone, Copy, ValueEnum)]
enum Endpoint {
    Livez,
    Readyz,
}

impl Healthcheck {
    pub(super) async fn run(&self, config: &Config) -> Outcome {
        let target = self.target(config)?;
        // Looking up the host takes time too.
        let answer = match timeout(WITHIN, ask(&target)).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => return Err(target.unreachable().because(Some(&error))),
            Err(_) => return Err(target.unreachable().cause(SILENT)),
        };
        output::line(untrusted::neutral_lines(answer.body.trim_end()))?;
        match answer.status {
            200 => Ok(()),
            503 => Err(Report::told(Exit::Failed)),
            status => Err(Report::new(
                Exit::Failed,
                format!("{target} has answered with the HTTP status {status}"),
            )
            .cure("--url with the address of the health endpoints of Tidings")),
        }
    }

    fn target(&self, config: &Config) -> Result<Target, Report> {
        let path = match self.of {
            Endpoint::Livez => "/livez",
            Endpoint::Readyz => "/readyz",
        };
        let address = match &self.url {
            None => config.ops.listen.as_deref().unwrap_or(ADDRESS),
            Some(url) => {
                let rest = url
                    .strip_prefix("http://")
                    .map(|rest| rest.trim_end_matches('/'));
                let address = rest.filter(|address| !address.contains('/'));
                address.ok_or_else(|| {
                    Report::new(Exit::Usage, format!("{url:?} is not http://HOST:PORT"))
                        .cure("--url http://127.0.0.1:9464")
                })?
            }
        };
        Ok(Target {
            address: address.to_owned(),
            path,
        })
    }
}

/// What is asked, and where.
struct Target {
    address: String,
    path: &'static str,
}

struct Answer {
    status: u16,
    body: String,
}

impl Target {
    fn unreachable(&self) -> Report {
        Report::new(Exit::Unreachable, format!("{self} does not answer"))
            .cure("set [ops] listen in tidings.toml, and start tidings relay; or correct --url")
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "http://{}{}", self.address, self.path)
    }
}

/// An address that stands for all addresses of the host is not one to connect to.
fn reachable(address: SocketAddr) -> SocketAddr {
    let local = match address {
        SocketAddr::V4(_) => SocketAddr::from(([127, 0, 0, 1], address.port())),
        SocketAddr::V6(_) => SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 1], address.port())),
    };
    match address.ip().is_unspecified() {
        true => local,
        false => address,
    }
}

async fn ask(target: &Target) -> io::Result<Answer> {
    let end = Instant::now() + WITHIN;
    let addresses: Vec<_> = lookup_host(&*target.address)
        .await?
        .map(reachable)
        .collect();
    ask_each(&addresses, target.path, end).await
}

/// Asks one address after the other until one answers. Each has an equal share of the time that is left.
async fn ask_each(addresses: &[SocketAddr], path: &str, end: Instant) -> io::Result<Answer> {
    let mut failure = io::Error::other("the host has no address");
    let mut untried = u32::try_from(addresses.len()).unwrap_or(u32::MAX);
    for address in addresses {
        let share = end.saturating_duration_since(Instant::now()) / untried.max(1);
        untried = untried.saturating_sub(1);
        match timeout(share, ask_at(*address, path)).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) => failure = error,
            Err(_) => failure = io::Error::new(io::ErrorKind::TimedOut, SILENT),
        }
    }
    Err(failure)
}

async fn ask_at(address: SocketAddr, path: &str) -> io::Result<Answer> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(MOST).read_to_end(&mut answer).await?;
    read(&String::from_utf8_lossy(&answer))
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the answer is not one of HTTP"))
}

/// The status and the body. The endpoints answer with a length, so the body is the rest.
fn read(answer: &str) -> Option<Answer> {
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.strip_prefix("HTTP/1.")?.get(2..5)?;
    Some(Answer {
        status: status.parse().ok()?,
        body: body.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn an_answer_is_its_status_and_its_body() {
        let answer = read("HTTP/1.1 503 Service Unavailable\r\ncontent-length: 4\r\n\r\nno\n\n");
        let answer = answer.unwrap();
        assert_eq!((answer.status, &*answer.body), (503, "no\n\n"));
        for text in [
            "",
            "SSH-2.0-x",
            "HTTP/1.1 abc\r\n\r\n",
            "HTTP/1.1 2\u{e9}\r\n\r\n",
        ] {
            assert!(read(text).is_none(), "{text:?}");
        }
    }

    #[tokio::test]
    async fn every_address_is_tried_within_one_time_limit() {
        let local = || TcpListener::bind("127.0.0.1:0");
        let closed = local().await.unwrap().local_addr().unwrap();
        // It takes connections, and never answers.
        let silent = local().await.unwrap();
        let answers = local().await.unwrap();
        let address = |listener: &TcpListener| listener.local_addr().unwrap();
        let addresses = [closed, address(&silent), address(&answers)];
        let answering = async {
            let (mut stream, _) = answers.accept().await.unwrap();
            assert!(stream.read(&mut [0; 256]).await.unwrap() > 0);
            let ready = b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nok\n";
            stream.write_all(ready).await.unwrap();
        };
        let end = Instant::now() + Duration::from_secs(2);
        let (answer, ()) = tokio::join!(ask_each(&addresses, "/readyz", end), answering);
        assert_eq!(answer.unwrap().status, 200);
        assert!(Instant::now() < end);

        let failed = ask_each(&addresses[..2], "/readyz", Instant::now()).await;
        assert_eq!(failed.err().unwrap().kind(), io::ErrorKind::TimedOut);
        let none = ask_each(&[], "/readyz", Instant::now()).await;
        assert_eq!(none.err().unwrap().to_string(), "the host has no address");
    }

    #[test]
    fn all_addresses_of_the_host_are_asked_at_the_local_one() {
        let of = |text: &str| reachable(text.parse().unwrap()).to_string();
        assert_eq!(of("0.0.0.0:9464"), "127.0.0.1:9464");
        assert_eq!(of("[::]:9464"), "[::1]:9464");
        assert_eq!(of("10.0.0.7:80"), "10.0.0.7:80");
    }
}
