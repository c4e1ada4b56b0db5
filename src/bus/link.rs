//! The connection as a wire: whether anything comes over it, and making it anew when it is dead without being
//! closed, or when its server says that it is about to stop. Never decides that by itself.

use std::{
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_nats::Request;
use tokio::sync::watch;

use super::client::Client;

/// Any server answers a request to this at once, if only by saying that nobody listens or that we may not.
const NOBODY: &str = "tidings.nobody";

/// A connection. Clones share it.
#[derive(Clone)]
pub(super) struct Link {
    client: Client,
    lost: watch::Receiver<u64>,
    /// The loss after which the connection was made that was given up, plus one: it is given up once.
    given_up: Arc<AtomicU64>,
}

/// Leaves a server that is about to stop. The connection owns it, so it must not own the connection.
#[derive(Clone, Default)]
pub(super) struct Leaving(Arc<OnceLock<Weak<async_nats::Client>>>);

impl Link {
    pub(super) fn new(client: &Client, lost: &watch::Receiver<u64>) -> Self {
        Self {
            client: client.clone(),
            lost: lost.clone(),
            given_up: Arc::default(),
        }
    }

    /// How many bytes have come, on all connections that there were.
    pub(super) fn received(&self) -> u64 {
        self.client.received()
    }

    /// Asks what any server answers at once, and waits for it so long. Whether it did shows in
    /// [`Link::received`].
    pub(super) async fn knock(&self, patience: Duration) {
        let request = Request::new().timeout(Some(patience));
        let asking = self.client.send_request(NOBODY, request);
        let _ = tokio::time::timeout(patience, asking).await;
    }

    /// Gives the connection up for another one, once, whoever finds it dead.
    pub(super) async fn make_anew(&self) {
        let this_one = *self.lost.borrow() + 1;
        if self.given_up.swap(this_one, Ordering::Relaxed) == this_one {
            return;
        }
        tracing::warn!("NATS connection silent: reconnecting");
        self.client.force_reconnect().await;
    }
}

impl Leaving {
    /// The connection of this client.
    pub(super) fn of(&self, client: &Arc<async_nats::Client>) {
        // It is set once.
        let _ = self.0.set(Arc::downgrade(client));
    }

    /// Goes to another server, if one is known besides this one.
    pub(super) async fn leave(&self, servers: usize) {
        let Some(client) = self.0.get().and_then(Weak::upgrade) else {
            return;
        };
        if servers.max(client.server_info().connect_urls.len()) > 1 {
            tracing::info!("NATS server switched: connecting to another one");
            let _ = client.force_reconnect().await;
        }
    }
}
