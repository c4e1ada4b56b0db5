//! Publishing what no client would: bytes as they are.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{Database, World, within};

impl<DB: Database> World<DB> {
    /// Publishes a message with these lines as headers, and the payload `{}`.
    pub async fn publish_raw(&self, subject: &[u8], lines: &[u8]) {
        self.publish_raw_with(subject, lines, b"{}").await;
    }

    pub async fn publish_raw_with(&self, subject: &[u8], lines: &[u8], payload: &[u8]) {
        let address = self.nats.url().replace("nats://", "");
        let socket = TcpStream::connect(address).await;
        let mut socket = socket.expect("a connection");
        let headers = [b"NATS/1.0\r\n", lines, b"\r\n\r\n"].concat();
        let sizes = format!(" {} {}\r\n", headers.len(), headers.len() + payload.len());
        let said: [&[u8]; 6] = [
            b"CONNECT {\"headers\":true,\"verbose\":false}\r\nHPUB ",
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
}
