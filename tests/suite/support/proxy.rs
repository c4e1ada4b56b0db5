//! Stands between a client and a server on TCP: counts what the server says, and can fall silent.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicU64, Ordering},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
};
use tokio_util::sync::CancellationToken;

/// Clones share the connections.
#[derive(Clone)]
pub struct Proxy {
    pub port: u16,
    server: u16,
    /// Falls on the connections there are; those to come get another.
    silence: Arc<Mutex<CancellationToken>>,
    said: Arc<AtomicU64>,
}

impl Proxy {
    /// To a server on this machine.
    pub async fn to(server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let proxy = Self {
            port: listener.local_addr().expect("its address").port(),
            server,
            silence: Arc::default(),
            said: Arc::default(),
        };
        tokio::spawn(proxy.clone().serve(listener));
        proxy
    }

    /// From now on nothing passes on the connections that there are, and none of them ends: the host
    /// behind them is gone. New ones work.
    pub fn silence(&self) {
        let mut silence = self.silence.lock().expect("no panic");
        std::mem::take(&mut *silence).cancel();
    }

    /// How many bytes the server has sent.
    pub fn said(&self) -> u64 {
        self.said.load(Ordering::Relaxed)
    }

    async fn serve(self, listener: TcpListener) {
        loop {
            let (client, _) = listener.accept().await.expect("a connection");
            let silence = self.silence.lock().expect("no panic").clone();
            tokio::spawn(self.clone().connect(client, silence));
        }
    }

    async fn connect(self, client: TcpStream, silence: CancellationToken) {
        let server = TcpStream::connect(("127.0.0.1", self.server)).await;
        let (mut server_says, mut to_server) = server.expect("the server").into_split();
        let (mut client_says, mut to_client) = client.into_split();
        let unheard = AtomicU64::new(0);
        let both = async {
            tokio::join!(
                carry(&mut client_says, &mut to_server, &unheard),
                carry(&mut server_says, &mut to_client, &self.said),
            );
        };
        tokio::select! {
            () = both => {}
            // Both ends stay open.
            () = silence.cancelled() => std::future::pending().await,
        }
    }
}

/// Carries until an end closes, and closes the other.
async fn carry(from: &mut OwnedReadHalf, to: &mut OwnedWriteHalf, count: &AtomicU64) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(bytes @ 1..) = from.read(&mut buffer).await {
        count.fetch_add(bytes as u64, Ordering::Relaxed);
        if to.write_all(&buffer[..bytes]).await.is_err() {
            break;
        }
    }
    let _ = to.shutdown().await;
}
