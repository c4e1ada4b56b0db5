//! The connection as a link: whether it receives anything. Reconnects when the connection is dead without being closed,
//! or when its server announces that it is about to stop. Never decides by itself that a connection is dead.

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
use crate::nats::protocol::subjects::NO_LISTENER;

/// A connection. Clones share it.
#[derive(Clone)]
pub(in crate::nats) struct Link {
    client: Client,
    lost: watch::Receiver<u64>,
    /// Identifies the connection that was last abandoned: the number of losses before it, plus one. Each connection is
    /// abandoned once.
    abandoned: Arc<AtomicU64>,
}

/// Switches away from a server that is about to stop. The connection owns it, so it must not own the connection.
#[derive(Clone, Default)]
pub(in crate::nats) struct ServerSwitch(Arc<OnceLock<Weak<async_nats::Client>>>);

impl Link {
    pub(in crate::nats) fn new(client: &Client, lost: &watch::Receiver<u64>) -> Self {
        Self {
            client: client.clone(),
            lost: lost.clone(),
            abandoned: Arc::default(),
        }
    }

    /// How many bytes have been received, on all connections so far.
    pub(in crate::nats) fn received(&self) -> u64 {
        self.client.received()
    }

    /// Sends a request that any server answers at once, if only that there are no responders or that the user may not
    /// publish to it, and waits for the answer up to `timeout`. [`Link::received`] shows whether it came.
    pub(in crate::nats) async fn probe(&self, timeout: Duration) {
        let request = Request::new().timeout(Some(timeout));
        let probing = self.client.send_request(NO_LISTENER, request);
        let _ = tokio::time::timeout(timeout, probing).await;
    }

    /// Reconnects. It does so once per connection, however many callers find it dead.
    pub(in crate::nats) async fn make_anew(&self) {
        let this_one = *self.lost.borrow() + 1;
        if self.abandoned.swap(this_one, Ordering::Relaxed) == this_one {
            return;
        }
        tracing::warn!("NATS connection silent: reconnecting");
        self.client.force_reconnect().await;
    }
}

impl ServerSwitch {
    /// Sets the client of this connection.
    pub(in crate::nats) fn of(&self, client: &Arc<async_nats::Client>) {
        // It is set only once, so the result does not matter.
        let _ = self.0.set(Arc::downgrade(client));
    }

    /// Switches to another server, if another one is known.
    pub(in crate::nats) async fn leave(&self, servers: usize) {
        let Some(client) = self.0.get().and_then(Weak::upgrade) else {
            return;
        };
        if servers.max(client.server_info().connect_urls.len()) > 1 {
            tracing::info!("NATS server switched: connecting to another one");
            let _ = client.force_reconnect().await;
        }
    }
}
