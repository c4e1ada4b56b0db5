//! A cluster of three nats-servers.

use std::{net::TcpListener, sync::Arc, time::Duration};

use async_nats::jetstream;
use tidings::{Bus, NatsOptions, StreamSpec};
use tidings_test_servers::NatsServer;

use super::{events_stream, eventually};

pub struct Cluster {
    pub nodes: [Arc<NatsServer>; 3],
}

impl Cluster {
    /// Starts three servers; the streams of the tests have three replicas.
    pub async fn start() -> Self {
        // Another process may take a port between the check and the start of the server.
        for _ in 0..5 {
            let ports: [u16; 3] = std::array::from_fn(|_| free_port());
            let routes = ports.map(|port| format!("\"nats-route://127.0.0.1:{port}\""));
            let start = |port: u16| {
                NatsServer::options()
                    .config(format!(
                        "cluster {{\n name: tidings\n listen: \"127.0.0.1:{port}\"\n routes: [{}]\n}}",
                        routes.join(", ")
                    ))
                    .start()
            };
            let [a, b, c] = ports.map(start);
            if let (Ok(a), Ok(b), Ok(c)) = tokio::join!(a, b, c) {
                return Self {
                    nodes: [a, b, c].map(Arc::new),
                };
            }
        }
        panic!("no three servers on free ports");
    }

    pub fn urls(&self) -> Vec<String> {
        self.nodes.iter().map(|node| node.url()).collect()
    }

    /// A connection that fails over to another server of the cluster.
    pub async fn bus(&self) -> Bus {
        Bus::connect(NatsOptions::servers(self.urls()))
            .await
            .expect("a connection")
    }

    /// Creates the stream of events as soon as the servers have formed the cluster.
    pub async fn apply(&self, bus: &Bus, window: Duration) {
        let mut stream: StreamSpec = events_stream();
        stream.replicas = 3;
        stream.duplicate_window = window;
        eventually("a stream of three replicas", || async {
            bus.apply_stream(&stream).await.is_ok()
        })
        .await;
    }

    /// The same, with the internal streams of subscribers.
    pub async fn apply_all(&self, bus: &Bus, window: Duration) {
        self.apply(bus, window).await;
        for mut stream in StreamSpec::internal() {
            stream.replicas = 3;
            bus.apply_stream(&stream).await.expect("a stream");
        }
    }

    /// The server that leads the stream of events.
    pub async fn leader(&self) -> &NatsServer {
        let client = async_nats::connect(self.urls())
            .await
            .expect("a connection");
        let context = jetstream::new(client);
        let mut found = None;
        while found.is_none() {
            eventually("the stream has a leader", || async {
                context.get_stream("EVENTS").await.is_ok()
            })
            .await;
            let stream = context.get_stream("EVENTS").await.expect("the stream");
            let info = stream.cached_info().cluster.clone();
            let name = info.and_then(|info| info.leader).unwrap_or_default();
            found = self.nodes.iter().find(|node| {
                // The name of a server ends with its port.
                name.ends_with(&format!("-{}", node.port()))
            });
        }
        found.expect("the loop ends with it")
    }
}

/// A port below those that the kernel gives to clients, and apart from those of the test servers.
fn free_port() -> u16 {
    let random = uuid::Uuid::now_v7().as_u128();
    let mut ports = (0..10_000).map(|step| 10_000 + ((random + step) % 10_000) as u16);
    ports
        .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .expect("a free port")
}
