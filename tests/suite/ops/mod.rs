//! P9: a process says whether it is alive, ready and healthy, and tells the cause.

mod blocked;
mod endpoints;
mod full_database;
mod handlers;
mod healthy;
mod metrics;
mod relay;
mod scrapes;
mod subscriber;
mod systemd;

use std::net::SocketAddr;

use serde_json::Value;
use tidings::ops::Ops;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::support::{eventually, within};

/// The endpoints of a process.
#[derive(Clone, Copy)]
pub struct Endpoints(SocketAddr);

/// What an endpoint has answered.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub text: String,
}

/// Endpoints on a free port, and the way to ask them.
fn endpoints() -> (Ops, Endpoints) {
    let mut ops = Ops::listen("127.0.0.1:0");
    let address = ops.bind().expect("a free port");
    (ops, Endpoints(address))
}

impl Endpoints {
    pub async fn ask(&self, path: &str) -> Answer {
        let host = self.0.to_string();
        self.ask_as(&host, path).await.expect("an answer")
    }

    /// Asks with this `Host`; `None` when nothing listens.
    pub async fn ask_as(&self, host: &str, path: &str) -> Option<Answer> {
        let mut stream = TcpStream::connect(self.0).await.ok()?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut answer = String::new();
        let reading = stream.read_to_string(&mut answer);
        within("an answer", reading).await.ok()?;
        let (head, text) = answer.split_once("\r\n\r\n")?;
        let status = head.split(' ').nth(1)?.parse().ok()?;
        let text = text.to_owned();
        Some(Answer { status, text })
    }

    pub async fn health(&self) -> Value {
        let answer = self.ask("/healthz").await;
        assert_eq!(answer.status, 200, "{answer:?}");
        serde_json::from_str(&answer.text).expect("JSON")
    }

    /// The component of this name, or the only one of this kind.
    pub async fn component(&self, component: &str) -> Value {
        let health = self.health().await;
        let components = health["components"].as_array().expect("a list");
        let found = components.iter().find(|one| one["component"] == component);
        found.cloned().unwrap_or_default()
    }

    /// Waits until a path answers with this status and this text in it.
    pub async fn says(&self, path: &str, status: u16, text: &str) -> Answer {
        eventually(&format!("{path} is {status}: {text}"), || async {
            let answer = self.ask(path).await;
            answer.status == status && answer.text.contains(text)
        })
        .await;
        self.ask(path).await
    }
}
