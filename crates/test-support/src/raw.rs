//! Publishes with the NATS client alone, and raw bytes that no client would send.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use uuid::Uuid;

use super::{Database, User, World, within};

const NOBODY: &str = "{\"headers\":true,\"verbose\":false}";

impl<DB: Database> World<DB> {
    /// Publishes a message with these lines as headers, and the payload `{}`.
    pub async fn publish_raw(&self, subject: &[u8], lines: &[u8]) {
        self.publish_raw_with(subject, lines, b"{}").await;
    }

    pub async fn publish_raw_with(&self, subject: &[u8], lines: &[u8], payload: &[u8]) {
        publish_raw(&self.nats.url(), NOBODY, subject, lines, payload).await;
    }
}

/// The same to any server, with these options in the `CONNECT` of the client.
pub async fn publish_raw(url: &str, client: &str, subject: &[u8], lines: &[u8], payload: &[u8]) {
    let address = url.replace("nats://", "");
    let socket = TcpStream::connect(address).await;
    let mut socket = socket.expect("a connection");
    let headers = [b"NATS/1.0\r\n", lines, b"\r\n\r\n"].concat();
    let sizes = format!(" {} {}\r\n", headers.len(), headers.len() + payload.len());
    let said: [&[u8]; 8] = [
        b"CONNECT ",
        client.as_bytes(),
        b"\r\nHPUB ",
        subject,
        sizes.as_bytes(),
        &headers,
        payload,
        b"\r\nPING\r\n",
    ];
    let said = said.concat();
    socket.write_all(&said).await.expect("it is sent");
    let mut heard = Vec::new();
    while !heard.windows(4).any(|part| part == b"PONG") {
        let read = within("a PONG", socket.read_buf(&mut heard)).await;
        let read = read.expect("an answer");
        assert!(read > 0, "{}", String::from_utf8_lossy(&heard));
    }
}

/// Publishes the event of a user with the NATS client alone, with the same id in each call.
pub async fn deliver(nats: &str, id: Uuid, user: &str) {
    let client = async_nats::connect(nats).await.unwrap();
    let mut headers = async_nats::HeaderMap::new();
    headers.insert("ce-specversion", "1.0");
    headers.insert("ce-id", id.to_string());
    headers.insert("ce-type", "user.created.v1");
    headers.insert("ce-source", "tests");
    // Like a republished event: the message id starts with the event's id.
    headers.insert("Nats-Msg-Id", format!("{id}/{}", Uuid::now_v7()));
    let payload = serde_json::to_vec(&User::new(user)).unwrap();
    let context = async_nats::jetstream::new(client);
    let stored = context.publish_with_headers("user.created", headers, payload.into());
    stored.await.unwrap().await.unwrap();
}
