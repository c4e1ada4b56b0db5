//! Publishes raw bytes that no client would send.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{Database, World, within};

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
