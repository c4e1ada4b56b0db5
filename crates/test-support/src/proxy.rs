//! A TCP proxy between a client and a server: counts the bytes from the server; can be silent, cut or slow, and can
//! lose an answer.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{oneshot, watch},
};
use tokio_util::sync::CancellationToken;

/// A proxy. Clones share the connections.
#[derive(Clone)]
pub struct Proxy {
    pub port: u16,
    server: u16,
    /// Silences the present connections; later ones get a new token.
    silence: Arc<Mutex<CancellationToken>>,
    said: Arc<AtomicU64>,
    connections: Arc<AtomicU64>,
    is_cut: Arc<watch::Sender<bool>>,
    delay_micros: Arc<AtomicU64>,
    /// Whether bytes from the client are lost, and bytes from the server.
    loses: Arc<[AtomicBool; 2]>,
    /// A connection on which the client sends this word gets no further answers; then the waiting test is notified.
    deaf_after: Arc<Mutex<Option<Deafness>>>,
}

struct Deafness {
    word: &'static str,
    fell: oneshot::Sender<CancellationToken>,
}

impl Proxy {
    /// A proxy to a server on this machine.
    pub async fn to(server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let proxy = Self {
            port: listener.local_addr().expect("its address").port(),
            server,
            silence: Arc::default(),
            said: Arc::default(),
            connections: Arc::default(),
            is_cut: Arc::new(watch::Sender::new(false)),
            delay_micros: Arc::default(),
            loses: Arc::default(),
            deaf_after: Arc::default(),
        };
        tokio::spawn(proxy.clone().serve(listener));
        proxy
    }

    /// Makes the present connections silent, without closing them, as when the host behind them is gone. New
    /// connections work.
    pub fn silence(&self) {
        let mut silence = self.silence.lock().expect("no panic");
        std::mem::take(&mut *silence).cancel();
    }

    /// Loses all bytes in these directions from now on, on new connections too, without closing any.
    pub fn lose(&self, ways: &[Way]) {
        for way in [Way::There, Way::Back] {
            self.loses[way as usize].store(ways.contains(&way), Ordering::Relaxed);
        }
    }

    /// Closes the present connections, and new ones at once, until `mend` is called.
    pub fn cut(&self) {
        self.is_cut.send_replace(true);
    }

    pub fn mend(&self) {
        self.is_cut.send_replace(false);
    }

    /// Delays all bytes in both directions from now on.
    pub fn slow(&self, delay: Duration) {
        let micros = u64::try_from(delay.as_micros()).expect("a short time");
        self.delay_micros.store(micros, Ordering::Relaxed);
    }

    /// Loses every answer on the connection that next sends this word. Once the word has passed, returns a token that
    /// closes that connection.
    pub fn lose_answers_after(
        &self,
        word: &'static str,
    ) -> impl Future<Output = CancellationToken> + use<> {
        let (fell, has_fallen) = oneshot::channel();
        let mut deaf_after = self.deaf_after.lock().expect("no panic");
        *deaf_after = Some(Deafness { word, fell });
        async { has_fallen.await.expect("the proxy lives") }
    }

    /// The number of bytes from the server.
    pub fn said(&self) -> u64 {
        self.said.load(Ordering::Relaxed)
    }

    /// The number of connections so far.
    pub fn connections(&self) -> u64 {
        self.connections.load(Ordering::Relaxed)
    }

    async fn serve(self, listener: TcpListener) {
        loop {
            let (client, _) = listener.accept().await.expect("a connection");
            self.connections.fetch_add(1, Ordering::Relaxed);
            let silence = self.silence.lock().expect("no panic").clone();
            tokio::spawn(self.clone().connect(client, silence));
        }
    }

    async fn connect(self, client: TcpStream, silence: CancellationToken) {
        let mut is_cut = self.is_cut.subscribe();
        let Ok(server) = TcpStream::connect(("127.0.0.1", self.server)).await else {
            // As if no server listened.
            return;
        };
        let link = Link {
            proxy: &self,
            is_deaf: CancellationToken::new(),
            end: CancellationToken::new(),
        };
        let (mut server_says, mut to_server) = server.into_split();
        let (mut client_says, mut to_client) = client.into_split();
        let both = async {
            tokio::join!(
                link.carry(&mut client_says, &mut to_server, Way::There),
                link.carry(&mut server_says, &mut to_client, Way::Back),
            );
        };
        tokio::select! {
            () = both => {}
            () = async { let _ = is_cut.wait_for(|is_cut| *is_cut).await; } => {}
            () = link.end.cancelled() => {}
            // Both ends stay open.
            () = silence.cancelled() => std::future::pending().await,
        }
    }
}

/// One connection.
struct Link<'a> {
    proxy: &'a Proxy,
    /// The bytes from the server are lost.
    is_deaf: CancellationToken,
    end: CancellationToken,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Way {
    /// From the client to the server.
    There,
    Back,
}

impl Link<'_> {
    /// Copies bytes until one end closes, and closes the other end.
    async fn carry(&self, from: &mut OwnedReadHalf, to: &mut OwnedWriteHalf, way: Way) {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(bytes @ 1..) = from.read(&mut buffer).await {
            let passing = &buffer[..bytes];
            match self.proxy.delay_micros.load(Ordering::Relaxed) {
                0 => {}
                micros => {
                    // real time: the delay of a slow link
                    tokio::time::sleep(Duration::from_micros(micros)).await;
                }
            }
            if self.proxy.loses[way as usize].load(Ordering::Relaxed) {
                continue;
            }
            match way {
                Way::There => self.listen(passing),
                Way::Back if self.is_deaf.is_cancelled() => continue,
                Way::Back => {
                    self.proxy.said.fetch_add(bytes as u64, Ordering::Relaxed);
                }
            }
            if to.write_all(passing).await.is_err() {
                break;
            }
        }
        let _ = to.shutdown().await;
    }

    fn listen(&self, passing: &[u8]) {
        let mut deaf_after = self.proxy.deaf_after.lock().expect("no panic");
        let hears = |deaf: &mut Deafness| {
            let word = deaf.word.as_bytes();
            passing.windows(word.len()).any(|said| said == word)
        };
        if let Some(deaf) = deaf_after.take_if(hears) {
            self.is_deaf.cancel();
            let _ = deaf.fell.send(self.end.clone());
        }
    }
}
